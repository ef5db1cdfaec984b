"""Quantities as people write them, as exact numbers: `4B tokens`, `16M samples`, `1.5 epochs`, `10k`, `3%`.

A number is digits with an optional decimal part; `_` may separate digits. Suffixes are decimal: k = 10^3,
M = 10^6, B = 10^9, T = 10^12. No float is involved: `0.3B` is exactly 300,000,000 and `1.0000000001B` is
an error, not a rounding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from mixc.errors import SpecError
from mixc.spec.diagnostics import printable, suggest
from mixc.spec.schema import Unit

BudgetUnit = Literal["tokens", "supervised_tokens", "samples", "images", "epochs"]
BUDGET_UNITS: tuple[str, ...] = get_args(BudgetUnit)

SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
LARGEST = (1 << 63) - 1
"""The plan's counters are signed 64-bit integers in DuckDB."""

_NUMBER = r"(?P<whole>[0-9]+(?:_[0-9]+)*)(?:\.(?P<part>[0-9]+(?:_[0-9]+)*))?"
_QUANTITY = re.compile(rf"\s*(?P<sign>[+-]?){_NUMBER}\s*(?P<rest>%|[A-Za-z][A-Za-z_ ]*)?\s*")
MAX_LENGTH = 100
"""Characters of a quantity."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a stage's mix is trained. `amount` is above 0; only epochs may have a fraction."""

    amount: int | Fraction
    unit: BudgetUnit

    def __str__(self) -> str:
        return f"{_decimal(Fraction(self.amount))} {self.unit}"


def parse_budget(value: str | int, unit: Unit) -> Budget:
    """A stage's `budget`; a bare number counts `unit`. Raises SpecError."""
    number, suffix, word = _split(value, "a budget", "`4B tokens`, `16M samples` or `2 epochs`")
    name = word.replace(" ", "_") or unit
    if name not in BUDGET_UNITS and f"{name}s" in BUDGET_UNITS:
        name = f"{name}s"
    if name not in BUDGET_UNITS:
        raise SpecError(
            f"`{printable(str(value))}` has no known unit",
            mend=f"{suggest(name, BUDGET_UNITS)}; units are {', '.join(BUDGET_UNITS)}",
        )
    amount = number * suffix
    if amount <= 0:
        raise SpecError(f"a budget must be above 0, got `{printable(str(value))}`")
    if name == "epochs":
        _bound(amount, value)
        return Budget(int(amount) if amount.denominator == 1 else amount, "epochs")
    return Budget(_whole(amount, value, name), name)  # type: ignore[arg-type]


def parse_count(value: str | int, noun: str = "samples") -> int:
    """A number of things, as in an order's `window`: `10k`, `10_000`, `10k samples`. At least 1. Raises
    SpecError."""
    number, suffix, word = _split(value, f"a number of {noun}", "`10k` or `10_000`")
    if word not in ("", noun, noun.removesuffix("s")):
        raise SpecError(
            f"`{printable(str(value))}` should count {noun}", mend=f"write the number alone, or with `{noun}`"
        )
    count = _whole(number * suffix, value, noun)
    if count < 1:
        raise SpecError(f"a number of {noun} must be at least 1, got `{printable(str(value))}`")
    return count


def parse_warmup(value: str | int, what: str = "a warm-up") -> int | Fraction:
    """A stage's `warmup`, or another part of it in steps, `what` in messages: a number (`2000`, `2k steps`) as an int, or a share
    of the stage (`3%`) as a Fraction in [0, 1]. Raises SpecError."""
    number, suffix, word = _split(value, what, "`3%` or `2k steps`")
    if number < 0:
        raise SpecError(f"{what} must be at least 0, got `{printable(str(value))}`")
    if word == "%":
        if number > 100:
            raise SpecError(f"{what} of {printable(str(value))} is longer than its stage", mend="at most 100%")
        return number / 100
    if word not in ("", "step", "steps"):
        raise SpecError(
            f"{what} counts steps, got `{printable(str(value))}`",
            mend="write `3%` of the stage, or `2k steps`",
        )
    amount = number * suffix
    if not word and 0 < amount < 1:
        raise SpecError(
            f"{what} of {printable(str(value))} steps",
            mend=f"write {_decimal(amount * 100)}% for a share of the stage",
        )
    return _whole(amount, value, "steps")


def format_warmup(warmup: int | Fraction) -> str:
    """The shortest text that `parse_warmup` reads as this."""
    return f"{warmup} steps" if isinstance(warmup, int) else f"{_decimal(warmup * 100)}%"


def parse_held_out(value: str | int) -> int | Fraction:
    """What of a source no stage may touch: a number of samples (`500 samples`, `10k samples`) as an int, or a share of
    the source (`1%`) as a Fraction in (0, 1). Raises SpecError."""
    number, suffix, word = _split(value, "an amount to hold out", "`500 samples` or `1%`")
    if word == "%":
        if not 0 < number < 100:
            raise SpecError(
                f"what is held out must be above 0% and below 100%, got `{printable(str(value))}`",
                mend="leave the source out of every mix to train on none of it" if number >= 100 else "",
            )
        return number / 100
    if word not in ("sample", "samples"):
        raise SpecError(
            f"`{printable(str(value))}` must be in samples or a percentage", mend="write `500 samples` or `1%`"
        )
    count = _whole(number * suffix, value, "samples")
    if count < 1:
        raise SpecError(f"what is held out must be at least 1 sample, got `{printable(str(value))}`")
    return count


def format_held_out(amount: int | Fraction) -> str:
    """The shortest text that `parse_held_out` reads as this."""
    return f"{amount} samples" if isinstance(amount, int) else f"{_decimal(amount * 100)}%"


def as_written(number: float) -> Fraction:
    """The number that its writer meant: 0.7 is 7/10, not the binary fraction nearest to it."""
    return Fraction(repr(number))


def _split(value: str | int, what: str, example: str) -> tuple[Fraction, int, str]:
    """(number, factor of its suffix, the word after it or `%` or nothing)."""
    text = str(value)
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise SpecError(f"`{printable(text)}` is not {what}", mend=f"write {example}")
    digits = (match["whole"] + (match["part"] or "")).replace("_", "")
    number = Fraction(int(digits), 10 ** len((match["part"] or "").replace("_", "")))
    number = -number if match["sign"] == "-" else number
    rest = (match["rest"] or "").strip()
    if rest == "%":
        return number, 1, rest
    head, _, tail = rest.partition(" ")
    if head in SUFFIXES:
        return number, SUFFIXES[head], " ".join(tail.split())
    if len(head) == 1:
        raise SpecError(
            f"`{printable(text)}` has no known suffix `{head}`",
            mend="k is 10^3, M 10^6, B 10^9 and T 10^12",
        )
    return number, 1, " ".join(rest.split())


def _whole(amount: Fraction, value: str | int, noun: str) -> int:
    if amount.denominator != 1:
        raise SpecError(f"`{printable(str(value))}` is not a whole number of {noun}")
    _bound(amount, value)
    return int(amount)


def _bound(amount: Fraction, value: str | int) -> None:
    if amount > LARGEST:
        raise SpecError(f"`{printable(str(value))}` is beyond 2^63")


def _decimal(number: Fraction) -> str:
    """Digits of a number that has finitely many, which all parsed quantities have."""
    whole, rest = divmod(number, 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
        assert len(digits) <= MAX_LENGTH + 2, "not a decimal number"
    return f"{whole}.{digits}" if digits else str(whole)
