"""Why samples that a plan uses elsewhere do not stand in some of its stages: by the plan's own kept_out table.

Samples there go by fragment and row, so those that are asked for are first looked up in the placements. Both tables are read row
group by row group, and only where a stage's rules kept out anything of a source that is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.diff.placements import Placements
from mixc.plan.drops import STAGE_RULES
from mixc.plan.judge import BUDGET

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]

RULES = (STAGE_RULES[BUDGET], *(name for code, name in STAGE_RULES.items() if code != BUDGET))
"""By the codes that `stage_rules` gives: 0 is the budget, which keeps out what passes every rule."""


def stage_rules(
    plan: Path, placements: Placements, samples: Int, wanted: Collection[tuple[int, str]]
) -> dict[int, Array] | None:
    """By stage, which rule keeps each of `samples` (numbers [M] of the placements' different ones) out of it, uint8 [M] codes of
    RULES. A stage without an entry keeps out none of them but by its budget. `wanted`: numbers of stages and sources; of others
    nothing is read. None of a plan of an earlier version, which has no such table."""
    path = plan / "kept_out.parquet"
    if not path.exists():
        return None
    found: dict[int, Array] = {}
    with pq.ParquetFile(path, read_dictionary=["source", "rule"]) as file:
        groups = [n for n in range(file.metadata.num_row_groups) if _has(file, n, wanted)]
        if not groups or not len(samples):
            return found
        keys, most = _places(plan / "placements.parquet", placements.row[placements.starts[samples]])
        order = np.argsort(keys)
        ordered = keys[order]
        for number in groups:
            table = file.read_row_group(number, columns=["stage", "rule", "fragment", "row"])
            row = table["row"].to_numpy()
            kept = np.flatnonzero(row <= most)
            own = _keys(table["fragment"].to_numpy()[kept], row[kept], most)
            place = np.minimum(np.searchsorted(ordered, own), len(ordered) - 1)
            hit = np.flatnonzero(ordered[place] == own)
            rule = table["rule"].combine_chunks()
            codes = np.array([RULES.index(name) for name in rule.dictionary.to_pylist()], np.uint8)
            rules = codes[rule.indices.to_numpy()][kept[hit]]
            stages = table["stage"].to_numpy()[kept[hit]]
            for stage in np.unique(stages).tolist():
                of_stage = stages == stage
                codes_of = found.setdefault(stage, np.zeros(len(samples), np.uint8))
                codes_of[order[place[hit[of_stage]]]] = rules[of_stage]
    return found


def _has(file: pq.ParquetFile, group: int, wanted: Collection[tuple[int, str]]) -> bool:
    """Whether a row group has anything of the wanted stages and sources: two columns that are nearly constant."""
    table = file.read_row_group(group, columns=["stage", "source"])
    source = table["source"].combine_chunks()
    stages = table["stage"].to_numpy().astype(np.int64)
    names = source.dictionary.to_pylist()
    pairs = np.unique(stages * len(names) + source.indices.to_numpy())
    return any((pair // len(names), names[pair % len(names)]) in wanted for pair in pairs.tolist())


def _keys(fragment: Array, row: Array, most: int) -> Array:
    """A number uint64 for each fragment and row, where no row is above `most`. It would overflow only where there were more rows
    than 2^64."""
    return fragment.astype(np.uint64) * np.uint64(most + 1) + row.astype(np.uint64)


def _places(path: Path, rows: Array) -> tuple[Array, int]:
    """Keys uint64 [M] of the placements at `rows` of the table, and the greatest row in its fragment among them."""
    order = np.argsort(rows)
    parts = [
        (table["fragment"].to_numpy(), table["row"].to_numpy()) for table in _taken(path, rows[order].astype(np.int64))
    ]
    fragment, row = (np.concatenate(own) for own in zip(*parts, strict=True))
    most = int(row.max())
    keys = np.empty(len(rows), np.uint64)
    keys[order] = _keys(fragment, row, most)
    return keys, most


def _taken(path: Path, rows: Int) -> Iterator[pa.Table]:
    """Rows of the table, given ascending, row group by row group."""
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            begin, end = np.searchsorted(rows, [first, last])
            if end > begin:
                yield file.read_row_group(group, columns=["fragment", "row"]).take(rows[begin:end] - first)
            first = last
