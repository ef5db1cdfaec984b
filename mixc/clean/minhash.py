"""MinHash: a text's set of shingles as a short signature, in which equal places estimate Jaccard similarity.

Broder, "On the resemblance and containment of documents", SEQUENCES 1997. Place j of a signature is the least of
a[j] * h + b[j] mod 2^32 over the shingles, h the upper half of the shingle's hash: linear permutations of random
values (Broder, Charikar, Frieze, Mitzenmacher, "Min-wise independent permutations", JCSS 60(3), 2000, section 4), which
32-bit arithmetic computes sixteen at a time. Two texts of Jaccard similarity s agree in a place with probability s, so K
places estimate it with a standard deviation of sqrt(s (1 - s) / K): 0.035 at 0.8 of 128.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.clean.shingles import SHINGLE_VERSION, shingles
from mixc.hashing import mix64
from shards.jit import jit

U32 = npt.NDArray[np.uint32]

MINHASH_VERSION = f"1.{SHINGLE_VERSION}"
"""Changes whenever signatures can."""
NOTHING = np.uint32(0xFFFFFFFF)
"""Every place of the signature of a text without shingles, which is like no other."""
_SEED = np.uint64(0x6D69786320310000)  # "mixc 1": the constants are the first outputs of SplitMix64 from here
_STEP = np.uint64(0x9E3779B97F4A7C15)


def signatures(texts: Sequence[str], *, ngram: int, permutations: int) -> U32:
    """uint32 [N, permutations]; `ngram` words a shingle (shingles.py)."""
    found, ends = shingles(texts, ngram=ngram)
    signed = np.empty((len(texts), permutations), np.uint32)
    _kernel()(found, ends, *constants(permutations), signed)
    return signed


@functools.cache
def constants(permutations: int) -> tuple[U32, U32]:
    """a, odd, and b: uint32 [permutations] each; a prefix of those for more."""
    outputs = mix64(np.arange(1, 2 * permutations + 1, dtype=np.uint64) * _STEP + _SEED) >> np.uint64(32)
    pairs = outputs.astype(np.uint32).reshape(permutations, 2)
    return np.ascontiguousarray(pairs[:, 0]) | np.uint32(1), np.ascontiguousarray(pairs[:, 1])


@functools.cache
def _kernel() -> Callable[..., None]:
    return jit(_sign)


def _sign(found: Any, ends: Any, a: Any, b: Any, signed: Any) -> None:
    start = 0
    for i in range(len(ends)):
        least = signed[i]
        for j in range(len(a)):
            least[j] = np.uint32(0xFFFFFFFF)
        for s in range(start, ends[i]):
            h = np.uint32(found[s] >> np.uint64(32))
            for j in range(len(a)):
                least[j] = min(least[j], np.uint32(np.uint32(a[j] * h) + b[j]))
        start = ends[i]
