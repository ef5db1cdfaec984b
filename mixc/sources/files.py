"""Opening what a source names: a regular local file, or a file at a URL through fsspec. Nothing here can
hang."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixc.errors import SourceError
from mixc.sources import remote

CHUNK = 1 << 20
"""Bytes that are read at a time when a file is read from end to end."""

Opener = Callable[[str], BinaryIO]
"""`open_binary`, or one that does more (hashed.py)."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")


class NotRegularError(OSError):
    """A folder, FIFO, device or socket where a file is needed. `str()` says which."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says about a file without reading it."""

    size: int
    identity: str
    """Equal as long as the file is the same and unchanged, as git's index takes it; empty when that cannot be
    told."""
    mtime_ns: int
    """0 when `identity` is derived from the content (an ETag), so that it cannot be too young to be
    trusted."""


def is_url(path: str) -> bool:
    """Whether `path` is for fsspec: it has a scheme other than `file`."""
    return _SCHEME.match(path) is not None and not path.startswith("file://")


def local(path: str) -> str:
    """A `file://` URL as a plain path; any other path as it is. No escapes are decoded, as in fsspec."""
    return path.removeprefix("file://")


def kind_of(mode: int) -> str:
    """What a `st_mode` that is not a regular file's is, in words."""
    kinds: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    )
    return next((words for test, words in kinds if test(mode)), "not a regular file")


def open_regular(path: str) -> BinaryIO:
    """Opens a local regular file for reading, unbuffered.

    Raises OSError; NotRegularError for anything but a regular file. O_NONBLOCK makes the open return at once
    even when a FIFO takes the file's place between the two checks; a device is never opened when it is seen
    to be one.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError(kind_of(mode))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotRegularError(kind_of(mode))
    return os.fdopen(descriptor, "rb", buffering=0)


def open_binary(path: str) -> BinaryIO:
    """Opens a local file or a URL. Raises OSError, and SourceError when fsspec cannot serve the URL."""
    if not is_url(path):
        return open_regular(path)
    return remote.open_remote(path)


def listing(path: str) -> list[tuple[str, bool]]:
    """The names in a folder, local or at a URL, in no order, and whether each is a folder. Links to folders and what is
    no regular file are left out. Raises OSError."""
    if is_url(path):
        return remote.listing(path)
    with os.scandir(path) as entries:
        return [
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if entry.is_file() or entry.is_dir(follow_symlinks=False)
        ]


def stamp(path: str) -> Stamp:
    """The stamp of a local file or a URL. Raises OSError; NotRegularError as `open_regular`."""
    if is_url(path):
        info = remote.info(path)
        if info.get("type") == "directory":
            raise NotRegularError("a folder")
        etag = info.get("ETag") or info.get("etag")
        size = int(info.get("size") or 0)
        return Stamp(size, f"etag {etag} {size}" if etag else "", 0)
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(kind_of(status.st_mode))
    # ctime too, as git does: it moves when a tool puts an old mtime back on new content
    identity = f"stat {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return Stamp(status.st_size, identity, status.st_mtime_ns)


def chunks(file: BinaryIO, size: int = CHUNK) -> Iterator[bytes]:
    while data := file.read(size):
        yield data


def at_most(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file, in chunks."""
    while size > 0 and (data := file.read(min(size, CHUNK))):
        yield data
        size -= len(data)


def reason(error: OSError) -> str:
    """An OSError in words, without the path, which the message has already."""
    if isinstance(error, NotRegularError):
        return f"is {error}"
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns an OSError on the file at `path` into a SourceError that names it."""
    try:
        yield
    except OSError as error:
        raise SourceError(
            "this file cannot be read",
            where=printable(path),
            why=reason(error),
            mend="check that it is a regular file that you may read and that its disk is well",
        ) from None


def printable(path: str) -> str:
    """A path for a message: as it is when plain, quoted and escaped when it holds control characters."""
    return path if path.isprintable() else ascii(path)
