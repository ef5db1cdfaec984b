"""The diff: two sides in, one document out, level by level from cause to effect."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixc.diff import composition, order
from mixc.diff.causes import Evidence, judge, reading_differs
from mixc.diff.changed import Canonical, Renames, find_renames, rename
from mixc.diff.contents import differing_bytes, differing_records
from mixc.diff.difference import (
    Continuation,
    Difference,
    Distribution,
    Level,
    Order,
    Rows,
    SampleCounts,
    SourceChange,
    StageOrder,
)
from mixc.diff.ids import find
from mixc.diff.moved import MovedSide
from mixc.diff.placements import Placements, read_placements
from mixc.diff.rows import Files, compare_files, compare_rows, read_rows, same_columns
from mixc.diff.selection import Selected, compare_selection
from mixc.diff.side import Side, open_side
from mixc.diff.signals import distributions
from mixc.measure.template import TEMPLATES, template_named, template_of
from mixc.plan.database import shared_database
from mixc.plan.tables import StagePlan
from mixc.spec.changes import changes

Array = npt.NDArray[Any]


def diff(a: str | Path, b: str | Path, *, workers: int | None = 1) -> Difference:
    """Compare two of spec, build and lock, on the disk or in git (`open_side` says how they are named). Raises MixcError or
    ShardError when a side cannot be read or planned."""
    with tempfile.TemporaryDirectory(prefix="mixc-diff-") as scratch:
        folder = Path(scratch)
        with (
            shared_database(folder / "database") as shared,
            open_side(str(a), folder / "a", workers=workers, shared=shared) as side_a,
            open_side(str(b), folder / "b", workers=workers, shared=shared) as side_b,
        ):
            return compare(side_a, side_b)


def compare(a: Side, b: Side) -> Difference:
    """The whole difference of two sides. B's sources and stages go by A's names where they were only renamed."""
    renames = find_renames(a.spec, b.spec)
    spec_b = rename(b.spec, renames)
    files = _files(a, b, renames)
    stages_a, stages_b = a.stages(), _renamed_stages(b, renames)
    settings = changes(*_comparable(a.settings(), _renamed_settings(b, renames)))
    rows, columns = _rows(a, b, spec_b, files, renames)
    unknown: dict[Level, str] = {}
    samples: SampleCounts | None = None
    ordered: Order | None = None
    same_stages: set[str] = set()
    planned = a.plan is not None and b.plan is not None
    if a.plan is not None and b.plan is not None:
        plans = _Plans(a, b, stages_a, stages_b)
        ordered = plans.order(set(_moved_stages(settings)))
        same_stages = {
            name
            for name, found in ordered.stages.items()
            if found.first_difference is None and name not in _moved_stages(settings)
        }
        samples = plans.samples(a.spec, spec_b)
    else:
        why = "; ".join(f"{side.label}: {side.unplanned}" for side in (a, b) if side.plan is None)
        unknown |= {"rows": why, "selection": why, "composition": why, "order": why, "signals": why}
    equal: bool | None = None
    if a.root and b.root:
        equal = a.root == b.root
    elif ordered is not None:
        equal = ordered.first_difference is None and not settings and list(a.stages()) == list(b.stages())
    verdict = judge(
        a,
        b,
        spec_b,
        renames,
        Evidence(
            equal=equal,
            same_stages=same_stages,
            same_training={n for n in stages_a.keys() & stages_b.keys() if _train(a, b, renames, n)},
            same_threshold=partial(_same_threshold, a, b, renames, files),
            files=files,
            rows=rows,
            columns=columns,
        ),
    )
    shown: list[Distribution] = []
    if samples is not None and samples.added + samples.removed + samples.moved + samples.repeated:
        common = sorted((a.spec["sources"].keys() & b.spec["sources"].keys()) & _touched(samples))
        shown, why = distributions(a, b, common)
        if why:
            unknown["signals"] = why
    same = not verdict.causes if equal is None else equal
    whole, by_stage = composition.distances(stages_a, stages_b) if planned else (None, {})
    return Difference(
        a=a.about,
        b=b.about,
        equal=same,
        causes=verdict.causes,
        possible=verdict.possible,
        no_effect=verdict.no_effect,
        unknown={} if same else unknown,
        spec=changes(a.spec, b.spec),
        settings=settings,
        sources=_sources(a, b, renames, files, rows),
        samples=samples,
        stages=composition.stage_changes(stages_a, stages_b) if planned else [],
        composition=composition.compositions(stages_a, stages_b) if planned else [],
        distance=whole,
        distances=by_stage,
        distributions=shown,
        order=ordered,
    )


class _Plans:
    """Both plans, read."""

    def __init__(self, a: Side, b: Side, stages_a: Mapping[str, StagePlan], stages_b: Mapping[str, StagePlan]) -> None:
        assert a.plan is not None and b.plan is not None
        self.a, self.b, self.stages_a, self.stages_b = a, b, stages_a, stages_b
        self.plan_a, self.plan_b = a.plan, b.plan
        sources = sorted({fragment.source for side in (a, b) for fragment in side.fragments})
        with ThreadPoolExecutor(2) as pool:  # to sort one side while the other is read
            reading = [
                pool.submit(self._read, plan, stages, sources)
                for plan, stages in ((self.plan_a, stages_a), (self.plan_b, stages_b))
            ]
            self.placed_a, self.placed_b = (each.result() for each in reading)
        self.matched = find(*self.placed_a.ids, *self.placed_b.ids)
        self.names = composition.joint(list(stages_a), list(stages_b))

    @staticmethod
    def _read(plan: Path, stages: Mapping[str, StagePlan], sources: list[str]) -> Placements:
        return read_placements(plan / "placements.parquet", [stage.packs for stage in stages.values()], sources)

    def order(self, unlike: set[str]) -> Order:
        """`unlike`: stages whose settings differ."""
        names_a, names_b = list(self.stages_a), list(self.stages_b)
        suspects = _suspects(self.a, self.b)
        found: dict[str, StageOrder] = {}
        for name in self.names:
            before, after = self.stages_a.get(name), self.stages_b.get(name)
            packs = np.zeros(0, np.int64)
            if before is not None and after is not None:
                packs = self._differing(names_a.index(name), names_b.index(name), suspects)
            found[name] = order.stage_order(name, before, after, packs)
        first, whole = order.first_difference(names_a, names_b, found)
        continuation = None
        plans = list(self.stages_a.values())
        data = order.point(first, whole, plans, names_a)
        settled = next(
            (n for n, pair in enumerate(zip(names_a, names_b, strict=False)) if pair[0] in unlike), len(plans)
        )
        if "" in unlike:
            settled = 0
        training = data if settled >= whole and not (settled == whole and data.stage in unlike) else None
        if first is not None or unlike:
            if training is None:
                training = order.point(None, min(settled, whole), plans, names_a)
            overlap = []
            if first is not None:
                pack = first.step * (plans[whole].batch if whole < len(plans) else 1)
                overlap = order.overlaps(self.placed_a, self.placed_b, self.matched, whole, pack, names_a)
            continuation = Continuation(data=data, training=training, overlap=overlap)
        return order.whole_order(found, first, continuation)

    def _differing(self, stage_a: int, stage_b: int, suspects: Mapping[str, bool]) -> npt.NDArray[np.int64]:
        """Packs of a stage that differ: by what they hold, or by its tokens."""
        packs = order.differing_packs(self.placed_a.fingerprints[stage_a], self.placed_b.fingerprints[stage_b])
        if self.a.build and self.b.build:
            left, right = (
                side.build.stage(side.build.manifest.stages[number].name)
                for side, number in ((self.a, stage_a), (self.b, stage_b))
                if side.build
            )
            if left.entry.digest == right.entry.digest:
                return packs[:0]
            alike = not suspects and self.a.versions == self.b.versions
            return differing_bytes(left, right, packs, alike=alike)
        if not suspects:
            return packs
        return differing_records(
            self.plan_a / "placements.parquet",
            self.plan_b / "placements.parquet",
            stage_a,
            stage_b,
            packs,
            [fragment.object for fragment in self.a.fragments],
            [fragment.object for fragment in self.b.fragments],
            suspects,
        )

    def samples(self, spec_a: Canonical, spec_b: Canonical) -> SampleCounts:
        joint = {name: number for number, name in enumerate(self.names)}
        a, b = (
            Selected(
                placements=placed,
                plan=plan,
                stages=[joint[name] for name in stages],
                files=[fragment.path for fragment in side.fragments],
                moved=MovedSide(
                    plan=plan,
                    placements=placed,
                    stages=stages,
                    other=other,
                    spec=spec,
                    spec_of_other=spec_of_other,
                    no_stage=no_stage,
                ),
            )
            for side, plan, placed, stages, other, spec, spec_of_other, no_stage in (
                (self.a, self.plan_a, self.placed_a, self.stages_a, self.stages_b, spec_a, spec_b, "new_stage"),
                (self.b, self.plan_b, self.placed_b, self.stages_b, self.stages_a, spec_b, spec_a, "gone_stage"),
            )
        )
        return compare_selection(a, b, self.matched, self.names)


def _files(a: Side, b: Side, renames: Renames) -> dict[str, Files]:
    """Of every source of both, by A's name."""
    names_b = {renames.sources.get(name, name): name for name in b.spec["sources"]}
    return {
        name: compare_files(a.of_source(name), b.of_source(names_b[name]))
        for name in sorted(a.spec["sources"].keys() & names_b.keys())
    }


