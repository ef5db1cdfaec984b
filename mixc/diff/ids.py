"""Sets of 128-bit ids as sorted arrays of their halves: sorting and matching tens of millions in a second or two.

Pure. An id is (hi, lo), uint64 each, sorted as its bytes are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.sorting import ranges

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


def sort_ids(hi: Array, lo: Array) -> tuple[Int, Array, Array]:
    """The order int64 [N] that sorts ids, equal ones as they came, and both halves in it.

    Ids are digests, so their first bits nearly tell them apart: those are sorted as plain numbers with the row in the bits below,
    which is eight times as fast as an argsort and leaves equal ids in their order. What only the later bits tell apart is few.
    """
    bits = np.uint64(max(1, (len(hi) - 1).bit_length()))
    keys = (hi >> bits << bits) | np.arange(len(hi), dtype=np.uint64)
    keys.sort()
    order = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    first = keys >> bits
    same = first[1:] == first[:-1]
    del keys, first
    hi, lo = hi[order], lo[order]
    unlike = same & ((hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1]))
    if unlike.any():
        edges = np.flatnonzero(~same)  # the last row of each run of equal first bits
        for end in np.unique(np.searchsorted(edges, np.flatnonzero(unlike))).tolist():
            run = slice(int(edges[end - 1]) + 1 if end else 0, int(edges[end]) + 1 if end < len(edges) else len(order))
            again = np.lexsort([order[run], lo[run], hi[run]])
            order[run], hi[run], lo[run] = order[run][again], hi[run][again], lo[run][again]
    return order, hi, lo


def run_starts(hi: Array, lo: Array) -> Int:
    """Where each id of sorted ids [N] begins, int64."""
    if not len(hi):
        return np.zeros(0, np.int64)
    new = np.ones(len(hi), bool)
    new[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
    return np.flatnonzero(new)


def find(hi: Array, lo: Array, among_hi: Array, among_lo: Array) -> Int:
    """For each id the place of it, the first, in the sorted ids `among`; -1 where it is not. int64 [N]."""
    if not len(among_hi):
        return np.full(len(hi), -1, np.int64)
    place = np.searchsorted(among_hi, hi)
    inside = np.minimum(place, len(among_hi) - 1)
    equal = among_hi[inside] == hi
    found = equal & (among_lo[inside] == lo)
    for row in np.flatnonzero(equal & ~found).tolist():  # first halves that are equal by chance
        end = int(np.searchsorted(among_hi, hi[row], "right"))
        at = int(place[row]) + int(np.searchsorted(among_lo[int(place[row]) : end], lo[row]))
        if at < end and among_lo[at] == lo[row]:
            inside[row], found[row] = at, True
    return np.where(found, inside, -1)


def first_of_each(groups: Array, hi: Array, lo: Array, count: int) -> Int:
    """Rows of the `count` least ids of each group, by group and id, int64. `groups` int64 [N] are small numbers."""
    order = np.lexsort([lo, hi, groups])
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else ordered[:0]
    lengths = np.diff(np.append(starts, len(ordered)))
    return order[ranges(starts.astype(np.int64), np.minimum(lengths, count).astype(np.int64))]


def hexadecimal(hi: int, lo: int) -> str:
    """An id as people and `mixc explain` write it."""
    return f"{int(hi):016x}{int(lo):016x}"
