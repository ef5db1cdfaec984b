"""A plan's placements as what a diff needs of them: a fingerprint a pack, and a row a use of a sample.

The table is read once, row group by row group on a few threads, and of its twenty columns ten; no row of it is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.diff.ids import find, run_starts, sort_ids
from mixc.hashing import mix64
from mixc.plan.load import id_halves
from shards.digest import source_key

Array = npt.NDArray[Any]

COLUMNS = ("stage", "pack", "place", "source", "id", "epoch", "piece", "piece_start", "piece_end", "weight")
"""What decides a pack's bytes, but for how its samples were tokenized: order.py sees to that."""
_LANES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
"""Where the two halves of a fingerprint begin: any two different odd numbers (here 2^64 / golden ratio, and Steele and Vigna's
second)."""


_SLICE = 1 << 14
"""Rows that are mixed at a time, which stay in a core's cache."""


@dataclass(slots=True)
class Placements:
    """One plan. `packs` counts a stage's packs, empty ones included, by stage."""

    fingerprints: list[Array]
    """By stage, uint64 [packs, 2]: two packs of equal rows have equal ones, two of different rows nearly never (1 in 2^128).
    An empty pack has 0, 0."""
    hi: Array
    """uint64 [U], of all uses, that is (sample, stage, epoch): sorted by id, then in the order of training."""
    lo: Array
    stage: Array
    """uint16 [U]."""
    pack: Array
    """uint32 [U]: of the use's first piece."""
    source: Array
    """uint16 [U]: index into `sources`."""
    tokens: Array
    """uint32 [U], of all pieces."""
    row: Array
    """uint32 [U]: in the table, of the use's first piece."""
    starts: Array
    """int64 [S]: where each sample's uses begin."""
    sources: list[str]

    @property
    def ids(self) -> tuple[Array, Array]:
        """Halves uint64 [S] of the different samples' ids, sorted."""
        return self.hi[self.starts], self.lo[self.starts]


def read_placements(path: Path, packs: Sequence[int], sources: Sequence[str]) -> Placements:
    """Read placements.parquet. `packs`: of each stage; `sources`: every name that may occur, in the order of their numbers."""
    bases = np.concatenate([[0], np.cumsum(packs)]).astype(np.int64)
    prints = np.zeros((int(bases[-1]), 2), np.uint64)
    keys = {name: (number, np.uint64(source_key(name))) for number, name in enumerate(sources)}
    count = pq.read_metadata(path).num_row_groups
    threads = min(os.cpu_count() or 1, max(1, count))

    def read(group: int) -> _Part:
        with pq.ParquetFile(path, read_dictionary=["source"]) as file:
            return _part(file.read_row_group(group, columns=list(COLUMNS), use_threads=False), bases, keys)

    found: list[_Part] = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(read, range(count)):
            prints[part.packs] += part.prints  # a pack may go over the end of a row group: its parts add up
            part.prints = part.prints[:0]
            found.append(part)
    rows = np.cumsum([0, *(part.rows for part in found)])
    row = np.concatenate([np.zeros(0, np.uint32), *(p.at + np.uint32(n) for p, n in zip(found, rows, strict=False))])

    def joined(name: str, kind: type[np.unsignedinteger[Any]]) -> Array:
        return np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in found)])

    order, hi, lo = sort_ids(joined("hi", np.uint64), joined("lo", np.uint64))
    row = row[order]
    stage, pack = joined("stage", np.uint16)[order], joined("pack", np.uint32)[order]
    source, tokens = joined("source", np.uint16)[order], joined("tokens", np.uint32)[order]
    starts = run_starts(hi, lo)
    later = [part.later for part in found if len(part.later)]
    if later:
        _add_pieces(np.concatenate(later), hi, lo, starts, tokens)
    return Placements(
        fingerprints=[prints[bases[n] : bases[n + 1]] for n in range(len(packs))],
        hi=hi,
        lo=lo,
        stage=stage,
        pack=pack,
        source=source,
        tokens=tokens,
        row=row.astype(np.uint32),
        starts=starts,
        sources=list(sources),
    )


_PIECE = np.dtype([("hi", "u8"), ("lo", "u8"), ("end", "u4")])


@dataclass(slots=True)
class _Part:
    """A row group. Arrays of uses have a row for each first piece."""

    rows: int
    packs: Array
    prints: Array
    hi: Array
    lo: Array
    stage: Array
    pack: Array
    source: Array
    tokens: Array
    at: Array
    later: Array
    """_PIECE: the other pieces of split samples."""


def _part(table: pa.Table, bases: Array, keys: dict[str, tuple[int, np.uint64]]) -> _Part:
    column = {name: table[name].combine_chunks() for name in COLUMNS}
    hi, lo = id_halves(column["id"])
    names = column["source"]
    known = [keys[name] for name in names.dictionary.to_pylist()]
    codes = names.indices.to_numpy()
    numbers = np.array([number for number, _ in known], np.uint16)[codes]
    source = np.array([key for _, key in known], np.uint64)[codes]
    plain = {n: column[n].to_numpy() for n in COLUMNS if n not in ("id", "source")}
    wide = {n: plain[n].astype(np.uint64) for n in ("place", "epoch", "piece", "piece_start", "piece_end")}
    high = np.uint64(32)
    words = (
        hi,
        lo,
        source,
        wide["place"] << high | wide["epoch"],
        wide["piece"] << high | plain["weight"].view(np.uint32),
        wide["piece_start"] << high | wide["piece_end"],
    )
    pack = bases[plain["stage"]] + plain["pack"]
    starts = np.flatnonzero(np.concatenate([[True], pack[1:] != pack[:-1]])) if len(pack) else pack[:0]
    prints = np.empty((len(starts), 2), np.uint64)
    mixed = np.empty(len(pack), np.uint64)
    for lane, seed in enumerate(_LANES):
        for begin in range(0, len(pack), _SLICE):
            part = slice(begin, begin + _SLICE)
            own = mix64(words[0][part] ^ seed)
            for word in words[1:]:
                own = mix64(own ^ word[part])
            mixed[part] = own
        prints[:, lane] = np.add.reduceat(mixed, starts) if len(starts) else mixed
    at = np.flatnonzero(plain["piece"] == 0)
    whole = len(at) == len(pack)
    first = slice(None) if whole else at
    later = np.zeros(0 if whole else len(pack) - len(at), _PIECE)
    if not whole:
        others = np.flatnonzero(plain["piece"])
        later["hi"], later["lo"], later["end"] = hi[others], lo[others], plain["piece_end"][others]
    return _Part(
        rows=len(pack),
        packs=pack[starts],
        prints=prints,
        hi=hi[first],
        lo=lo[first],
        stage=plain["stage"][first],
        pack=plain["pack"][first],
        source=numbers[first],
        tokens=plain["piece_end"][first],
        at=at.astype(np.uint32),
        later=later,
    )


def _add_pieces(later: Array, hi: Array, lo: Array, starts: Array, tokens: Array) -> None:
    """A split sample has the tokens that its last piece ends at. Stages of several lengths split alike in that."""
    of = find(later["hi"], later["lo"], hi[starts], lo[starts])
    ends = np.zeros(len(starts), np.uint32)
    known = of >= 0
    np.maximum.at(ends, of[known], later["end"][known])
    longest = np.repeat(ends, np.diff(np.append(starts, len(hi))))
    np.maximum(tokens, longest, out=tokens)
