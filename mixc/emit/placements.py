"""The plan's rows of one token shard, as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.digest import source_key

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]

_NUMBERS = (
    "pack", "epoch", "piece", "piece_start", "piece_end", "tokens", "images", "tiles", "fragment", "offset", "length",
)  # fmt: skip
_COLUMNS = ["stage", "pack", "source", "id", *_NUMBERS[1:], "weight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    """Where samples stand, in the order of packs and of places in them: arrays [P] of PLACEMENTS_SCHEMA's columns."""

    pack: I64
    """In its stage."""
    source: Array
    """uint64: the key of its name."""
    id: Array
    """V16."""
    epoch: I64
    piece: I64
    piece_start: I64
    piece_end: I64
    tokens: I64
    """Of this piece, images expanded."""
    images: I64
    tiles: I64
    fragment: I64
    offset: I64
    length: I64
    weight: Array
    """float32."""

    def __len__(self) -> int:
        return len(self.pack)


def read_placements(path: Path, *, stage: int, first: int, last: int) -> Placements:
    """The placements of packs [first, last) of a stage. Reads the row groups that can have some, and no other."""
    with pq.ParquetFile(path) as file:
        groups = list(_groups(file, stage, first, last))
        table = file.read_row_groups(groups, columns=_COLUMNS, use_threads=False)
    keys = np.stack([table["stage"].to_numpy(), table["pack"].to_numpy()]).astype(np.int64)
    place = (keys[0] << 32) + keys[1]  # the table is sorted by both
    begin, end = np.searchsorted(place, [(stage << 32) + first, (stage << 32) + last])
    table = table.slice(begin, end - begin).combine_chunks()
    return Placements(
        source=_source_keys(table["source"]),
        id=_ids(table["id"]),
        weight=table["weight"].to_numpy(),
        **{name: table[name].to_numpy().astype(np.int64) for name in _NUMBERS},
    )


def _groups(file: pq.ParquetFile, stage: int, first: int, last: int) -> Iterator[int]:
    at = {file.schema_arrow.names[i]: i for i in range(len(file.schema_arrow.names))}
    for group in range(file.num_row_groups):
        columns = file.metadata.row_group(group)
        stages, packs = (columns.column(at[name]).statistics for name in ("stage", "pack"))
        if stages is None or packs is None:  # of a group without rows
            yield group
            continue
        # of a group with several stages the packs are in no order
        one = stages.min == stages.max
        if stages.min <= stage <= stages.max and not (one and (packs.max < first or packs.min >= last)):
            yield group


def _source_keys(names: pa.ChunkedArray) -> Array:
    coded = names.combine_chunks().dictionary_encode()
    keys = np.array([source_key(name) for name in coded.dictionary.to_pylist()], np.uint64)
    own: Array = keys[coded.indices.to_numpy()]
    return own


def _ids(column: pa.ChunkedArray) -> Array:
    storage = column.combine_chunks().storage
    ids: Array = np.frombuffer(storage.buffers()[1] or b"", "V16", len(storage), 16 * storage.offset)
    return ids
