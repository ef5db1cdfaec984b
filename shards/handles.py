"""Open files: read by position, opened when first needed, held in bounded number.

Reads go through `os.pread`, which moves no shared file position, so that threads, and processes forked with
the file open, can read one file at once.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from shards.blocks import StoredFile
from shards.errors import ShardError
from shards.store import Place, StoreUrl

K = TypeVar("K")
V = TypeVar("V")


class PositionalFile:
    """A regular file of this machine, open for reading; closed when the last reference to it goes. Raises ShardError, by
    name, when it is missing or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(self._descriptor)
        except FileNotFoundError as error:
            raise ShardError(f"{path}: missing") from error
        except OSError as error:
            raise ShardError(f"{path}: cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise ShardError(f"{path}: not a file")
        self.size = status.st_size

    def read_at(self, offset: int, size: int, what: str) -> bytes:
        """Exactly `size` bytes at `offset`; `what` names them in the error when the file ends before."""
        if offset + size > self.size:  # before anything of that size is allocated
            raise ShardError(f"{self.path}: {what}: truncated: {self.size} bytes, {offset + size} needed")
        parts = []
        end = offset + size
        while offset < end:
            try:
                part = os.pread(self._descriptor, end - offset, offset)
            except OSError as error:
                raise ShardError(f"{self.path}: {what}: cannot be read: {error.strerror}") from error
            if not part:
                raise ShardError(f"{self.path}: {what}: truncated while it was open, at byte {offset}")
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def begin(self) -> None:
        """Nothing: the system reads ahead by itself."""

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class File(Protocol):
    """A file that is read by position: `PositionalFile`, or `StoredFile` of a store."""

    size: int

    def read_at(self, offset: int, size: int, what: str) -> bytes: ...

    def begin(self) -> None:
        """Be told that the file will be read from its front."""


def open_file(path: Place, *, in_order: bool = True) -> File:
    """Raises ShardError, by name, when it is missing or cannot be read. `in_order`: it may be worth reading ahead, as it
    is read from front to end, once."""
    return StoredFile(path, in_order=in_order) if isinstance(path, StoreUrl) else PositionalFile(path)


class HandleCache(Generic[K, V]):
    """The `limit` most recently used of the things that `open` makes, for any number of threads.

    What is evicted is only forgotten here: a thread that still uses it keeps it open. A forked child starts
    with an empty cache and a lock of its own, for another thread may have held the parent's when it forked.
    """

    def __init__(self, open: Callable[[K], V], limit: int) -> None:
        self._open = open
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._held: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = self._open(key)  # outside the lock: two threads may both open, and one copy is forgotten
        with self._lock:
            self._held[key] = made
            self._held.move_to_end(key)
            while len(self._held) > self._limit:
                self._held.popitem(last=False)
        return made
