"""Digests: what names content in a build. blake3 everywhere; its 256-bit output, in lower-case hex where it
is text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from shards.errors import ShardError

DIGEST_BYTES = 32
_CHUNK = 1 << 20


def digest(data: bytes | memoryview) -> str:
    """blake3 of `data`, 64 hex characters."""
    return blake3(data).hexdigest()


def digest_file(path: Path) -> str:
    """blake3 of a file's bytes, read in pieces of 1 MiB. Raises ShardError when it cannot be read."""
    hasher = blake3()
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from error
    return hasher.hexdigest()


def source_key(name: str) -> int:
    """The 64-bit key that stands for a source in packs: the first 8 bytes, little-endian, of
    blake3("mixc source 1" NUL name), so that it depends on nothing but the name."""
    return int.from_bytes(blake3(b"mixc source 1\0" + name.encode()).digest(8), "little")


def canonical_json(value: Any) -> bytes:
    """The one JSON encoding of `value` that digests are taken over: UTF-8, no white space, keys sorted by
    code point, floats in the shortest form that reads back equal (docs/format.md has the rules). Structs are
    objects."""
    return msgspec.json.encode(value, order="sorted")
