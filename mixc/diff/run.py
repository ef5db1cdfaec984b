"""The diff: two sides in, one document out, level by level from cause to effect."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from mixc.diff.plans import Place, Plans, SampleCounts, StageOrder
from mixc.diff.side import Side, open_side
from mixc.diff.values import Change, changes
from mixc.plan.tables import SourcePlan


class SideLabel(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    root: str | None


class SourceChange(msgspec.Struct, frozen=True, kw_only=True):
    """How the content of one source differs. Paths are where each side found a fragment."""

    added: list[str]
    removed: list[str]
    kept: int
    """Fragments of equal content, wherever they lie."""
    samples_a: int
    samples_b: int
    rejects_a: int
    rejects_b: int


class Composition(msgspec.Struct, frozen=True, kw_only=True):
    """One source in one stage, on both sides; None where it has no part."""

    stage: str
    source: str
    a: SourcePlan | None
    b: SourcePlan | None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    first_difference: Place | None
    """The first pack in the order of training that differs."""
    stages: dict[str, StageOrder]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    a: SideLabel
    b: SideLabel
    equal: bool
    """Whether a training run sees the same on both sides."""
    spec: list[Change]
    settings: list[Change]
    """What a training run sees beside packs: tokenizer, template, geometry, seed, training settings."""
    sources: dict[str, SourceChange]
    """Only those that differ."""
    samples: SampleCounts
    composition: list[Composition]
    """Only what differs."""
    order: Order


def diff(a: Path, b: Path, *, workers: int | None = 1) -> Difference:
    """Compare two of spec and build. Raises MixcError or ShardError when a side cannot be read or planned."""
    with tempfile.TemporaryDirectory(prefix="mixc-diff-") as scratch:
        folder = Path(scratch)
        with (
            open_side(a, folder / "a", workers=workers) as side_a,
            open_side(b, folder / "b", workers=workers) as side_b,
        ):
            return compare(side_a, side_b, folder / "spill")


def compare(a: Side, b: Side, spill: Path) -> Difference:
    stages_a, stages_b = a.stages(), b.stages()
    plans = Plans(a.plan, b.plan, list(stages_a), list(stages_b), spill)
    try:
        samples = plans.samples()
        orders = {}
        for name in [*stages_a, *(name for name in stages_b if name not in stages_a)]:
            here, there = stages_a.get(name), stages_b.get(name)
            orders[name] = plans.order(
                name,
                here.steps if here else 0,
                there.steps if there else 0,
                here.batch if here else (there.batch if there else 1),
                there.batch if there else (here.batch if here else 1),
            )
    finally:
        plans.close()
    settings = changes(a.settings(), b.settings())
    if a.build and b.build and a.root != b.root:
        orders = {name: _read_packs(a, b, name, order) for name, order in orders.items()}
    first = next((order.first_difference for order in orders.values() if order.first_difference), None)
    planned_equal = first is None and not settings and list(stages_a) == list(stages_b)
    return Difference(
        a=SideLabel(path=a.label, root=a.root),
        b=SideLabel(path=b.label, root=b.root),
        equal=a.root == b.root if a.root and b.root else planned_equal,
        spec=changes(a.spec, b.spec),
        settings=settings,
        sources=_sources(a, b),
        samples=samples,
        composition=_composition(a, b),
        order=Order(first_difference=first, stages=orders),
    )


def _read_packs(a: Side, b: Side, stage: str, order: StageOrder) -> StageOrder:
    """Where the plans agree but the shards do not (another library version tokenised, say), read the packs."""
    assert a.build and b.build
    entries = [next((s for s in side.build.manifest.stages if s.name == stage), None) for side in (a, b) if side.build]
    here, there = entries
    if order.first_difference or not here or not there or here.digest == there.digest:
        return order
    left, right = a.build.stage(stage), b.build.stage(stage)
    differing = [pack for pack in range(here.packs) if left.pack_bytes(pack) != right.pack_bytes(pack)]
    first = Place(stage=stage, step=differing[0] // here.batch, pack=differing[0])
    return msgspec.structs.replace(
        order,
        first_difference=first,
        equal_steps=here.steps - len({pack // here.batch for pack in differing}),
    )


def _sources(a: Side, b: Side) -> dict[str, SourceChange]:
    found = {}
    for name in sorted(a.fragments.keys() | b.fragments.keys()):
        before, after = a.fragments.get(name, {}), b.fragments.get(name, {})
        samples_a, samples_b = (sum(count for _, count in side.values()) for side in (before, after))
        if before.keys() == after.keys() and samples_a == samples_b:
            continue
        found[name] = SourceChange(
            added=sorted(after[digest][0] for digest in after.keys() - before.keys()),
            removed=sorted(before[digest][0] for digest in before.keys() - after.keys()),
            kept=len(before.keys() & after.keys()),
            samples_a=samples_a,
            samples_b=samples_b,
            rejects_a=sum(a.rejects.get(name, {}).values()),
            rejects_b=sum(b.rejects.get(name, {}).values()),
        )
    return found


def _composition(a: Side, b: Side) -> list[Composition]:
    stages_a, stages_b = a.stages(), b.stages()
    found = []
    for stage in [*stages_a, *(name for name in stages_b if name not in stages_a)]:
        before: dict[str, Any] = stages_a[stage].sources if stage in stages_a else {}
        after: dict[str, Any] = stages_b[stage].sources if stage in stages_b else {}
        found += [
            Composition(stage=stage, source=source, a=before.get(source), b=after.get(source))
            for source in sorted(before.keys() | after.keys())
            if before.get(source) != after.get(source)
        ]
    return found
