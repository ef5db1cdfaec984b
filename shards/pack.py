"""One pack: a training sequence of whole samples, as arrays, and its canonical bytes.

The canonical bytes are content and nothing else: no path, no shard number, no index into another table. Two
builds that train on the same sequence hold the same bytes for it, so a pack's digest can be compared between
builds, and the root digest of a build is a digest of pack digests. An image is named by the blake3 digest of
its encoded bytes, a source by the digest of its name.

Layout, little-endian, no padding between sections (docs/format.md has a worked example):

    header    8 x u32: magic "MXP1", version 1, tokens, segments, spans, images, 0, 0
    segments  SEGMENT_DTYPE x segments
    spans     SPAN_DTYPE x spans
    images    IMAGE_DTYPE x images
    lo        u16 x tokens: the low 16 bits of each token id
    hi        u8  x tokens: the bits above (ids are below 2^24)

The two planes, not a u32 array, because they compress better for a vocabulary of 2^17 (docs/benchmarks.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from shards import pack_kernel
from shards.errors import ShardError

MAGIC = b"MXP1"
VERSION = 1
HEADER = struct.Struct("<4s7I")
TOKEN_LIMIT = 1 << 24  # ids are below

SEGMENT_DTYPE = np.dtype(
    [
        ("id", "V16"),  # sample id
        ("source", "<u8"),  # source_key(name)
        ("start", "<u4"),  # first token; the segment ends where the next begins
        ("epoch", "<u4"),  # which pass over its source in this stage, from 0
        ("piece", "<u4"),  # which piece of a sample that was split, from 0
        ("weight", "<f4"),  # loss weight of each of its supervised tokens
    ]
)
SPAN_DTYPE = np.dtype([("start", "<u4"), ("end", "<u4")])  # tokens [start, end) of the pack are supervised targets
IMAGE_DTYPE = np.dtype(
    [
        ("digest", "V32"),  # blake3 of the encoded image
        ("start", "<u4"),  # position of its first <IMG_CONTEXT> in the pack
        ("cols", "u1"),  # tile grid
        ("rows", "u1"),
        ("thumbnail", "u1"),  # 1: one more tile, the whole image, comes last
        ("reserved", "u1"),  # 0
    ]
)


Table = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One training sequence. Arrays are read-only views; `tokens` int32 [T]."""

    tokens: npt.NDArray[np.int32]
    segments: npt.NDArray[np.void]  # SEGMENT_DTYPE [S], starts ascending, segments[0].start == 0 if any
    spans: npt.NDArray[np.void]  # SPAN_DTYPE, ascending, disjoint; a span never starts at a segment's first token
    images: npt.NDArray[np.void]  # IMAGE_DTYPE, ascending by start


EMPTY_PACK = Pack(
    tokens=np.zeros(0, np.int32),
    segments=np.zeros(0, SEGMENT_DTYPE),
    spans=np.zeros(0, SPAN_DTYPE),
    images=np.zeros(0, IMAGE_DTYPE),
)
"""No sample at all. Empty packs fill the last step of a stage up to its batch."""
for _array in (EMPTY_PACK.tokens, EMPTY_PACK.segments, EMPTY_PACK.spans, EMPTY_PACK.images):
    _array.flags.writeable = False


def check_pack(pack: Pack) -> None:
    """Raises ShardError when `pack` breaks a rule that `decode_pack` checks."""
    for name, array, dtype in (
        ("segments", pack.segments, SEGMENT_DTYPE),
        ("spans", pack.spans, SPAN_DTYPE),
        ("images", pack.images, IMAGE_DTYPE),
    ):
        if array.dtype != dtype or array.ndim != 1:
            raise ShardError(f"pack: {name} is {array.dtype} of {array.ndim} dimensions, not {dtype} of one")
    tokens = pack.tokens
    if tokens.dtype.kind not in "iu" or tokens.ndim != 1:
        raise ShardError(f"pack: tokens is {tokens.dtype} of {tokens.ndim} dimensions, not integers of one")
    if len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) >= TOKEN_LIMIT):
        raise ShardError(f"pack: a token id is not in [0, {TOKEN_LIMIT})")
    if broken := fault(pack):
        raise ShardError(f"pack: {broken}")


