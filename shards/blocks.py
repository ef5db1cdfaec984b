"""Files of a store, read in blocks that are kept on a local disk, and ahead of who reads.

A block is fetched once by all processes of a machine: ranks and their loaders take packs in turns, so they all read the same
blocks. Training reads a stage's shards from front to end, so whoever has read two neighbouring blocks will want the next.

    CACHE/blocks/<first two hex>/<digest>.<number>            a block; the digest is of the file's URL, version and size
    CACHE/blocks/<first two hex>/.new-<digest>.<number>       being fetched by whoever has a lock (flock) on it

The least recently used go when the disk is fuller than KEEP_FREE allows, so a build may be larger than the disk. What cannot be
written is read all the same.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from shards.cache_folder import cache_folder
from shards.errors import ShardError
from shards.store import StoreUrl, fetch, look

BLOCK = 4 << 20
"""Bytes: at some 20 ms to the first byte and 100 MB/s after it, three fifths of the time go into bytes."""
AHEAD = 4
"""Blocks that are fetched ahead, at once."""
_THREADS = AHEAD
KEEP_FREE = 0.1
"""Of the disk, which blocks do not fill."""
_RECENT = 60
"""Seconds for which a block that was used is safe; and after which it is marked as used again."""
_LOOK_EVERY = 16
"""Blocks between looks at how full the disk is."""


class StoredFile:
    """A file in a store, with the face of `PositionalFile`. Safe in threads and forks. Raises ShardError, by name, when it is
    missing or cannot be read."""

    def __init__(self, path: StoreUrl, *, in_order: bool = True) -> None:
        self.path = path
        self._in_order = in_order
        found = look(path)
        self.size = found.size
        self._key = blake3(f"mixc block 1\0{path.url}\0{found.version}\0{found.size}".encode()).hexdigest()
        self._folder = cache_folder() / "blocks" / self._key[:2]
        self._last = -2
        """The block last read; at first none, nor one before a block."""
        self._asked = 0
        """Blocks below are read or asked for."""
        self._open: _OpenBlock | None = None
        self._memory: tuple[int, bytes] | None = None
        """A block that could not be kept on the disk. With one there is no reading ahead."""

    def begin(self) -> None:
        """Have the first blocks fetched in the background: the file will be read from its front."""
        self._ahead(0, AHEAD)

    def read_at(self, offset: int, size: int, what: str) -> bytes:
        """Exactly `size` bytes at `offset`; `what` names them in the error when the file ends before."""
        end = offset + size
        if end > self.size:
            raise ShardError(f"{self.path}: {what}: truncated: {self.size} bytes, {end} needed")
        first, last = offset // BLOCK, max(offset, end - 1) // BLOCK
        if last > first:
            self._ahead(first + 1, last)
        parts = [
            self._read(block, max(0, offset - block * BLOCK), min(BLOCK, end - block * BLOCK), what)
            for block in range(first, last + 1)
        ]
        if not self._last <= first <= self._last + 1:
            self._asked = 0
        elif last > self._last and self._in_order:
            self._ahead(max(self._asked, last + 1), last + AHEAD)
        self._last = last
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _ahead(self, first: int, last: int) -> None:
        """Have blocks first to last fetched in the background."""
        if self._memory is not None:
            return
        last = min(last, (self.size - 1) // BLOCK)
        for block in range(first, last + 1):
            in_background(functools.partial(self._fetch, block, f"block {block}"))
        self._asked = max(self._asked, last + 1)

    def _read(self, block: int, start: int, end: int, what: str) -> bytes:
        """Bytes [start, end) of a block."""
        for _ in range(2):
            if self._memory is not None and self._memory[0] == block:
                return self._memory[1][start:end]
            data = self._kept(block, start, end)
            if data is not None:
                return data
            fetched = self._fetch(block, what)
            if fetched is not None:
                return fetched[start:end]
        return self._in_memory(block, what)[start:end]  # it is there, and cannot be read

    def _kept(self, block: int, start: int, end: int) -> bytes | None:
        """Bytes [start, end) of a block that is in the cache."""
        open_ = self._open
        if open_ is None or open_.block != block:
            try:
                open_ = _OpenBlock(block, self._path(block))
            except OSError:
                return None
            if open_.size != self._length(block):
                return None
            self._open = open_
        return open_.read(start, end)

    def _path(self, block: int) -> Path:
        return self._folder / f"{self._key}.{block}"

    def _length(self, block: int) -> int:
        return min(BLOCK, self.size - block * BLOCK)

    def _is_kept(self, block: int) -> bool:
        try:
            return self._path(block).stat().st_size == self._length(block)
        except OSError:
            return False

    def _fetch(self, block: int, what: str) -> bytes | None:
        """A block from the store, put into the cache; None if it has come there meanwhile."""
        if self._is_kept(block):
            return None
        partial = self._folder / f".new-{self._key}.{block}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            turn = self._turn(block, partial)
        except OSError:  # no cache
            return self._in_memory(block, what)
        if turn is None:
            return None
        try:
            data = self._whole(block, what)
            try:
                os.ftruncate(turn, 0)
                at = 0
                while at < len(data):
                    at += os.pwrite(turn, memoryview(data)[at:], at)
                partial.replace(self._path(block))
            except OSError:  # a full disk
                self._memory = block, data
                with suppress(OSError):
                    partial.unlink()
        finally:
            _release(turn)
        _make_room(self._folder.parent)
        return data

    def _turn(self, block: int, partial: Path) -> int | None:
        """`partial`, open and locked, when it is our turn to fetch a block; None when another has.

        Only who holds the lock on the file that has this name renames or removes it.
        """
        while True:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                with suppress(FileNotFoundError):
                    if os.path.samestat(partial.stat(), os.fstat(descriptor)):
                        if not self._is_kept(block):
                            kept, descriptor = descriptor, -1
                            return kept
                        partial.unlink()
                if self._is_kept(block):
                    return None
            finally:
                if descriptor >= 0:
                    _release(descriptor)

    def _in_memory(self, block: int, what: str) -> bytes:
        data = self._whole(block, what)
        self._memory = block, data
        return data

    def _whole(self, block: int, what: str) -> bytes:
        start, size = block * BLOCK, self._length(block)
        data = fetch(self.path, start, start + size, what)
        if len(data) != size:
            raise ShardError(f"{self.path}: {what}: the store gave {len(data)} of {size} bytes at {start}")
        return data


def _release(descriptor: int) -> None:
    """Unlock and close. A process that was forked meanwhile has the file open too, and would hold the lock."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


