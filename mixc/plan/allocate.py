"""How much of each source a stage takes: exact integer budgets from shares, sizes, caps and a policy.

Everything here is a Fraction or an int, so that a plan never depends on rounding. docs/planning.md derives
the rules; in short, with `weight` w, `size` n (what one epoch of the source holds, in the unit of the
shares), `rate` r (units of the budget in a unit of the shares, 1 where they are the same) and cap c =
max_epochs * n, the ideal amount of a source is

    x = w * level                 fail, repeat, shorten
    x = min(w * level, c)         renormalise

where `level`, the same for all sources, is the one at which the amounts meet the budget, sum(x * r) = budget,
or for `shorten` the highest at which no x exceeds its c, if that is lower. The integers are the floors of x,
and the floor(sum x) - sum(floor x) units left go one each to the largest remainders, ties to the name that
sorts first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal

Policy = Literal["fail", "repeat", "renormalise", "shorten"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one source brings to a stage."""

    name: str
    weight: Fraction
    """Its share, unnormalised, not negative."""
    size: int
    """Units of the shares in its eligible samples, once each."""
    budget_size: int
    """Units of the budget in them; equal to `size` where the budget counts what the shares count."""
    max_epochs: Fraction
    used: int = 0
    """Units of the shares that earlier stages, or the run that is continued, took of the cap."""

    @property
    def cap(self) -> Fraction:
        """Units of the shares that the source may still give."""
        return max(Fraction(0), self.max_epochs * self.size - self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A source that cannot fill its share within its cap."""

    name: str
    wanted: Fraction
    """Units of the shares."""
    available: Fraction
    """The cap."""
    epochs: Fraction
    """What it would take, earlier uses included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    shares: dict[str, Fraction]
    """As wished; they add up to 1."""
    targets: dict[str, int]
    """Units of the shares to take from each source."""
    shortfalls: tuple[Shortfall, ...]
    """Sources beyond their cap, by name. Under `fail` the caller must stop; under the others it is for the
    report."""
    unmet: Fraction
    """Units of the budget that no source can give (`renormalise` with every source at its cap, `shorten`)."""


def normalise(weights: dict[str, Fraction]) -> dict[str, Fraction]:
    """Weights over their sum. ValueError when one is negative or all are zero."""
    total = sum(weights.values(), Fraction(0))
    if total <= 0 or any(weight < 0 for weight in weights.values()):
        raise ValueError("weights must not be negative, and at least one must be positive")
    return {name: weight / total for name, weight in weights.items()}


def largest_remainder(ideal: dict[str, Fraction]) -> dict[str, int]:
    """Integers that add up to floor(sum of ideal), each the floor of its ideal or one more.

    Hamilton's method; equal remainders are served in the order of their names. An ideal that is whole is
    kept.
    """
    whole = {name: floor(value) for name, value in ideal.items()}
    spare = floor(sum(ideal.values(), Fraction(0))) - sum(whole.values())
    by_remainder = sorted(ideal, key=lambda name: (whole[name] - ideal[name], name))
    for name in by_remainder[:spare]:
        whole[name] += 1
    return whole


def epoch_budget(epochs: Fraction, demands: Sequence[Demand]) -> int:
    """A budget in epochs as units of the shares, rounded down: all that is eligible, `epochs` times; of a source that was
    used before no more than it may still give."""
    return floor(
        sum(
            (min(epochs * each.size, each.cap) if each.used else epochs * each.size for each in demands),
            Fraction(0),
        )
    )


def allocate(demands: Sequence[Demand], *, budget: int, policy: Policy) -> Allocation:
    """Divide `budget` over the sources. The order of `demands` does not matter.

    ValueError when nothing is demanded, a name appears twice, or a source with a positive weight has no
    units.
    """
    demands = sorted(demands, key=lambda demand: demand.name)
    if len({demand.name for demand in demands}) != len(demands):
        raise ValueError("a source appears twice")
    if any(demand.weight > 0 and demand.size <= 0 for demand in demands):
        raise ValueError("a source with a share has no units to give")
    shares = normalise({demand.name: demand.weight for demand in demands})
    active = [demand for demand in demands if demand.weight > 0]
    rate = {demand.name: Fraction(demand.budget_size, demand.size) for demand in active}
    cap = {demand.name: demand.cap for demand in active}
    speed = sum((shares[demand.name] * rate[demand.name] for demand in active), Fraction(0))
    if speed == 0:
        raise ValueError("the sources hold nothing of what the budget counts")

    level = Fraction(budget) / speed
    wanted = {demand.name: shares[demand.name] * level for demand in active}
    shortfalls = tuple(
        Shortfall(
            name=demand.name,
            wanted=wanted[demand.name],
            available=cap[demand.name],
            epochs=(wanted[demand.name] + demand.used) / demand.size,
        )
        for demand in active
        if wanted[demand.name] > cap[demand.name]
    )
    if policy == "shorten" and shortfalls:
        level = min(cap[demand.name] / shares[demand.name] for demand in active)
        wanted = {demand.name: shares[demand.name] * level for demand in active}
    elif policy == "renormalise" and shortfalls:
        wanted = _fill(shares, rate, cap, Fraction(budget))

    reached = sum((wanted[name] * rate[name] for name in wanted), Fraction(0))
    ideal = {demand.name: wanted.get(demand.name, Fraction(0)) for demand in demands}
    return Allocation(
        shares=shares,
        targets=largest_remainder(ideal),
        shortfalls=shortfalls,
        unmet=Fraction(budget) - reached,
    )


def _fill(
    shares: dict[str, Fraction], rate: dict[str, Fraction], cap: dict[str, Fraction], budget: Fraction
) -> dict[str, Fraction]:
    """Amounts min(share * level, cap) at the level where sum(amount * rate) = budget; all caps if that is out
    of reach.

    The sum is piecewise linear in the level, with a knee where a source meets its cap: walk the knees in
    order.
    """
    knees = sorted(cap, key=lambda name: (cap[name] / shares[name], name))
    capped = Fraction(0)  # units of the budget from sources at their caps
    speed = sum((shares[name] * rate[name] for name in knees), Fraction(0))  # of those below
    for name in knees:
        knee = cap[name] / shares[name]
        if capped + speed * knee >= budget:
            break
        capped += cap[name] * rate[name]
        speed -= shares[name] * rate[name]
    else:
        return dict(cap)
    level = (budget - capped) / speed  # speed > 0: at 0 the knee before would have reached the budget
    return {name: min(shares[name] * level, cap[name]) for name in knees}
