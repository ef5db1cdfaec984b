"""Files that are hashed while something else reads them, so that a scan reads each byte once."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Generic, Protocol, TypeVar, cast

from mixc.sources import files


class Sink(Protocol):
    """What a file's bytes go to, in order: a hasher, or what hashes and finds more."""

    def update(self, data: bytes, /) -> object: ...


S = TypeVar("S", bound=Sink)


class Hashing(Generic[S]):
    """Opens files for readers that go from start to end, and has what hashes them see every byte once.

    One thread: with 1 MiB at a time blake3 does 4.5 GB/s of one core, reading from the page cache included; on two cores it
    is a quarter faster at best, for 1.3 times the work, and the scan's threads have other files to read (benchmarks/scan.py).
    """

    def __init__(self, sink: Callable[[], S]) -> None:
        """`sink` makes what the bytes of a file go to, such as `blake3`."""
        self._make = sink
        self._begun: dict[str, S] = {}
        self._seen: dict[str, S] = {}

    def open(self, path: str) -> BinaryIO:
        """As `files.open_binary`, for `with`, and without seeks. Whoever leaves the block well has had the rest of the file
        read for them."""
        sink = self._begun[path] = self._make()
        return cast(BinaryIO, _Hashed(files.open_binary(path), sink, lambda: self._seen.update({path: sink})))

    def begun(self, path: str) -> S:
        """What the bytes that have been read go to, of a file that was opened last."""
        return self._begun[path]

    def whole(self, path: str) -> S:
        """What all bytes of the file went to. Reads the file if nobody has read it through `open`. Raises OSError."""
        if path not in self._seen:
            with self.open(path):
                pass
        return self._seen[path]


class _Hashed(io.RawIOBase):
    def __init__(self, file: BinaryIO, sink: Sink, done: Callable[[], None]) -> None:
        self._file, self._sink, self._done = file, sink, done

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sink.update(data)
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
                self._done()
        finally:
            self.close()
