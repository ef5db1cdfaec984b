"""Perceptual hashes of images, and near-duplicates by them.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010; as in the
`imagehash` package): the image in grey at 32 x 32, its discrete cosine transform, and of the 8 x 8 lowest frequencies
which exceed their median. It is computed in whole numbers: Pillow's grey and its bilinear reduction are fixed-point, the
cosines are rounded to 2^-14. So it is the same wherever the image decodes to the same pixels. Transparent parts are white;
an EXIF orientation is applied, so a rotated copy that says so is a copy.

An image whose 32 x 32 greys lie within FLAT levels has no features to compare: its hash is 0, and it is like no other.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mixc.clean.clusters import keep
from mixc.hashing import mix64
from mixc.sorting import equal_runs, total_order

Int = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

PHASH_VERSION = "1"
"""Changes whenever hashes do."""
SIDE, LOW, FLAT = 32, 8, 8
NO_HASH = 0
"""Of a flat image. No other image has it: about half of a hash's bits are ones."""


def phash(data: bytes) -> int:
    """64 bits of an encoded image that Pillow can decode. Frequencies row by row, the lowest first, are bits from the
    most significant."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        grey = upright.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return hash_of(np.asarray(grey, np.int64))


def hash_of(grey: Int) -> int:
    """The hash of greys int64 [32, 32], 0 to 255."""
    if int(grey.max() - grey.min()) < FLAT:
        return NO_HASH
    cosines = _cosines()
    low = (cosines @ grey @ cosines.T).reshape(-1)
    ordered = np.sort(low)
    above = 2 * low > ordered[len(low) // 2 - 1] + ordered[len(low) // 2]
    return int.from_bytes(np.packbits(above).tobytes(), "big")


@functools.cache
def _cosines() -> Int:
    """The lowest rows of the DCT-II, int64 [8, 32], in 2^-14."""
    k, n = np.arange(LOW)[:, None], np.arange(SIDE)[None, :]
    rows: Int = np.rint(np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE)) * (1 << 14)).astype(np.int64)
    return rows


def near_duplicate_images(hashes: U64, owners: Int, ranks: Int, *, bits: int) -> Int:
    """The sample that stays in the place of each: int64 [N], its own number for one that stays itself.

    Two samples are alike when they have equally many images and each, in order, differs from its counterpart in at most
    `bits` bits. `hashes` uint64 [M] of the images, `owners` int64 [M] their samples, those of one sample in order and
    together; `ranks` int64 [N], distinct: the lower wins. As in clusters.py, what is dropped is like its winner, which
    stays. A sample with a flat image stays.
    """
    samples, starts, counts = np.unique(owners, return_index=True, return_counts=True)
    edges = [np.zeros((2, 0), np.int64)]
    for size in np.unique(counts).tolist():
        of_size = counts == size
        sequences = hashes[starts[of_size][:, None] + np.arange(size)[None, :]]
        whole = (sequences != NO_HASH).all(axis=1)
        edges.append(_edges(sequences[whole], samples[of_size][whole], ranks, bits))
    return keep(np.concatenate(edges, axis=1), ranks)


def _edges(sequences: U64, samples: Int, ranks: Int, bits: int) -> Int:
    """Pairs of samples that are alike, enough of them for `keep`: each with the first of every like group.

    `sequences` uint64 [S, k]: the hashes of k images each.
    """
    order = total_order([*sequences.T, ranks[samples]])
    sequences, samples = sequences[order], samples[order]
    if not len(samples):
        return np.zeros((2, 0), np.int64)
    fresh = np.ones(len(samples), bool)
    fresh[1:] = (sequences[1:] != sequences[:-1]).any(axis=1)
    leaders = np.flatnonzero(fresh)  # of each group of equal sequences, the sample of lowest rank
    sizes = np.diff(np.append(leaders, len(samples)))
    same = np.stack([samples[np.repeat(leaders, sizes)], samples])[:, ~fresh]
    if not bits:
        return same
    near = near_pairs(sequences[leaders], bits)
    near = np.concatenate([near, near[::-1]], axis=1)  # every member of each group with the leader of the other
    spread = np.repeat(np.arange(near.shape[1]), sizes[near[1]])
    within = np.arange(len(spread)) - np.repeat(np.cumsum(sizes[near[1]]) - sizes[near[1]], sizes[near[1]])
    members = leaders[near[1][spread]] + within
    return np.concatenate([same, np.stack([samples[leaders[near[0][spread]]], samples[members]])], axis=1)


def near_pairs(sequences: U64, bits: int) -> Int:
    """All pairs (i, j), i < j, of distinct sequences uint64 [S, k] that differ in at most `bits` bits in each place:
    int64 [2, P].

    Exact, by the pigeonhole principle (Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index
    Hashing", arXiv:1307.2982): of bits + m bands of the first hash, at least m are equal. Each choice of m bands is a
    table; m is the one that costs least for so many sequences.
    """
    count = len(sequences)
    chosen = min(range(1, 8), key=lambda m: comb(bits + m, m) * count * (1 + count / 2 ** (64 * m / (bits + m))))
    number = bits + chosen
    edges = np.linspace(0, 64, number + 1).astype(int).tolist()
    masks = [((1 << (high - low)) - 1) << low for low, high in pairwise(edges)]
    found = [np.zeros((2, 0), np.int64)]
    for table in combinations(masks, chosen):
        keys = mix64(sequences[:, 0] & np.uint64(sum(table)))
        order = total_order([keys])
        starts, ends = equal_runs(keys[order])
        room = 1024
        while True:
            pairs = np.empty((2, room), np.int64)
            needed = _kernel()(sequences, order, starts, ends, bits, pairs)
            if needed <= room:
                break
            room = needed
        found.append(np.sort(pairs[:, :needed], axis=0))
    return np.unique(np.concatenate(found, axis=1), axis=1)


@functools.cache
def _kernel() -> Callable[..., int]:
    import numba
    from numba.extending import register_jitable

    register_jitable(_differ)
    return numba.njit(cache=True, nogil=True)(_pairs)


def _differ(one: Any, other: Any, bits: Any) -> bool:
    """Whether sequences differ in more than `bits` bits in some place."""
    for j in range(len(one)):
        x = one[j] ^ other[j]
        different = 0
        while x:
            x &= x - np.uint64(1)
            different += 1
        if different > bits:
            return True
    return False


def _pairs(sequences: Any, order: Any, starts: Any, ends: Any, bits: Any, pairs: Any) -> int:
    count = 0
    for run in range(len(starts)):
        for i in range(starts[run], ends[run]):
            for j in range(i + 1, ends[run]):
                if not _differ(sequences[order[i]], sequences[order[j]], bits):
                    if count < pairs.shape[1]:
                        pairs[0, count], pairs[1, count] = order[i], order[j]
                    count += 1
    return count
