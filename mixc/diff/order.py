"""The order of training on both sides: the first step that differs, and from where a run of A may go on as B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.diff.difference import Continuation, Order, Overlap, Place, Point, StageOrder
from mixc.diff.placements import Placements
from mixc.plan.tables import StagePlan

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


def differing_packs(a: Array, b: Array) -> Int:
    """Numbers int64 of the packs whose fingerprints [packs, 2] differ, of those that both sides have."""
    common = min(len(a), len(b))
    return np.flatnonzero((a[:common] != b[:common]).any(axis=1))


def stage_order(stage: str, a: StagePlan | None, b: StagePlan | None, differing: Int) -> StageOrder:
    """Compare one stage. `differing` int64, ascending: packs of the common ones that are not the same."""
    if a is None or b is None:
        steps_a, steps_b = a.steps if a else 0, b.steps if b else 0
        return StageOrder(
            first_difference=Place(stage=stage, step=0, pack=0),
            steps_a=steps_a,
            steps_b=steps_b,
            equal_steps=0,
            equal_share=0.0,
        )
    common, longest = min(a.steps, b.steps), max(a.steps, b.steps)
    first: int | None = int(differing[0]) if len(differing) else None
    if a.batch != b.batch:  # the first step has packs on one side that it has not on the other
        smaller = min(a.batch, b.batch)
        first = smaller if first is None else min(first, smaller)
        equal = 0
    else:
        equal = common - len(np.unique(differing[differing < common * a.batch] // a.batch))
        if first is None and a.steps != b.steps:  # one is the other's beginning
            first = common * a.batch
    return StageOrder(
        first_difference=None if first is None else Place(stage=stage, step=first // max(a.batch, b.batch), pack=first),
        steps_a=a.steps,
        steps_b=b.steps,
        equal_steps=equal,
        equal_share=equal / longest if longest else 1.0,
    )


def whole_order(stages: Mapping[str, StageOrder], first: Place | None, continuation: Continuation | None) -> Order:
    """The stages' orders together. `first` is the first difference in the order of training."""
    steps = sum(max(order.steps_a, order.steps_b) for order in stages.values())
    equal = sum(order.equal_steps for order in stages.values())
    return Order(
        first_difference=first,
        stages=dict(stages),
        steps=steps,
        equal_steps=equal,
        equal_share=equal / steps if steps else 1.0,
        continuation=continuation,
    )


def first_difference(
    names_a: Sequence[str], names_b: Sequence[str], stages: Mapping[str, StageOrder]
) -> tuple[Place | None, int]:
    """The first pack in the order of training that differs, and the number of stages before it, which are the same. Stages that
    stand at another place differ from their first step on."""
    for number, (name_a, name_b) in enumerate(zip(names_a, names_b, strict=False)):
        if name_a != name_b:
            return Place(stage=name_b if name_b not in names_a else name_a, step=0, pack=0), number
        if (place := stages[name_a].first_difference) is not None:
            return place, number
    number = min(len(names_a), len(names_b))
    longer = [*names_a[number:], *names_b[number:]]
    return (Place(stage=longer[0], step=0, pack=0) if longer else None), number


def point(place: Place | None, before: int, plans: Sequence[StagePlan], names: Sequence[str]) -> Point:
    """The point of A's run at which `place` lies, `before` whole stages into it; the end of the run for none."""
    steps = sum(plan.steps for plan in plans[:before])
    if place is not None and before < len(plans):
        inside = place.step if names[before] == place.stage else 0
        if inside or not before:
            return Point(stage=names[before], step=inside, steps=steps + inside)
    last = max(0, before - 1)
    return Point(stage=names[last], step=plans[last].steps if before else 0, steps=steps)


def overlaps(
    a: Placements,
    b: Placements,
    matched: Int,
    before: int,
    first_pack: int,
    names_a: Sequence[str],
) -> list[Overlap]:
    """How many of the samples that B trains from the first difference on, A has trained between there and the end of each of its
    stages. `matched`: of each sample of A its number in B, or -1. The difference is `before` whole stages and, in the next one, `first_pack` packs into both."""

    def later(side: Placements) -> Array:
        rows: Array = (side.stage > before) | ((side.stage == before) & (side.pack >= first_pack))
        return rows

    left, right = np.flatnonzero(later(a)), later(b)
    use = np.add.reduceat(right.astype(np.int64), b.starts) > 0 if len(b.starts) else np.zeros(0, bool)
    if not len(left):
        return []
    sample = np.cumsum(np.bincount(a.starts, minlength=len(a.hi)))[left] - 1
    earliest = np.full(len(a.starts), np.iinfo(np.uint16).max, np.uint16)
    np.minimum.at(earliest, sample, a.stage[left])
    common = np.flatnonzero(matched >= 0)
    trained = np.sort(earliest[common[use[matched[common]]]])
    return [
        Overlap(
            stage=names_a[number],
            samples=int(use.sum()),
            repeated=int(np.searchsorted(trained, number, "right")),
        )
        for number in range(before, len(names_a))
    ]
