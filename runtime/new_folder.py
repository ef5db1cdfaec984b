"""A folder that appears when it is whole: until then it is `.NAME.partial`, beside."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import ArgumentError
from shards.atomic import sync_folder

_LOCK = ".lock"


@contextmanager
def appearing(folder: Path, *, size: int, replacing: bool = False) -> Iterator[Path]:
    """Where to write what will be `folder`, of at least `size` bytes. When the block ends well it takes its name: in the place
    of nothing or an empty folder, or, if `replacing`, of what was there.

    When it does not end well the partial folder is removed; of a killed process it stays, and the next that writes to `folder`
    removes it. Files in it must be synced by the block. Raises ArgumentError when another process is writing there; OSError when
    it cannot be written, before anything is if there is no room.
    """
    folder = Path(os.path.realpath(folder))  # `.` has no name, and a link is not what is to be replaced
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(
                "another process is writing it", where=str(folder), mend="wait for it, or give another folder"
            ) from None
        try:
            _clear(partial)
            _has_room(partial, folder, size)
            yield partial
            (partial / _LOCK).unlink()
            sync_folder(partial)
            if replacing:
                shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)
    sync_folder(folder.parent)


def _clear(partial: Path) -> None:
    """Remove what a killed process has left."""
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _has_room(partial: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(partial).free
    if free < size:
        said = f"{os.strerror(errno.ENOSPC)}: it takes {size:,} bytes, and {free:,} are free"
        raise OSError(errno.ENOSPC, said, str(folder))
