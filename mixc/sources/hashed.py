"""Files that are hashed while something else reads them, so that a scan reads each byte once."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, cast

from blake3 import blake3

from mixc.sources import files


class Hashing:
    """Opens files for readers that go from start to end, and gives the blake3 of each.

    One thread: with 1 MiB at a time blake3 does 4.5 GB/s of one core, reading from the page cache included; on two cores it
    is a quarter faster at best, for 1.3 times the work, and the scan's threads have other files to read (benchmarks/scan.py).
    """

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def open(self, path: str) -> BinaryIO:
        """As `files.open_binary`, for `with`, and without seeks. Whoever leaves the block well has had the rest of the file
        read for them."""
        return cast(BinaryIO, _Hashed(files.open_binary(path), lambda digest: self._digests.update({path: digest})))

    def digest(self, path: str) -> str:
        """blake3 hex of the file's bytes. Reads the file if nobody has read it through `open`. Raises OSError."""
        if path not in self._digests:
            with self.open(path):
                pass
        return self._digests[path]


class _Hashed(io.RawIOBase):
    def __init__(self, file: BinaryIO, done: Callable[[str], None]) -> None:
        self._file, self._done = file, done
        self._hasher = blake3()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hasher.update(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:  # not on the way out of a file that is broken, or of a ctrl-C
                while self.read(files.CHUNK):
                    pass
                self._done(self._hasher.hexdigest())
        finally:
            self.close()
