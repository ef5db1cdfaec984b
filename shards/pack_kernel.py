"""The rules of a pack's tables, and its tokens out of ranks: compiled, for a loader does both for every pack it reads.

Tables are given as words: rows of u32, as they lie in a pack's bytes. What is compiled calls nothing of NumPy's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from shards.jit import jit

INFINITY = 0x7F800000
"""As the word of a 32-bit float. Beyond it stand what is not a number, and all that has a sign."""
SEGMENT_START, SEGMENT_WEIGHT = 6, 9
"""Words of a segment."""
IMAGE_START, IMAGE_GRID = 8, 9
"""Words of an image; of its grid, from the lowest byte: columns, rows, thumbnail, reserved."""

FAULTS = (
    "",
    "{tokens} tokens in {segments} segments",
    "the first segment starts at token {first}, not 0",
    "segments do not start in order, each within the pack",
    "a weight is negative or not finite",
    "spans are not in order, disjoint, not empty and within the pack",
    "a span holds the first token of a segment",
    "images do not start in order, each within the pack",
    "an image has a grid without tiles",
    "an image's thumbnail is neither 0 nor 1, or its reserved byte is not 0",
)
"""What `fault` gives a number of."""


def _fault(tokens: Any, segments: Any, spans: Any, images: Any) -> Any:
    S = len(segments)
    if (S == 0) != (tokens == 0):
        return 1
    before = np.int64(-1)
    for s in range(S):
        start = np.int64(segments[s, SEGMENT_START])
        if s == 0 and start != 0:
            return 2
        if start <= before or start >= tokens:
            return 3
        before = start
    for s in range(S):
        if segments[s, SEGMENT_WEIGHT] >= INFINITY:
            return 4
    before = np.int64(0)
    for k in range(len(spans)):
        first, end = np.int64(spans[k, 0]), np.int64(spans[k, 1])
        if first < before or end <= first or end > tokens:
            return 5
        before = end
    s = 0
    for k in range(len(spans)):
        first, end = np.int64(spans[k, 0]), np.int64(spans[k, 1])
        while s + 1 < S and np.int64(segments[s + 1, SEGMENT_START]) < end:
            s += 1
        # segment s is the last to start before the span's end, and must start before the span too
        if np.int64(segments[s, SEGMENT_START]) >= first:
            return 6
    before = np.int64(-1)
    for i in range(len(images)):
        start = np.int64(images[i, IMAGE_START])
        if start <= before or start >= tokens:
            return 7
        before = start
    for i in range(len(images)):
        grid = images[i, IMAGE_GRID]
        if grid & 0xFF == 0 or grid >> 8 & 0xFF == 0:
            return 8
    for i in range(len(images)):
        if images[i, IMAGE_GRID] >> 16 > 1:
            return 9
    return 0


def _find(ranks: Any, table: Any, found: Any) -> Any:
    seen = np.int32(0)
    for i in range(len(ranks)):
        token = table[ranks[i]]
        found[i] = token
        seen |= token
    return seen < 0


def _count(tokens: Any, counts: Any) -> None:
    for i in range(len(tokens)):
        counts[tokens[i]] += 1


def _split(tokens: Any, table: Any, ranks: Any, low: Any, high: Any) -> Any:
    lacking = 0
    for i in range(len(tokens)):
        token = tokens[i]
        rank = table[token]
        ranks[i] = rank
        low[i] = np.uint16(token & 0xFFFF)
        high[i] = np.uint8(token >> 16)
        lacking += rank == 0xFFFF
    return lacking


@functools.cache
def fault() -> Callable[..., int]:
    """(tokens, segments u32 [S, 10], spans u32 [K, 2], images u32 [M, 10]) to the place in FAULTS of the first rule that is
    broken, 0 for none."""
    from numba import types

    words = types.Array(types.uint32, 2, "C", readonly=True)
    return jit(_fault, signature=types.int64(types.int64, words, words, words))


@functools.cache
def find() -> Callable[..., bool]:
    """(ranks u16 [T], table int32 [65536], found int32 [T]): writes the token of each rank to `found`, and tells whether a
    rank has none (-1)."""
    from numba import types

    ranks, table = types.Array(types.uint16, 1, "C", readonly=True), types.Array(types.int32, 1, "C", readonly=True)
    return jit(_find, signature=types.boolean(ranks, table, types.Array(types.int32, 1, "C")))


@functools.cache
def count() -> Callable[..., None]:
    """(tokens int32 [T], counts int64): adds one to the count of each token, which is one of those that there are counts of."""
    from numba import types

    return jit(
        _count,
        signature=types.void(types.Array(types.int32, 1, "C", readonly=True), types.Array(types.int64, 1, "C")),
    )


@functools.cache
def split() -> Callable[..., int]:
    """(tokens int32 [T], table uint16, ranks u16 [T], low u16 [T], high u8 [T]): writes each token's rank out of the table, its
    low 16 bits and those above, and tells how many have no rank (65535). The table has an entry for each token."""
    from numba import types

    words = types.Array(types.uint16, 1, "C")
    return jit(
        _split,
        signature=types.int64(
            types.Array(types.int32, 1, "C", readonly=True),
            types.Array(types.uint16, 1, "C", readonly=True),
            *(words, words, types.Array(types.uint8, 1, "C")),
        ),
    )
