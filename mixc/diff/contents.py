"""Packs that two plans fill alike, whose tokens may differ all the same: another tokenizer, chat template or library.

Between two builds the packs are read. Between others the records of their samples are compared in the objects: what a pack holds
is its samples' records, image tokens expanded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.object import Object
from shards.build import StageReader
from shards.manifest import ShardEntry

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


def differing_bytes(a: StageReader, b: StageReader, differing: Int, *, alike: bool) -> Int:
    """Of the packs that both stages have, those whose bytes differ: int64, ascending. `differing` are those that the plans fill
    differently already. `alike`: nothing that tokens hang on differs, so packs that plans fill alike are the same, and none is
    read where the plans explain why a shard is another. Raises ShardError."""
    common = min(len(a), len(b))
    same = np.ones(common, bool)
    same[differing[differing < common]] = False
    theirs = {(first, shard.packs): shard.digest for first, shard in _shards(b.entry.shards)}
    for first, shard in _shards(a.entry.shards):
        last = min(first + shard.packs, common)
        if theirs.get((first, shard.packs)) == shard.digest or first >= last:
            continue
        if alike and not same[first:last].all():
            continue
        for pack in range(first, last):
            same[pack] = same[pack] and a.pack_bytes(pack) == b.pack_bytes(pack)
    return np.flatnonzero(~same)


def _shards(shards: Sequence[ShardEntry]) -> list[tuple[int, ShardEntry]]:
    firsts = np.cumsum([0, *(shard.packs for shard in shards)]).tolist()
    return list(zip(firsts, shards, strict=False))


def differing_records(
    a: Path,
    b: Path,
    stage_a: int,
    stage_b: int,
    differing: Int,
    objects_a: Sequence[Path | None],
    objects_b: Sequence[Path | None],
    suspects: Mapping[str, bool],
) -> Int:
    """As `differing_bytes`, of two plans: their placements.parquet, the stage's number in each, and the objects of their
    fragments, None for what is gone. `suspects` says of each source whose samples may have other records whether a sample with
    an image differs for sure. A sample whose object is gone counts as different."""
    left, right = (_rows(path, stage, differing) for path, stage in ((a, stage_a), (b, stage_b)))
    count = min(len(left), len(right))
    left, right = left.slice(0, count), right.slice(0, count)
    names = left["source"].to_pylist()
    rows = np.array([n for n, name in enumerate(names) if name in suspects], np.int64)
    packs = left["pack"].to_numpy()
    columns = [
        (table["fragment"].to_numpy(), table["offset"].to_numpy(), table["length"].to_numpy())
        for table in (left, right)
    ]
    images = left["images"].to_numpy()
    opened: dict[Path, Object] = {}

    def record(side: int, row: int) -> bytes | None:
        fragments, offsets, lengths = columns[side]
        path = (objects_a, objects_b)[side][fragments[row]]
        if path is None:
            return None
        words = opened.setdefault(path, Object(path)).words
        start = int(offsets[row]) // 4
        return words[start : start + int(lengths[row]) // 4].tobytes()

    found = set(differing.tolist())
    for row in rows.tolist():
        pack = int(packs[row])
        if pack in found:
            continue
        if images[row] and suspects[names[row]]:
            found.add(pack)
            continue
        before = record(0, row)
        if before is None or before != record(1, row):
            found.add(pack)
    return np.array(sorted(found), np.int64)


def _rows(path: Path, stage: int, differing: Int) -> pa.Table:
    """A stage's placements but those of `differing` packs, in order."""
    columns = ["pack", "source", "fragment", "offset", "length", "images"]
    table = pq.read_table(path, columns=columns, filters=[("stage", "=", stage)], partitioning=None)
    return table.filter(pa.array(~np.isin(table["pack"].to_numpy(), differing))) if len(differing) else table
