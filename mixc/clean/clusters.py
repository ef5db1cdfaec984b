"""Near-duplicates among many signatures: who gives way to whom.

Leader clustering (Hartigan, "Clustering Algorithms", 1975, chapter 3) in the order of rank, over locality-sensitive hashing
(Indyk, Motwani, STOC 1998; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3):

1. A signature is cut into bands of r places; two that agree in a whole band are candidates. At similarity s, b bands find
   a pair with probability 1 - (1 - s^r)^b. r is the largest at which that is at least 99 % at the threshold.
2. Samples come by rank, the lowest first. Each is compared with the candidates that stay; if at least threshold * K places
   agree with one, it is dropped, and the lowest of these is its winner. Else it stays and enters the bands' tables.

So what is dropped is nearly its winner, never merely linked to it through others, as in connected components, where
chains of small differences swallow what is far apart. And as only what stays is in the tables, a million copies of one text
cost a million comparisons. What stays in one bucket is unlike its neighbours there; of more than MOST the newest are
compared, so no input costs more than bands * MOST comparisons a sample.

The result is a function of the set of (signature, rank); ranks are distinct, and nothing hangs on the order of the input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.clean.minhash import NOTHING
from mixc.sorting import total_order
from mixc.spec.quantity import as_written
from shards.jit import jit

Int = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

RECALL = Fraction(99, 100)
"""Of pairs just at the threshold, what part the bands are to find."""
MOST = 64
"""Entries of a bucket that are looked at."""


def bands(permutations: int, threshold: float) -> tuple[int, int]:
    """(number of bands, places a band): the longest bands that find RECALL of the pairs at the threshold."""
    similarity = as_written(float(threshold))
    for rows in range(permutations, 1, -1):
        number = permutations // rows
        if 1 - (1 - similarity**rows) ** number >= RECALL:
            return number, rows
    return permutations, 1


def agreeing_places(permutations: int, threshold: float) -> int:
    """Places that must be equal in near-duplicates: the threshold as written, not as the nearest binary fraction."""
    return ceil(as_written(float(threshold)) * permutations)


def near_duplicates(signatures: U32, ranks: npt.NDArray[np.integer], *, threshold: float) -> Int:
    """The sample that stays in the place of each: int64 [N], its own number for one that stays itself.

    `signatures` uint32 [N, K]; `ranks` integers [N], distinct: the lower wins. Beside them it takes 8 bytes a band and
    sample.
    """
    count, permutations = signatures.shape
    number, rows = bands(permutations, threshold)
    heads, following = chains(number, count)
    winners = np.arange(count)
    enough = agreeing_places(permutations, threshold)
    _kernel()(signatures, total_order([ranks]), rows, enough, heads, following, winners)
    return winners


def chains(tables: int, count: int, key_bits: int = 64) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Empty hash tables for up to `count` entries: heads int32 [tables, 2^m], and what follows each, int32 [tables,
    count + 1]. Entries are numbered from 1; 0 ends a chain. Pages that are never used take no memory."""
    if count >= 1 << 31:
        raise ValueError(f"{count:,} samples are more than one table takes")
    size = 1 << min(key_bits, max(1, (count - 1).bit_length()))
    return np.zeros((tables, size), np.int32), np.empty((tables, count + 1), np.int32)


@functools.cache
def _kernel() -> Callable[..., None]:
    return jit(_lead, _agree)


def _agree(one: Any, other: Any) -> int:
    equal = 0
    for j in range(len(one)):
        equal += one[j] == other[j]
    return equal


def _lead(signatures: Any, order: Any, rows: Any, enough: Any, heads: Any, following: Any, winners: Any) -> None:
    tables, size = heads.shape
    slots = np.empty(tables, np.int64)
    places = np.empty(len(order) + 1, np.int64)  # in `order`, of the entries
    entries = 0
    for place in range(len(order)):
        mine = signatures[order[place]]
        if mine.min() == NOTHING:
            continue
        best = place
        for t in range(tables):
            key = np.uint64(0)
            for j in range(t * rows, t * rows + rows):
                key = (key + np.uint64(mine[j]) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            key = (key ^ (key >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            slots[t] = np.int64((key ^ (key >> np.uint64(32))) & np.uint64(size - 1))
            entry = heads[t, slots[t]]
            looked = 0
            while entry and looked < MOST:
                other = places[entry]
                if other < best and _agree(signatures[order[other]], mine) >= enough:
                    best = other
                entry = following[t, entry]
                looked += 1
        if best < place:
            winners[order[place]] = order[best]
        else:
            entries += 1
            places[entries] = place
            for t in range(tables):
                following[t, entries] = heads[t, slots[t]]
                heads[t, slots[t]] = entries
