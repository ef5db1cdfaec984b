"""The sources on both sides: files by their content, and rows by the samples that they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixc.diff.difference import Renamed, RowChange, Rows
from mixc.diff.ids import find, hexadecimal, run_starts, sort_ids
from mixc.diff.side import SideFragment
from mixc.measure.object import FACTS
from mixc.plan.load import id_halves

Array = npt.NDArray[Any]
EXAMPLES = 5
"""Rows of each kind that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The fragments of one source on both sides."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    renamed: list[Renamed]
    kept: int
    rest_a: list[SideFragment]
    """Those whose content the other side has not."""
    rest_b: list[SideFragment]

    @property
    def same_content(self) -> bool:
        return not self.rest_a and not self.rest_b


def compare_files(a: Sequence[SideFragment], b: Sequence[SideFragment]) -> Files:
    """Fragments are the same by their digests, as often as each occurs; of those of one digest, those of one path belong
    together first."""
    exact = Counter((f.digest, f.path) for f in a) & Counter((f.digest, f.path) for f in b)
    rest_a, rest_b = _without(a, Counter(exact)), _without(b, Counter(exact))
    renamed = []
    free: dict[str, list[SideFragment]] = {}
    for fragment in rest_b:
        free.setdefault(fragment.digest, []).append(fragment)
    left = []
    for fragment in rest_a:
        if twins := free.get(fragment.digest):
            renamed.append(Renamed(a=fragment.path, b=twins.pop(0).path))
        else:
            left.append(fragment)
    right = [fragment for digest in sorted(free) for fragment in free[digest]]
    before, after = {f.path for f in left}, {f.path for f in right}
    return Files(
        added=sorted(after - before),
        removed=sorted(before - after),
        changed=sorted(before & after),
        renamed=sorted(renamed, key=lambda pair: (pair.a, pair.b)),
        kept=exact.total() + len(renamed),
        rest_a=left,
        rest_b=sorted(right, key=lambda f: (f.digest, f.path)),
    )


def _without(fragments: Sequence[SideFragment], taken: Counter[tuple[str, str]]) -> list[SideFragment]:
    found = []
    for fragment in fragments:
        if taken[fragment.digest, fragment.path]:
            taken[fragment.digest, fragment.path] -= 1
        else:
            found.append(fragment)
    return found


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Every sample of a source, sorted by id: its fragment's number and its row there."""

    hi: Array
    lo: Array
    fragment: Array
    row: Array


def read_rows(plan: Path, sources: Collection[str]) -> dict[str, SourceRows]:
    """The samples of some sources, from what a plan places and what it drops."""
    names = pa.array(sorted(sources), pa.string())
    parts: dict[str, list[pa.Table]] = {name: [] for name in sources}
    for table_name, columns in (
        ("placements", ["source", "id", "fragment", "row", "piece"]),
        ("drops", ["source", "id", "fragment", "row"]),
    ):
        with pq.ParquetFile(plan / f"{table_name}.parquet") as file:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                keep = pc.is_in(table["source"], names)
                if table_name == "placements":
                    keep = pc.and_(keep, pc.equal(table["piece"], 0))
                table = table.filter(keep).select(["source", "id", "fragment", "row"])
                for name in pc.unique(table["source"]).to_pylist():
                    parts[name].append(table.filter(pc.equal(table["source"], name)))
    found = {}
    for name, tables in parts.items():
        if not tables:
            empty = np.zeros(0, np.uint64)
            found[name] = SourceRows(empty, empty, empty.astype(np.uint32), empty)
            continue
        table = pa.concat_tables(tables)
        hi, lo = id_halves(table["id"].combine_chunks())
        order, hi, lo = sort_ids(hi, lo)
        once = run_starts(hi, lo)  # a sample that is used twice is one row
        order = order[once]
        found[name] = SourceRows(
            hi[once], lo[once], table["fragment"].to_numpy()[order], table["row"].to_numpy()[order]
        )
    return found


def compare_rows(a: SourceRows, b: SourceRows, paths_a: Sequence[str], paths_b: Sequence[str]) -> Rows:
    """Rows by the samples in them. `paths_*` are the paths of each plan's fragments."""
    there = find(a.hi, a.lo, b.hi, b.lo)
    gone = np.flatnonzero(there < 0)
    come = np.ones(len(b.hi), bool)
    come[there[there >= 0]] = False
    new = np.flatnonzero(come)
    places_a = {(paths_a[a.fragment[n]], int(a.row[n])): n for n in gone.tolist()}
    places_b = {(paths_b[b.fragment[n]], int(b.row[n])): n for n in new.tolist()}
    changed = sorted(places_a.keys() & places_b.keys())
    removed, added = sorted(places_a.keys() - places_b.keys()), sorted(places_b.keys() - places_a.keys())

    def example(place: tuple[str, int], kind: Any, *, in_a: bool, in_b: bool) -> RowChange:
        path, row = place
        before, after = places_a.get(place), places_b.get(place)
        return RowChange(
            change=kind,
            path_a=path if in_a else None,
            row_a=row if in_a else None,
            id_a=None if before is None or not in_a else hexadecimal(a.hi[before], a.lo[before]),
            path_b=path if in_b else None,
            row_b=row if in_b else None,
            id_b=None if after is None or not in_b else hexadecimal(b.hi[after], b.lo[after]),
        )

    return Rows(
        kept=len(a.hi) - len(gone),
        changed=len(changed),
        added=len(new) - len(changed),
        removed=len(gone) - len(changed),
        examples=[
            *(example(place, "changed", in_a=True, in_b=True) for place in changed[:EXAMPLES]),
            *(example(place, "added", in_a=False, in_b=True) for place in added[:EXAMPLES]),
            *(example(place, "removed", in_a=True, in_b=False) for place in removed[:EXAMPLES]),
        ],
    )


def same_columns(a: Sequence[SideFragment], b: Sequence[SideFragment]) -> bool | None:
    """Whether these fragments hold the same samples with the same columns, in whatever rows and files; None when an object is not
    in the cache."""
    found = []
    for side in (a, b):
        parts = []
        for fragment in side:
            if fragment.object is None:
                return None
            table = pq.ParquetFile(fragment.object / FACTS).read(columns=["id", "columns"])
            if table.num_rows:
                hi, lo = id_halves(table["id"].combine_chunks())
                parts.append(np.stack([hi, lo, table["columns"].to_numpy()]))
        rows = np.concatenate([np.zeros((3, 0), np.uint64), *parts], axis=1)
        found.append(rows[:, np.lexsort(rows[::-1])])
    return bool(np.array_equal(found[0], found[1]))
