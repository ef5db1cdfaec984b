"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3


class AtomicFile:
    """What `atomic_write` gives: write-only, append-only, digested on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = blake3()
        self.bytes = 0
        """Written so far; so the offset of the next write."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._hasher.update(data)
        self._file.write(data)
        self.bytes += len(data)
        return len(data)

    @property
    def digest(self) -> str:
        """blake3 of what was written so far, in hex."""
        return self._hasher.hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[AtomicFile]:
    """Write `path` through a temporary file beside it, which takes its name only when the block has ended
    well.

    The file is synced before it is renamed and its folder after, so that a name found after a power cut has
    its whole content. On any exception the temporary file is removed and what stood at `path` before still
    does. Only a killed process leaves a `.NAME.*.partial` behind, which no reader takes for the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield AtomicFile(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
