"""Which samples a stage may take, and which of them it does.

A *round* r of a source is its (r+1)-th visit to a sample: a sample that was used p times before (by earlier stages, or by
the run that the spec continues) takes part from round p on. Rounds are filled one after another; in a stage that counts
no earlier use, round r is epoch r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.plan.keys import key64, make_key
from mixc.plan.samples import Samples
from mixc.sorting import total_order

Int = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

UNITS = ("tokens", "supervised_tokens", "samples", "images")
"""What a share or a budget may count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRules:
    """What decides whether a sample can stand in a stage."""

    number: int
    name: str
    sequence_length: int
    max_tiles: int
    splits: Mapping[str, bool]
    """By source of the stage: whether a sample longer than sequence_length is cut into pieces."""


@dataclass(slots=True, kw_only=True)
class Offer:
    """What one source offers to one stage."""

    name: str
    index: int
    alive: int
    """Samples that no rule before the stage's own keeps out."""
    matching: int
    """Those that pass the stage's `where`."""
    passing: int
    """Those that are in its quantile too."""
    too_long: int
    """Of the latter, those that fit no pack."""
    eligible: Int
    """int64 [E]: the samples that the stage can use, ascending."""
    pieces: Array | None
    """uint32 [E]: of a source that is split."""
    sizes: Mapping[str, int]
    """Of the eligible samples, once each, by unit."""
    values: Array | None = None
    """uint64 [E]: the value of `order.by`, as a number that sorts like it."""
    nulls: Array | None = None
    """bool [E]: where that is NULL."""
    classes: Array | None = None
    """int64 [E]: the class by which the source is balanced."""
    class_names: list[str | None] = field(default_factory=list)
    prior: Array | None = None
    """uint32 [E]: earlier uses that count; None for none."""

    def units(self, samples: Samples, unit: str, which: Array | slice = slice(None)) -> Int:
        """Units int64 of eligible samples; a piece's first token is not supervised."""
        numbers = self.eligible[which]
        if unit == "samples":
            return np.ones(len(numbers), np.int64)
        column = {"tokens": samples.tokens, "supervised_tokens": samples.supervised, "images": samples.images}[unit]
        counts = column[numbers].astype(np.int64)
        if unit == "supervised_tokens" and self.pieces is not None:
            counts -= self.pieces[which].astype(np.int64) - 1
        return counts

    def used(self, samples: Samples, unit: str, max_epochs: Fraction, which: Array | slice = slice(None)) -> int:
        """Units of the cap of eligible samples that earlier uses took."""
        if self.prior is None:
            return 0
        uses, units = self.prior[which].astype(np.int64), self.units(samples, unit, which)
        beyond = uses > floor(max_epochs)
        return int((uses[~beyond] * units[~beyond]).sum()) + floor(max_epochs * int(units[beyond].sum()))


@dataclass(slots=True, kw_only=True)
class Chosen:
    """(sample, round) pairs of one source, as `choose` gives them."""

    which: Int
    """int64 [C]: index into `Offer.eligible`."""
    epoch: Array
    """uint32 [C]: the round."""
    units: int
    """Of the share's unit, in all."""


def choose(
    samples: Samples, offer: Offer, members: Int | None, *, seed: int, stage: str, unit: str, target: int
) -> Chosen:
    """What comes nearest to `target` units of the source's eligible samples `members` (None: all).

    Whole rounds as long as they fit; then, of the next, in the order of its 'select' keys, the shortest prefix whose
    units are nearest to what is left. The keys hang on (seed, stage, round, id) alone, so neither another source nor
    another share changes the order, and a smaller target takes a prefix of what a larger takes.
    """
    which = np.arange(len(offer.eligible)) if members is None else members
    units = offer.units(samples, unit, which)
    prior = None if offer.prior is None else offer.prior[which]
    size, rest, number = int(units.sum()), target, 0
    parts: list[tuple[Int, int]] = []
    taken = 0
    while rest > 0 and size > 0:
        inside = slice(None) if prior is None else prior <= number
        own, own_units = which[inside], units[inside]
        available = int(own_units.sum())
        if 0 < available <= rest:
            parts.append((own, number))
            rest -= available
            taken += available
        elif available:
            prefix, upto = _prefix(samples, offer.eligible[own], own_units, rest, seed=seed, stage=stage, round=number)
            if len(prefix):
                parts.append((own[prefix], number))
                taken += upto
            break
        number += 1
    if not parts:
        return Chosen(which=np.zeros(0, np.int64), epoch=np.zeros(0, np.uint32), units=0)
    return Chosen(
        which=np.concatenate([part for part, _ in parts]),
        epoch=np.concatenate([np.full(len(part), number, np.uint32) for part, number in parts]),
        units=taken,
    )


def _prefix(
    samples: Samples, numbers: Int, units: Int, rest: int, *, seed: int, stage: str, round: int
) -> tuple[Int, int]:
    """The shortest prefix nearest to `rest`, ties to the shorter: positions and units; empty when nothing is as near."""
    hi, lo = samples.hi[numbers], samples.lo[numbers]
    order = total_order([key64(make_key(seed, "select", stage, round), hi, lo), hi, lo])
    sums = np.cumsum(units[order])
    above = int(np.searchsorted(sums, rest))  # the first prefix that reaches `rest`
    candidates = [0]
    if above:
        candidates.append(int(np.searchsorted(sums, sums[above - 1])) + 1)
    if above < len(sums):
        candidates.append(above + 1)
    count = min(candidates, key=lambda n: (abs((int(sums[n - 1]) if n else 0) - rest), n))
    return order[:count], int(sums[count - 1]) if count else 0