def _rows(
    a: Side, b: Side, spec_b: Canonical, files: Mapping[str, Files], renames: Renames
) -> tuple[dict[str, Rows], dict[str, bool | None]]:
    """Rows and columns of the sources whose files or reading differ. Of a renamed source every id differs, so none is compared."""
    if a.plan is None or b.plan is None:
        return {}, {}
    wanted = [
        name
        for name, found in files.items()
        if name not in renames.sources.values()
        and (not found.same_content or reading_differs(a.spec["sources"][name], spec_b["sources"][name]))
    ]
    if not wanted:
        return {}, {}
    before, after = read_rows(a.plan, wanted), read_rows(b.plan, wanted)
    paths_a, paths_b = ([fragment.path for fragment in side.fragments] for side in (a, b))
    rows, columns = {}, {}
    for name in wanted:
        rows[name] = compare_rows(before[name], after[name], paths_a, paths_b)
        found = files[name]
        if rows[name].changed or rows[name].added or rows[name].removed:
            continue
        if found.same_content:
            columns[name] = same_columns(a.of_source(name), b.of_source(name))
        else:
            columns[name] = same_columns(found.rest_a, found.rest_b)
    return rows, columns


def _sources(
    a: Side, b: Side, renames: Renames, files: Mapping[str, Files], rows: Mapping[str, Rows]
) -> dict[str, SourceChange]:
    names_b = {renames.sources.get(name, name): name for name in b.spec["sources"]}
    found = {}
    for name in sorted(a.spec["sources"].keys() | names_b.keys()):
        before = a.of_source(name) if name in a.spec["sources"] else []
        after = b.of_source(names_b[name]) if name in names_b else []
        same = files.get(name) or compare_files(before, after)
        if same.same_content and name in files:
            continue
        reading = name in files and reading_differs(a.spec["sources"][name], b.spec["sources"][names_b[name]])
        found[name] = SourceChange(
            added=same.added,
            removed=same.removed,
            changed=same.changed,
            renamed=same.renamed,
            kept=same.kept,
            samples_a=sum(fragment.samples for fragment in before),
            samples_b=sum(fragment.samples for fragment in after),
            rejects_a=sum(fragment.rejects for fragment in before),
            rejects_b=sum(fragment.rejects for fragment in after),
            rows=None if reading else rows.get(name),
        )
    return found