def planes(tokens: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """The low 16 bits of tokens, and the bits above."""
    return tokens.astype("<u2"), (tokens >> 16).astype("u1")


def encode_pack(pack: Pack) -> bytes:
    """The canonical bytes of `pack`. Raises ShardError when it breaks a rule that `decode_pack` checks."""
    check_pack(pack)
    lo, hi = planes(pack.tokens)
    return b"".join(canonical_parts(pack, lo.data, hi.data))


def canonical_parts(pack: Pack, lo: memoryview, hi: memoryview) -> tuple[bytes | memoryview, ...]:
    """The canonical bytes of a pack whose rules are checked, in parts; `lo` and `hi` are its planes."""
    header = HEADER.pack(MAGIC, VERSION, len(pack.tokens), len(pack.segments), len(pack.spans), len(pack.images), 0, 0)
    return header, pack.segments.tobytes(), pack.spans.tobytes(), pack.images.tobytes(), lo, hi


def decode_pack(data: bytes | memoryview) -> Pack:
    """The pack that `data` encodes; its tables are read-only views into `data`, its tokens a read-only copy.

    Accepts exactly what `encode_pack` can write. Raises ShardError for anything else: another magic or
    version, a length that is not the header's, reserved bytes that are not 0, starts out of order or range, a
    weight that is negative or not finite, a span that is empty, overlaps another or holds the first token of
    a segment (nothing stands before it to predict it from).
    """
    if len(data) < HEADER.size:
        raise ShardError(f"pack: {len(data)} bytes, fewer than a header's {HEADER.size}")
    magic, version, T, S, K, M, zero, zero_too = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ShardError(f"pack: begins with {magic.hex()}, not with {MAGIC.hex()}")
    if version != VERSION:
        raise ShardError(f"pack: of version {version}; this program reads version {VERSION}")
    if zero or zero_too:
        raise ShardError("pack: reserved header fields are not 0")
    sizes = (S * SEGMENT_DTYPE.itemsize, K * SPAN_DTYPE.itemsize, M * IMAGE_DTYPE.itemsize, 2 * T, T)
    if len(data) != HEADER.size + sum(sizes):
        raise ShardError(f"pack: {len(data)} bytes, but its header promises {HEADER.size + sum(sizes)}")
    if not (S <= T and K <= T and M <= T):
        raise ShardError(f"pack: {S} segments, {K} spans and {M} images in {T} tokens")
    view = memoryview(data).toreadonly()
    segments, spans, images, at = read_tables(view, HEADER.size, (S, K, M))
    lo = np.frombuffer(view, "<u2", T, at)
    hi = np.frombuffer(view, "u1", T, at + sizes[3])
    tokens = hi.astype(np.int32)
    tokens <<= 16
    tokens |= lo
    tokens.flags.writeable = False
    pack = Pack(tokens=tokens, segments=segments, spans=spans, images=images)
    if broken := fault(pack):
        raise ShardError(f"pack: {broken}")
    return pack


def read_tables(view: memoryview, at: int, counts: tuple[int, int, int]) -> tuple[Table, Table, Table, int]:
    """Segments, spans and images, which lie one after the other from `at` on, as views; and where they end."""
    tables = []
    for dtype, count in zip((SEGMENT_DTYPE, SPAN_DTYPE, IMAGE_DTYPE), counts, strict=True):
        tables.append(np.frombuffer(view, dtype, count, at))
        at += count * dtype.itemsize
    segments, spans, images = tables
    return segments, spans, images, at


def pack_digest(data: bytes | memoryview) -> bytes:
    """The identity of a pack: blake3 of its canonical bytes, 32 bytes."""
    return blake3(data).digest()


def supervised_by_segment(pack: Pack) -> npt.NDArray[np.int64]:
    """Supervised tokens of each segment, int64 [S]."""
    counts = np.zeros(len(pack.segments), np.int64)
    np.add.at(
        counts,
        np.searchsorted(pack.segments["start"], pack.spans["start"], side="right") - 1,
        pack.spans["end"].astype(np.int64) - pack.spans["start"],
    )
    return counts


def tiles_by_image(pack: Pack) -> npt.NDArray[np.int64]:
    """Tiles of each image, its thumbnail counted, int64 [M]."""
    images = pack.images
    tiles: npt.NDArray[np.int64] = images["cols"].astype(np.int64) * images["rows"] + images["thumbnail"]
    return tiles


def words(table: Table) -> npt.NDArray[np.uint32]:
    """Segments, spans or images as rows of words, a view if they lie end to end."""
    return np.ascontiguousarray(table).view("<u4").reshape(len(table), table.dtype.itemsize // 4)


def fault(pack: Pack) -> str | None:
    """The first rule that the tables of a pack break, in words; None when they keep them all. Tokens are only counted."""
    tokens, segments = len(pack.tokens), pack.segments
    found = pack_kernel.fault()(tokens, words(segments), words(pack.spans), words(pack.images))
    if not found:
        return None
    first = segments["start"][0] if len(segments) else None
    return pack_kernel.FAULTS[found].format(tokens=tokens, segments=len(segments), first=first)
