"""How many rows of a source may be unusable, as a spec says it."""

from __future__ import annotations

from math import ceil

from mixc.spec.schema import MAX_REJECT_RATE

KEY = "max_reject_rate"


def rate_for(bad: int, rows: int) -> float:
    """The least rate of two digits that lets `bad` of `rows` pass, and no less than the default."""
    rate = ceil(100 * bad / rows) / 100
    return max(MAX_REJECT_RATE, rate if bad <= rate * rows else round(rate + 0.01, 2))


def likely_rate(bad: int, rows: int) -> float:
    """A rate for all of a source, of whose first `rows` so many are bad: with room for those that were not read."""
    return min(1.0, ceil(10 * bad / rows + 1) / 10)


def mend(bad: int, rows: int) -> str:
    """What to do about `bad` of `rows`, of which the first are known."""
    if bad == rows:
        return "mend the data, or what the spec says of it"
    return (
        f"mend the data, or what the spec says of it; or let that many pass: `{KEY}: {rate_for(bad, rows):g}` at the top level of the"
        " spec, beside `seed`"
    )