def _suspects(a: Side, b: Side) -> dict[str, bool]:
    """Sources whose samples may become other tokens on both sides, though they are the same samples; and whether every image of
    them does."""
    found = {}
    for name in sorted(a.spec["sources"].keys() & b.spec["sources"].keys()):
        if _tokens_key(a, name) != _tokens_key(b, name):
            images = [
                None
                if side.geometry is None
                else (
                    side.geometry.tokens_per_tile,
                    side.geometry.image_start_id,
                    side.geometry.image_end_id,
                    side.geometry.image_context_id,
                )
                for side in (a, b)
            ]
            found[name] = images[0] != images[1]
    return found


def _tokens_key(side: Side, source: str) -> tuple[object, ...]:
    """All that makes tokens of a sample, beside what its id covers."""
    form = side.spec["sources"][source]
    if form["kind"] == "text":
        return (side.tokenizer,)
    named, models = form.get("template"), template_of(side.template)
    if named is None:
        template = side.template
    elif named in TEMPLATES and models is not None:
        template = template_named(named, think=models.think).digest
    else:
        template = f"{named} {side.template}"
    return side.tokenizer, template, None if side.geometry is None else msgspec.structs.replace(side.geometry, name="")


def _same_threshold(a: Side, b: Side, renames: Renames, files: Mapping[str, Files], source: str) -> bool:
    """Whether a source's `where` drops the same samples on both sides, of the same content."""
    if a.plan is None or b.plan is None or source in renames.sources.values() or not files[source].same_content:
        return False
    if reading_differs(a.spec["sources"][source], b.spec["sources"][source]):
        return False
    dropped = []
    for plan in (a.plan, b.plan):
        table = pq.ParquetFile(plan / "drops.parquet").read(columns=["source", "id", "rule"])
        own = pc.and_(pc.equal(table["source"], source), pc.equal(table["rule"], "where"))
        dropped.append(table.filter(own)["id"].combine_chunks())
    return bool(_storage(dropped[0]).equals(_storage(dropped[1])))


