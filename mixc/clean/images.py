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
import warnings
from collections.abc import Callable
from itertools import combinations, pairwise
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mixc.clean.clusters import chains
from mixc.sorting import total_order
from shards.jit import jit

if TYPE_CHECKING:
    from PIL import Image

Int = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

PHASH_VERSION = "1"
"""Changes whenever hashes do."""
SIDE, LOW, FLAT = 32, 8, 8
NO_HASH = 0
"""Of a flat image. No other image has it: of greys, which are not negative, the mean is the largest frequency, so the first
bit of a hash is 1."""
MOST_TABLES = 136
"""Of the search: each takes 8 bytes an image."""


def phash(data: bytes) -> int:
    """64 bits of an encoded image that Pillow can decode. Frequencies row by row, the lowest first, are bits from the
    most significant."""
    from PIL import Image  # for who hashes: others import this room for its numbers

    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are checked when measured
        upright = _upright(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        grey = upright.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return hash_of(np.asarray(grey, np.int64))


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF raises whatever it likes; pixels that cannot be decoded raise again later
        return image


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


def near_duplicate_images(hashes: U64, owners: Int, ranks: npt.NDArray[np.integer], *, bits: int) -> Int:
    """The sample that stays in the place of each: int64 [N], its own number for one that stays itself.

    Two samples are alike when they have equally many images and each, in order, differs from its counterpart in at most
    `bits` bits. `hashes` uint64 [M] of the images, `owners` int64 [M] their samples, those of one sample in order and
    together; `ranks` integers [N], distinct: the lower wins. As in clusters.py, what is dropped is like its winner, which
    stays. A sample without an image, or with a flat one, stays and is nobody's winner.
    """
    winners = np.arange(len(ranks))
    samples, starts, counts = np.unique(owners, return_index=True, return_counts=True)
    for size in np.unique(counts).tolist():
        of_size = counts == size
        sequences = hashes[starts[of_size][:, None] + np.arange(size)[None, :]]
        whole = (sequences != NO_HASH).all(axis=1)
        sequences, own = sequences[whole], samples[of_size][whole]
        order = total_order([ranks[own]])
        _lead_by_images(sequences[order], own[order], bits, winners)
    return winners


def _lead_by_images(sequences: U64, samples: Int, bits: int, winners: Int) -> None:
    """Leader clustering of samples by rank: fills `winners`.

    `sequences` uint64 [S, k], the hashes of k images each; `samples` int64 [S], their numbers. What two like samples must
    share is looked up by one image of the sequence, that which varies most.
    """
    distinct = [len(np.unique(column)) for column in sequences.T]
    image = int(np.argmax(distinct))
    masks = tables(distinct[image], bits)
    heads, following = chains(len(masks), len(samples), min(int(mask).bit_count() for mask in masks))
    _kernel()(sequences, samples, image, bits, masks, heads, following, winners)


def tables(count: int, bits: int) -> U64:
    """Masks uint64 [T] such that hashes that differ in at most `bits` bits are equal under at least one.

    By the pigeonhole principle (Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing",
    arXiv:1307.2982): of bits + m bands, at least m are equal, so each choice of m bands is a mask. m is the one with the
    least work for `count` hashes, and with at most MOST_TABLES of them.
    """
    work = {m: comb(bits + m, m) * (1 + count / 2 ** (64 * m / (bits + m))) for m in range(1, 8)}
    chosen = min((m for m in work if m == 1 or comb(bits + m, m) <= MOST_TABLES), key=lambda m: work[m])
    edges = [64 * i // (bits + chosen) for i in range(bits + chosen + 1)]
    parts = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    return np.array([sum(choice) for choice in combinations(parts, chosen)], np.uint64)


@functools.cache
def _kernel() -> Callable[..., None]:
    return jit(_lead, _alike)


def _alike(one: Any, other: Any, bits: Any) -> bool:
    """Whether no place differs in more than `bits` bits."""
    for j in range(len(one)):
        different = one[j] ^ other[j]
        left = bits
        while different:
            if left == 0:
                return False
            different &= different - np.uint64(1)
            left -= 1
    return True


def _lead(
    sequences: Any, samples: Any, image: Any, bits: Any, masks: Any, heads: Any, following: Any, winners: Any
) -> None:
    size = heads.shape[1]
    slots = np.empty(len(masks), np.int64)
    places = np.empty(len(samples) + 1, np.int64)  # of the entries
    entries = 0
    for place in range(len(samples)):
        best = place
        for t in range(len(masks)):
            key = (sequences[place, image] & masks[t]) * np.uint64(0x9E3779B97F4A7C15)
            key = (key ^ (key >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            slots[t] = np.int64((key ^ (key >> np.uint64(32))) & np.uint64(size - 1))
            entry = heads[t, slots[t]]
            while entry:
                other = places[entry]
                if other < best and _alike(sequences[other], sequences[place], bits):
                    best = other
                entry = following[t, entry]
        if best < place:
            winners[samples[place]] = samples[best]
        else:
            entries += 1
            places[entries] = place
            for t in range(len(masks)):
                following[t, entries] = heads[t, slots[t]]
                heads[t, slots[t]] = entries
