"""What a scan found out about a file, kept so that an unchanged file is not read again; as git's index does.

An entry belongs to a path and to what the source asks of the file. It is used while the file's stamp (size,
mtime, ctime, inode; or its ETag) is the one recorded. A file modified less than 2 s before it was recorded
may have been modified again within the clock tick of its file system, so its stamp proves nothing ("racy
git"): it is read again.

Deleting the cache is always safe. An entry that is damaged is as good as none, and one that cannot be written
is not written: a scan never fails on account of its cache.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec
from blake3 import blake3

from mixc.sources.files import Stamp
from mixc.sources.parts import Piece

RACY_NS = 2_000_000_000
"""2 s: the mtime of FAT, the coarsest in use, is in steps of 2 s."""

_VERSION = b"mixc scan 2"


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """An image file that rows name."""

    path: str
    """As the row writes it."""
    identity: str
    """Of the file's stamp; empty when there is no file to read."""
    size: int
    digest: str
    """blake3 hex, or `missing` or `outside`."""


class Content(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a file, and the image files that its rows name."""

    piece: Piece
    references: list[Reference]
    """By path."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one file."""

    identity: str
    recorded_ns: int
    """When the scan that made this entry began: before any of its files was read."""
    format: str
    has_image_column: bool
    contents: list[Content]
    """In order."""

    def proves(self, identity: str, stamp: Stamp) -> bool:
        """Whether a file that had this identity when it was recorded, and has this stamp now, is surely
        unchanged."""
        return bool(identity) and identity == stamp.identity and self.recorded_ns - stamp.mtime_ns >= RACY_NS


_decoder = msgspec.msgpack.Decoder(Entry)


def place(cache: Path, *key: str) -> Path:
    """Where the entry of this key is kept."""
    digest = blake3(_VERSION + msgspec.msgpack.encode(key)).hexdigest()
    return cache / "scan" / digest[:2] / digest


def load(place: Path) -> Entry | None:
    """The entry, or None when there is none or it is damaged."""
    try:
        status = place.stat()
        return _load(place, status.st_ino, status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@lru_cache(maxsize=1)  # a process that measures the parts of one file asks for the same entry each time
def _load(place: Path, inode: int, mtime_ns: int, size: int) -> Entry | None:
    data = place.read_bytes()
    check, body = data[:32], data[32:]
    try:
        return _decoder.decode(body) if blake3(body).digest() == check else None
    except msgspec.DecodeError:
        return None


def store(place: Path, entry: Entry) -> None:
    """Writes the entry so that a reader sees the old one or the new one, and writers do not mind each
    other."""
    body = msgspec.msgpack.encode(entry)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(blake3(body).digest() + body)
            Path(temporary).replace(place)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
