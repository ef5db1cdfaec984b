"""A shard's vocabulary: which token each rank stands for.

Tokens are stored as ranks, the most frequent first, because that is what compresses: of 16 bits the upper eight are
nearly always 0, where those of token ids are noise (docs/format.md has figures). A token that the vocabulary lacks is an
exception, and stands beside the ranks as it is.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from shards import pack_kernel
from shards.errors import ShardError
from shards.pack import TOKEN_LIMIT

I32 = npt.NDArray[np.int32]

MAGIC = b"MXV1"
HEADER = struct.Struct("<4sI")  # magic, entries
EXCEPTION = 0xFFFF
"""The rank of a token that the vocabulary lacks: of a shard with more different tokens than have a rank."""


def vocabulary(tokens: I32) -> I32:
    """The vocabulary of a shard's `tokens` [T], each in [0, TOKEN_LIMIT): int32 [V], V below EXCEPTION, the most frequent
    first, of equally frequent ones the lower id."""
    counts = np.zeros(int(tokens.max(initial=0)) + 1, np.int64)
    pack_kernel.count()(tokens, counts)
    ids = np.flatnonzero(counts)
    ids = ids[np.argsort(-counts[ids], kind="stable")]
    return ids[:EXCEPTION].astype(np.int32)


def rank_table(vocabulary: I32, size: int) -> npt.NDArray[np.uint16]:
    """The rank of every token below `size`, uint16 [size]."""
    table = np.full(size, EXCEPTION, np.uint16)
    table[vocabulary] = np.arange(len(vocabulary))
    return table


def token_table(vocabulary: I32) -> I32:
    """The token of every rank, int32 [65536]; -1 where there is none, and for EXCEPTION."""
    table = np.full(EXCEPTION + 1, -1, np.int32)
    table[: len(vocabulary)] = vocabulary
    return table


def encode_vocabulary(vocabulary: I32) -> bytes:
    """HEADER, then of every token its difference from the one before it, modulo 2^24: the low 8 bits of all, the middle 8,
    the upper 8. Tokens that are equally frequent ascend, so nearly all upper bits are 0, which halves the frame."""
    steps = np.diff(vocabulary, prepend=0) & (TOKEN_LIMIT - 1)
    return HEADER.pack(MAGIC, len(vocabulary)) + b"".join(
        (steps >> shift).astype("u1").tobytes() for shift in (0, 8, 16)
    )


def decode_vocabulary(data: bytes) -> I32:
    """Raises ShardError for what `encode_vocabulary` cannot have written."""
    if len(data) < HEADER.size:
        raise ShardError(f"vocabulary: {len(data)} bytes, fewer than a header's {HEADER.size}")
    magic, entries = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ShardError(f"vocabulary: begins with {magic.hex()}, not with {MAGIC.hex()}")
    if entries > EXCEPTION or len(data) != HEADER.size + 3 * entries:
        raise ShardError(f"vocabulary: {len(data)} bytes for {entries} entries")
    low, middle, upper = np.frombuffer(data, "u1", 3 * entries, HEADER.size).reshape(3, entries).astype(np.int64)
    ids: I32 = (np.cumsum(low | middle << 8 | upper << 16) & (TOKEN_LIMIT - 1)).astype(np.int32)
    if len(np.unique(ids)) != entries:
        raise ShardError("vocabulary: a token stands in it twice")
    return ids
