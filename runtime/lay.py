"""One pack laid behind others in a row: checked against the model's geometry and copied, compiled.

What a pack promises by itself (order, ranges, weights: `shards.pack.fault`) is not asked again. Tables are given as words,
rows of u32; `shards.pack_kernel` says which word is what.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from shards.jit import jit
from shards.pack_kernel import IMAGE_GRID, IMAGE_START, SEGMENT_START, SEGMENT_WEIGHT

SOURCE_LOW, SOURCE_HIGH = 4, 5
"""Words of a segment."""

FINE, SOURCE, IDS, OVERLAP, START, RUN, END, SAMPLE, STRAY = range(9)
"""What `lay` answers: that all is well; or of which kind the first thing is that is wrong."""

TOKENS, SEGMENTS, SPANS, IMAGES, TARGETS, LONGEST, PAIRS, ROWS, WHERE = range(9)
"""Counters of the row so far, and where in its table the wrong thing stands."""


def _lay(pack: Any, limits: Any, keys: Any, indices: Any, lengths: Any, counters: Any, row: Any, weights: Any) -> Any:
    tokens, segments, spans, images = pack
    T, S = len(tokens), len(segments)
    at = counters[TOKENS]
    tokens_T, rest = row[at : at + T], row[lengths[0] :]
    bounds_S, rest = rest[: lengths[1] + 1], rest[lengths[1] + 1 :]
    K, images_I = lengths[2], lengths[3]
    first_K, length_K, source_K, weight_K = rest[:K], rest[K : 2 * K], rest[2 * K : 3 * K], rest[3 * K : 4 * K]
    first_I, length_I = rest[4 * K : 4 * K + images_I], rest[4 * K + images_I :]
    # of the width of a token, so that many are compared at once
    vocabulary, context = np.uint32(limits[0]), np.int32(limits[1])
    before_image, behind_image, per_tile = limits[2], limits[3], limits[4]

    largest, found = np.uint32(0), np.int32(0)
    for i in range(T):
        token = tokens[i]
        tokens_T[i] = token
        largest = max(largest, np.uint32(token))  # so seen, a negative one is above every vocabulary
        found += np.int32(token == context)
    if largest >= vocabulary:
        for i in range(T):
            if np.uint32(tokens[i]) >= vocabulary:
                counters[WHERE] = i
                break
        return IDS

    k = 0
    for s in range(S):
        start = np.int64(segments[s, SEGMENT_START])
        end = np.int64(segments[s + 1, SEGMENT_START]) if s + 1 < S else T
        key = np.uint64(segments[s, SOURCE_LOW]) | np.uint64(segments[s, SOURCE_HIGH]) << np.uint64(32)
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low == len(keys) or keys[low] != key:
            counters[WHERE] = s
            return SOURCE
        source = indices[low]
        bounds_S[counters[SEGMENTS] + s + 1] = at + end
        counters[LONGEST] = max(counters[LONGEST], end - start)
        counters[PAIRS] += (end - start) * (end - start)
        weight_words = segments[s, SEGMENT_WEIGHT : SEGMENT_WEIGHT + 1]
        weight = np.float64(weight_words.view(np.float32)[0])
        while k < len(spans) and np.int64(spans[k, 0]) < end:
            first, length = np.int64(spans[k, 0]), np.int64(spans[k, 1]) - np.int64(spans[k, 0])
            place = counters[SPANS] + k
            first_K[place], length_K[place] = at + first, length
            source_K[place], weight_K[place] = source, np.int32(weight_words[0])
            weights[source] += weight * length
            counters[TARGETS] += length
            k += 1

    before, s = np.int64(1), 0
    for i in range(len(images)):
        counters[WHERE] = i
        grid = images[i, IMAGE_GRID]
        start = np.int64(images[i, IMAGE_START])
        run = np.int64(((grid & 0xFF) * (grid >> 8 & 0xFF) + (grid >> 16 & 0xFF)) * per_tile)
        last = start + run
        if start < before or last >= T:
            return OVERLAP
        before = last
        if tokens[start - 1] != before_image:
            return START
        for j in range(start, last):
            if tokens[j] != context:
                return RUN
        if tokens[last] != behind_image:
            return END
        while s + 1 < S and np.int64(segments[s + 1, SEGMENT_START]) <= start - 1:
            s += 1
        if s + 1 < S and np.int64(segments[s + 1, SEGMENT_START]) <= last:
            return SAMPLE
        place = counters[IMAGES] + i
        first_I[place], length_I[place] = at + start, run
        counters[ROWS] += run
        found -= run
    if found:
        counters[WHERE] = found
        return STRAY
    counters[TOKENS] += T
    counters[SEGMENTS] += S
    counters[SPANS] += len(spans)
    counters[IMAGES] += len(images)
    return FINE


@functools.cache
def lay() -> Callable[..., int]:
    """`_lay`, compiled when the first pack comes.

    (pack, limits, keys, indices, lengths, counters, row, weights)

    pack: tokens int32 [T], and segments, spans and images as words. limits: vocabulary size, the ids of an image's context,
    of what stands before it and behind it, and tokens a tile. keys uint64, ascending, and indices int64 of the sources.
    lengths: tokens, segments, spans and images of all packs of the row. counters: int64 [9], those above, of the packs
    before this. row, int32, is filled as `Row.words` says, but for the first of `cu_seqlens`; weights, float64, are added
    to by source.
    """
    from numba import types

    words = types.Array(types.uint32, 2, "C", readonly=True)
    signature = types.int64(
        types.Tuple((types.Array(types.int32, 1, "C", readonly=True), words, words, words)),
        types.UniTuple(types.int64, 5),
        types.Array(types.uint64, 1, "C", readonly=True),
        types.Array(types.int64, 1, "C", readonly=True),
        types.UniTuple(types.int64, 4),
        types.Array(types.int64, 1, "C"),
        types.Array(types.int32, 1, "C"),
        types.Array(types.float64, 1, "C"),
    )
    return jit(_lay, signature=signature)
