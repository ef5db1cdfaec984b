"""Names of samples by their content: the same sample has the same name wherever it lies, on every machine.

    content = blake3("mixc sample 1" || C)[:16]          C = canonical content, below
    id      = blake3("mixc id 1" || lp(source) || content)[:16]
    columns = blake3("mixc columns 1" || K)[:8], little-endian

`lp(x)` is the length of x's UTF-8 as u64 followed by it; all integers are little-endian. Canonical content is one byte
for the form, then the fields in order, each of fixed size or length-prefixed, so no two contents share an encoding:

    text:   00, lp(text)
    turns:  01, u32 turns, then per turn one byte (0 system, 1 user, 2 assistant) and lp(text)
    frames: 02, and then as turns: the images are frames of a video, of one tile each
    all:    then u32 images, and the 32-byte blake3 digest of each encoded image, in order

The kind of a source is not part of it: a picture read as `caption` or as the same conversation is one content. Text is
taken as it came, before the tokenizer's normalisation. tests/measure/test_identity.py pins values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from blake3 import blake3

from mixc.sources.sample import Scalar, Turn

_ROLES = {"system": b"\x00", "user": b"\x01", "assistant": b"\x02"}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_F64 = struct.Struct("<d")
_NO_COLUMNS = int.from_bytes(blake3(b"mixc columns 1").digest(8), "little")


def image_digest(data: bytes) -> bytes:
    """blake3 of the encoded image, 32 bytes: its name in objects, packs and media shards."""
    return blake3(data).digest()


def content_digest(text: str | None, turns: Sequence[Turn], images: Sequence[bytes], *, frames: bool = False) -> bytes:
    """16 bytes. `images` are 32-byte image digests. Raises UnicodeEncodeError when a text has a lone surrogate."""
    if text is not None:
        parts = [b"mixc sample 1\x00", *_prefixed(text)]
    else:
        parts = [b"mixc sample 1\x02" if frames else b"mixc sample 1\x01", _U32.pack(len(turns))]
        for turn in turns:
            parts.append(_ROLES[turn.role])
            parts += _prefixed(turn.text)
    parts.append(_U32.pack(len(images)))
    parts += images
    return blake3(b"".join(parts)).digest(16)


def sample_id(source: str, content: bytes) -> bytes:
    """16 bytes: a content's name within a source."""
    return blake3(_id_prefix(source) + content).digest(16)


@lru_cache(maxsize=64)
def _id_prefix(source: str) -> bytes:
    return b"".join([b"mixc id 1", *_prefixed(source)])


def columns_digest(columns: Mapping[str, Scalar]) -> int:
    """64 bits over a row's scalar columns, ordered by the names' UTF-8 bytes; a null column is as if absent.

    Per column: lp(name), then a tag and the value: b 0/1; i lp(hexadecimal, as Python writes it); f 8 bytes;
    s lp(text). Every NaN is one NaN.
    Raises UnicodeEncodeError when a name or value has a lone surrogate.
    """
    if not columns:
        return _NO_COLUMNS
    parts = [b"mixc columns 1"]
    for name, value in sorted((name.encode(), value) for name, value in columns.items()):
        if value is None:
            continue
        parts += (_U64.pack(len(name)), name)
        if isinstance(value, bool):
            parts.append(b"b\x01" if value else b"b\x00")
        elif isinstance(value, int):
            parts += (b"i", *_prefixed(format(value, "x")))
        elif isinstance(value, float):
            parts += (b"f", _F64.pack(value if value == value else float("nan")))
        else:
            parts += (b"s", *_prefixed(value))
    return int.from_bytes(blake3(b"".join(parts)).digest(8), "little")


def _prefixed(text: str) -> tuple[bytes, bytes]:
    data = text.encode()
    return _U64.pack(len(data)), data
