"""Shares of sources from the shares of a mix: groups dissolved, temperatures applied, all of it exact.

An entry of a mix is a source or a group. Its weight is the one given or, without weights, its size (a group's is that of
all sources in it). Entries are tempered, then normalised; a group's share is then divided among its members by their
weights within the group, or by their sizes where the group is a list, and so on down. The order of names never matters:
sums are of Fractions.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from mixc.errors import PlanError
from mixc.plan.allocate import normalise
from mixc.spec.groups import Groups, Route, reach
from mixc.spec.quantity import as_written
from mixc.spec.schema import MixEntry

DIGITS = 40
"""Significant decimal digits of a tempered weight."""
_WORKING = decimal.Context(
    prec=DIGITS + 20, rounding=decimal.ROUND_HALF_EVEN, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[]
)
_FINAL = decimal.Context(
    prec=DIGITS, rounding=decimal.ROUND_HALF_EVEN, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source's part in a stage."""

    start: Fraction
    """Share at the stage's start; all sources' add up to 1."""
    end: Fraction
    """Share at its end, likewise; equal to `start` in a stage without `mix_end`."""
    entry: MixEntry
    """Of the mix, its own or that of the group through which it is reached: where, max_epochs, quantile, balance."""
    route: Route
    """Names from the mix's entry down to the source."""

    @property
    def share(self) -> Fraction:
        """Of the whole stage."""
        return (self.start + self.end) / 2


def tempered(weights: Mapping[str, Fraction], temperature: Fraction) -> dict[str, Fraction]:
    """Weights w as w^(1/temperature), up to a common factor; 0 stays 0.

    As in mT5 (arXiv:2010.11934, section 3.2: p proportional to |L|^alpha, alpha = 1/temperature) and multilingual BERT.
    The power is irrational, so it is defined by arithmetic that is the same everywhere: x, the weight over the sum of
    all, goes to exp(ln(x) / temperature) in decimal arithmetic of 60 digits, every operation correctly rounded, half to
    even (the General Decimal Arithmetic specification, which Python's `decimal` implements), and is then rounded to 40.
    At temperature 1 the weights are returned as they are.

    ValueError for a temperature below 1, a negative weight, or nothing but zeros.
    """
    if temperature < 1:
        raise ValueError("a temperature must be at least 1")
    shares = normalise(dict(weights))
    if temperature == 1:
        return dict(weights)
    return {name: _root(share, temperature) for name, share in shares.items()}


def _root(share: Fraction, temperature: Fraction) -> Fraction:
    """share^(1/temperature) as in `tempered`."""
    if share == 0:
        return share
    logarithm = _WORKING.ln(_decimal(share))
    return Fraction(_FINAL.plus(_WORKING.exp(_WORKING.divide(logarithm, _decimal(temperature)))))


def _decimal(number: Fraction) -> decimal.Decimal:
    return _WORKING.divide(decimal.Decimal(number.numerator), decimal.Decimal(number.denominator))


def flatten(
    mix: Mapping[str, MixEntry],
    groups: Groups,
    sizes: Mapping[str, int] | None = None,
    *,
    end: Mapping[str, float] | None = None,
    temperature: Fraction = Fraction(1),
) -> dict[str, Part]:
    """The parts of all sources of a stage, by name in sorted order.

    `sizes`, by source, in the unit of the shares, are needed where shares follow sizes: ValueError without them. `end` is
    the stage's `mix_end`. The spec has passed `check`: what it would have refused is a ValueError here. PlanError where a
    share would be divided by sizes that are all 0.
    """
    found = reach(mix, groups)
    if found.twice or found.cycles or found.deep:
        raise ValueError(f"names with several places in a mix: {found}")
    weights = {name: as_written(entry.weight) for name, entry in mix.items() if entry.weight is not None}
    if weights and weights.keys() != mix.keys():
        raise ValueError("some entries of the mix have weights, others none")
    if not weights:
        weights = {name: Fraction(_size(name, groups, sizes)) for name in mix}
        _require(weights, "the mix")
    begin = normalise(tempered(weights, temperature))
    finish = begin
    if end is not None:
        if end.keys() != mix.keys():
            raise ValueError("`mix_end` has other names than the mix")
        finish = normalise(tempered({name: as_written(weight) for name, weight in end.items()}, temperature))
    within: dict[Route, dict[str, Fraction]] = {}  # shares of a group's members, by the group's route
    parts = {}
    for source, route in sorted(found.sources.items()):
        portion = Fraction(1)
        for depth in range(1, len(route)):
            group = route[:depth]
            if group not in within:
                within[group] = _members(group[-1], groups, sizes)
            portion *= within[group][route[depth]]
        top = route[0]
        parts[source] = Part(start=begin[top] * portion, end=finish[top] * portion, entry=mix[top], route=route)
    return parts


def _members(group: str, groups: Groups, sizes: Mapping[str, int] | None) -> dict[str, Fraction]:
    """Shares within a group."""
    members = groups[group]
    if isinstance(members, Mapping):
        return normalise({name: as_written(weight) for name, weight in members.items()})
    weights = {name: Fraction(_size(name, groups, sizes)) for name in members}
    _require(weights, f"group `{group}`")
    return normalise(weights)


def _size(name: str, groups: Groups, sizes: Mapping[str, int] | None) -> int:
    """Of a source, or of all in a group."""
    if sizes is None:
        raise ValueError("shares follow sizes, which are not given")
    return sum(sizes[source] for source in reach([name], groups).sources)


def _require(weights: Mapping[str, Fraction], what: str) -> None:
    if not any(weights.values()):
        raise PlanError(
            f"{what} divides its share by size, and its sources hold nothing of what the shares count",
            mend="count another unit, give weights, or relax the thresholds of its sources",
        )