class _OpenBlock:
    """A block of the cache, open; closed when the last reference to it goes. If it is removed meanwhile, it can still be read."""

    def __init__(self, block: int, path: Path) -> None:
        self.block = block
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self._used = status.st_mtime

    def read(self, start: int, end: int) -> bytes | None:
        """Bytes [start, end); None if it has fewer or cannot be read."""
        now = time.time()
        try:
            if now - self._used > _RECENT:
                self._used = now
                with suppress(OSError):  # of another user
                    os.utime(self._descriptor)
            data = os.pread(self._descriptor, end - start, start)
        except OSError:
            return None
        return data if len(data) == end - start else None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


_own: tuple[int, ThreadPoolExecutor] | None = None


def in_background(do: Callable[[], object]) -> None:
    """Call `do` in a thread of this process's own; what it raises is not told."""
    global _own
    if _own is None or _own[0] != os.getpid():
        _own = os.getpid(), ThreadPoolExecutor(_THREADS, "mixc-ahead")
    _own[1].submit(do)


_fetched = 0
_lock = threading.Lock()


def _make_room(blocks: Path) -> None:
    """Remove the least recently used blocks while the disk is too full."""
    global _fetched
    _fetched += 1
    if _fetched % _LOOK_EVERY or not _lock.acquire(blocking=False):
        return
    try:
        missing = _missing(blocks)
        if missing <= 0:
            return
        now, found = time.time(), []
        for entry in blocks.glob("[0-9a-f][0-9a-f]/[0-9a-f]*.*"):
            with suppress(OSError):
                status = entry.stat()
                if now - status.st_mtime > _RECENT:
                    found.append((status.st_mtime, entry, status.st_size))
        for _, entry, size in sorted(found):
            if missing <= 0:
                break
            with suppress(OSError):
                entry.unlink()
                missing -= size
    finally:
        _lock.release()


def _missing(blocks: Path) -> int:
    """Bytes by which the disk is too full."""
    usage = shutil.disk_usage(blocks)
    return int(usage.total * KEEP_FREE) - usage.free