def _storage(ids: Any) -> pa.Array:
    return ids.storage


def _renamed_stages(b: Side, renames: Renames) -> dict[str, StagePlan]:
    """B's stages under A's names, sources too."""
    return {
        renames.stages.get(name, name): msgspec.structs.replace(
            stage,
            sources={renames.sources.get(source, source): part for source, part in stage.sources.items()},
        )
        for name, stage in b.stages().items()
    }


def _renamed_settings(b: Side, renames: Renames) -> dict[str, Any]:
    old = {f"stages.{new}": f"stages.{name}" for new, name in renames.stages.items()}
    return {old.get(key, key): value for key, value in b.settings().items()}


def _comparable(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of settings of which one side is not all known, those that both know."""
    if "geometry" in a and "geometry" in b:
        return a, b
    common = a.keys() & b.keys()
    return {key: a[key] for key in sorted(common)}, {key: b[key] for key in sorted(common)}


def _moved_stages(settings: list[Any]) -> set[str]:
    """Stages whose settings differ; the empty name stands for all."""
    found = set()
    for change in settings:
        head, _, rest = change.path.partition(".")
        found.add(rest.split(".")[0] if head == "stages" else "")
    return found


def _train(a: Side, b: Side, renames: Renames, stage: str) -> bool:
    names_b = {renames.stages.get(name, name): name for name in b.train}
    return a.train[stage] == b.train[names_b[stage]]


def _touched(samples: SampleCounts) -> set[str]:
    """Sources whose selection differs."""
    return {move.source for move in samples.moves} | {
        each.source for some in samples.examples.values() for each in some
    }
