"""A pack as it lies in a token shard: its digest, its tables, and its tokens as ranks in the shard's vocabulary.

    header      8 x u32: magic "MXS1", version 1, tokens, segments, spans, images, exceptions, 0
    digest      32 bytes: of the canonical bytes (pack.py)
    segments    SEGMENT_DTYPE x segments
    spans       SPAN_DTYPE x spans
    images      IMAGE_DTYPE x images
    ranks       u16 x tokens; 65535 stands for the next exception
    exceptions  u32 x exceptions: token ids

The canonical bytes say what a pack is, this says how it is kept: no identity is taken over these bytes.
"""

from __future__ import annotations

import struct

import numpy as np

from shards import pack_kernel
from shards.digest import DIGEST_BYTES
from shards.errors import ShardError
from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE, TOKEN_LIMIT, Pack, fault, read_tables
from shards.vocabulary import EXCEPTION, I32

MAGIC = b"MXS1"
VERSION = 1
HEADER = struct.Struct("<4s7I")


def encode_stored(pack: Pack, digest: bytes, ranks: bytes | memoryview, exceptions: bytes) -> bytes:
    """`ranks` u16 and `exceptions` u32, little-endian, are what stands for `pack.tokens`; `digest` is the pack's."""
    header = HEADER.pack(
        MAGIC,
        VERSION,
        len(pack.tokens),
        len(pack.segments),
        len(pack.spans),
        len(pack.images),
        len(exceptions) // 4,
        0,
    )
    tables = (pack.segments.tobytes(), pack.spans.tobytes(), pack.images.tobytes())
    return b"".join((header, digest, *tables, ranks, exceptions))


def decode_stored(data: bytes | memoryview, tokens: I32) -> tuple[Pack, bytes]:
    """The pack, its tables read-only views into `data`, and the digest that is stored for it.

    `tokens` is the `token_table` of the shard's vocabulary. Raises ShardError for what `encode_stored` cannot have written:
    another magic or version, a length that is not the header's, a rank that the vocabulary lacks, more or fewer exceptions
    than the ranks ask for, a rule of a pack's that is broken. That the digest is the pack's is not checked.
    """
    if len(data) < HEADER.size + DIGEST_BYTES:
        raise ShardError(f"pack: {len(data)} bytes, fewer than a header and a digest take")
    magic, version, T, S, K, M, E, zero = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ShardError(f"pack: begins with {magic.hex()}, not with {MAGIC.hex()}")
    if version != VERSION:
        raise ShardError(f"pack: stored in version {version}; this program reads version {VERSION}")
    if zero:
        raise ShardError("pack: a reserved header field is not 0")
    sizes = (S * SEGMENT_DTYPE.itemsize, K * SPAN_DTYPE.itemsize, M * IMAGE_DTYPE.itemsize, 2 * T, 4 * E)
    at = HEADER.size + DIGEST_BYTES
    if len(data) != at + sum(sizes):
        raise ShardError(f"pack: {len(data)} bytes, but its header promises {at + sum(sizes)}")
    if not (S <= T and K <= T and M <= T and E <= T):
        raise ShardError(f"pack: {S} segments, {K} spans, {M} images and {E} exceptions in {T} tokens")
    view = memoryview(data).toreadonly()
    digest = bytes(view[HEADER.size : at])
    segments, spans, images, at = read_tables(view, at, (S, K, M))
    ranks = np.frombuffer(view, "<u2", T, at)
    found = np.empty(T, np.int32)
    if pack_kernel.find()(ranks, tokens, found) or E:
        missing = np.flatnonzero(found < 0)
        exceptions = np.frombuffer(view, "<u4", E, at + sizes[3])
        if len(missing) != E or (ranks[missing] != EXCEPTION).any():
            raise ShardError(f"pack: {E} exceptions, and {len(missing)} ranks that are not in the vocabulary")
        if E and int(exceptions.max()) >= TOKEN_LIMIT:
            raise ShardError(f"pack: a token id is not in [0, {TOKEN_LIMIT})")
        found[missing] = exceptions
    found.flags.writeable = False
    pack = Pack(tokens=found, segments=segments, spans=spans, images=images)
    if broken := fault(pack):
        raise ShardError(f"pack: {broken}")
    return pack, digest
