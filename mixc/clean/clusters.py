"""Near-duplicates among many signatures: who gives way to whom.

1. Locality-sensitive hashing (Indyk, Motwani, STOC 1998; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
   chapter 3): a signature is cut into bands of r places; two that agree in a whole band are candidates. At similarity
   s, b bands find a pair with probability 1 - (1 - s^r)^b. r is the largest at which that is at least 99 % at the
   threshold.
2. In each band, the samples of one bucket stand by rank. Each is compared with the bucket's first and with the one
   before it: so a bucket of n costs 2n comparisons, not n^2, be it a million copies of one text. A pair of which
   at least threshold * K places agree is an edge.
3. In the order of rank, a sample that has an edge to a kept sample of lower rank is dropped, and the lowest of these is
   its winner. So what is dropped is nearly its winner, never merely linked to it through others, as in connected
   components, where chains of small differences swallow what is far apart.

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
from mixc.hashing import mix64
from mixc.sorting import total_order

Int = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

RECALL = Fraction(99, 100)
"""Of pairs just at the threshold, what part the bands are to find."""
BLOCK = 1 << 18
"""Signatures whose band is hashed at a time: bounds memory."""


def bands(permutations: int, threshold: float) -> tuple[int, int]:
    """(number of bands, places a band): the longest bands that find RECALL of the pairs at the threshold."""
    similarity = Fraction(repr(float(threshold)))
    for rows in range(permutations, 1, -1):
        number = permutations // rows
        if 1 - (1 - similarity**rows) ** number >= RECALL:
            return number, rows
    return permutations, 1


def near_duplicates(signatures: U32, ranks: Int, *, threshold: float) -> Int:
    """The sample that stays in the place of each: int64 [N], its own number for one that stays itself.

    `signatures` uint32 [N, K]; `ranks` int64 [N], distinct: the lower wins.
    """
    count, permutations = signatures.shape
    number, rows = bands(permutations, threshold)
    enough = ceil(Fraction(repr(float(threshold))) * permutations)
    some = np.flatnonzero((signatures != NOTHING).any(axis=1)) if count else np.zeros(0, np.int64)
    edges = [np.zeros((2, 0), np.int64)]
    for band in range(number):
        keys = _band_keys(signatures, some, band * rows, rows)
        order = total_order([keys, ranks[some]])
        members, keys = some[order], keys[order]
        edges.append(_edges(signatures, members, keys, enough))
    return keep(np.concatenate(edges, axis=1), ranks)


def keep(edges: Int, ranks: Int) -> Int:
    """Winners int64 [N] for pairs of like samples, int64 [2, E], in any order and direction."""
    low = np.where(ranks[edges[0]] < ranks[edges[1]], edges[0], edges[1])
    high = edges[0] + edges[1] - low
    order = np.lexsort([ranks[low], ranks[high]])
    winners = np.arange(len(ranks))
    _keep_kernel()(low[order], high[order], winners)
    return winners


def _band_keys(signatures: U32, some: Int, first: int, rows: int) -> U64:
    keys = np.empty(len(some), np.uint64)
    for start in range(0, len(some), BLOCK):
        part = signatures[some[start : start + BLOCK], first : first + rows].astype(np.uint64)
        key = np.zeros(len(part), np.uint64)
        for row in range(rows):
            key = mix64(key + part[:, row] + np.uint64(0x9E3779B97F4A7C15))
        keys[start : start + BLOCK] = key
    return keys


def _edges(signatures: U32, members: Int, keys: U64, enough: int) -> Int:
    pairs = np.empty((2, 2 * len(members)), np.int64)
    count = _edge_kernel()(signatures, members, keys, enough, pairs)
    return pairs[:, :count].copy()


@functools.cache
def _edge_kernel() -> Callable[..., int]:
    import numba
    from numba.extending import register_jitable

    register_jitable(_alike)
    return numba.njit(cache=True, nogil=True)(_find_edges)


@functools.cache
def _keep_kernel() -> Callable[..., None]:
    import numba

    return numba.njit(cache=True, nogil=True)(_keep)


def _alike(one: Any, other: Any, enough: Any) -> bool:
    equal = 0
    for j in range(len(one)):
        equal += one[j] == other[j]
    return bool(equal >= enough)


def _find_edges(signatures: Any, members: Any, keys: Any, enough: Any, pairs: Any) -> int:
    count = 0
    first = 0
    for i in range(1, len(members)):
        if keys[i] != keys[first]:
            first = i
            continue
        mine = signatures[members[i]]
        if _alike(signatures[members[first]], mine, enough):
            pairs[0, count], pairs[1, count] = members[first], members[i]
            count += 1
        elif i - 1 != first and _alike(signatures[members[i - 1]], mine, enough):
            pairs[0, count], pairs[1, count] = members[i - 1], members[i]
            count += 1
    return count


def _keep(low: Any, high: Any, winners: Any) -> None:
    """Edges by the rank of `high`, then of `low`: whether `low` stays is settled before it is asked."""
    for e in range(len(low)):
        if winners[high[e]] == high[e] and winners[low[e]] == low[e]:
            winners[high[e]] = low[e]
