"""One safetensors file, read and written a tensor at a time or less.

The format: the header's length as 8 bytes, little-endian; the header, JSON of each tensor's dtype, shape and place, filled up with
spaces to a multiple of 8; the tensors' bytes without gaps (github.com/huggingface/safetensors). Files are read, not mapped: one that
is cut short under way is an error and not a SIGBUS, and pages of it do not count as memory of the process. What is written has the
bytes that `safetensors.torch.save_file` gives it, in whatever order the tensors come.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from runtime.errors import CheckpointError

_DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""In the order in which a file has them; within a dtype tensors lie by name."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PLACES = {dtype: place for place, dtype in enumerate(_DTYPES.values())}
_METADATA = "__metadata__"
_LONGEST_HEADER = 100_000_000
"""safetensors' own limit."""


class Stored(NamedTuple):
    """What a file says of a tensor, but for its place."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU as a file has them, row by row, on a little-endian machine. Copies only what is not
    contiguous."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class Reader:
    """The tensors of an open file. Use `reading`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self.head: bytes = b""
        """The file's bytes before the first tensor."""
        self._stored: dict[str, Stored] = {}
        self._offsets: dict[str, int] = {}
        self._read_header()

    @property
    def names(self) -> list[str]:
        """In the file's order: `head` and their bytes, one after another, are the file."""
        return list(self._stored)

    def stored(self, name: str) -> Stored:
        return self._stored[name]

    def read(self, name: str) -> torch.Tensor:
        """One tensor. Raises CheckpointError when the file cannot be read or ends before it."""
        return self.part(name, 0, self._stored[name].numel).reshape(self._stored[name].shape)

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """[stop - start]: elements `start` to `stop` of one tensor, row by row. Raises as `read`."""
        dtype = self._stored[name].dtype
        values = torch.empty(stop - start, dtype=dtype)
        self._fill(raw(values), self._offsets[name] + start * dtype.itemsize, f"{self._path}: {name}")
        return values

    def _fill(self, view: memoryview, offset: int, where: str) -> None:
        while view:
            try:
                count = os.preadv(self._descriptor, [view], offset)
            except OSError as error:
                raise _unreadable(where, str(error.strerror)) from None
            if not count:
                raise _unreadable(where, "the file ends before it does")
            view, offset = view[count:], offset + count

    def _read_header(self) -> None:
        """Raises CheckpointError unless the header is whole and describes exactly the bytes that the file has."""
        path, size = str(self._path), os.fstat(self._descriptor).st_size
        length = bytearray(8)
        self._fill(memoryview(length), 0, path)
        header = int.from_bytes(length, "little")
        if header > min(size - 8, _LONGEST_HEADER):
            raise _unreadable(path, f"its header would be {header} bytes long, and the file has {size}")
        text = bytearray(header)
        self._fill(memoryview(text), 8, path)
        self.head = bytes(length + text)
        try:
            found = msgspec.json.decode(text, type=dict[str, Any])
            found.pop(_METADATA, None)
            entries = msgspec.convert(found, dict[str, _Entry])
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
            raise _unreadable(path, f"its header: {error}") from None
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].data_offsets, item[0])):
            if entry.dtype not in _DTYPES:
                raise _unreadable(path, f"{name} has numbers of the kind {entry.dtype}")
            stored = Stored(tuple(entry.shape), _DTYPES[entry.dtype])
            if min(entry.shape, default=0) < 0 or entry.data_offsets != (end, end + stored.bytes):
                raise _unreadable(path, f"{name} does not lie behind the tensor before it with as many bytes as it has")
            self._stored[name], self._offsets[name] = stored, len(self.head) + end
            end += stored.bytes
        if len(self.head) + end != size:
            raise _unreadable(path, f"the file has {size} bytes, and its header speaks of {len(self.head) + end}")


def _unreadable(where: str, why: str) -> CheckpointError:
    return CheckpointError("cannot be read as safetensors", where=where, why=why)


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """The file at `path`. Raises CheckpointError when it is not there or is no safetensors, and, at the end of a block that ended
    well, when it has changed in the meantime."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(str(path), str(error.strerror)) from None
    try:
        before = os.fstat(descriptor)
        yield Reader(path, descriptor)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise CheckpointError(
                "it was changed while it was read", where=str(path), mend="begin again once it is whole"
            )
    finally:
        os.close(descriptor)


class Writer:
    """A file whose tensors may come in any order. Use `writing`."""

    def __init__(self, path: Path, descriptor: int, stored: Mapping[str, Stored]) -> None:
        self._path, self._descriptor, self._stored = path, descriptor, stored
        entries: dict[str, Any] = {_METADATA: {"format": "pt"}}
        self._offsets: dict[str, int] = {}
        end = 0
        for name in sorted(stored, key=lambda name: (_PLACES[stored[name].dtype], name)):
            shape, dtype = stored[name]
            entries[name] = _Entry(_NAMES[dtype], list(shape), (end, end + stored[name].bytes))
            self._offsets[name] = end
            end += stored[name].bytes
        text = msgspec.json.encode(entries)
        text += b" " * (-len(text) % 8)
        self._head = len(text) + 8
        self._filled = dict.fromkeys(stored, 0)
        self._put(memoryview(len(text).to_bytes(8, "little") + text), 0)

    def write(self, name: str, piece: torch.Tensor) -> None:
        """A tensor, or its next elements, row by row. OSError when it cannot be written."""
        assert piece.dtype == self._stored[name].dtype, name
        view = raw(piece)
        self._put(view, self._head + self._offsets[name] + self._filled[name])
        self._filled[name] += len(view)

    def finish(self) -> None:
        for name, stored in self._stored.items():
            assert self._filled[name] == stored.bytes, f"{name}: {self._filled[name]} of {stored.bytes} bytes came"

    def _put(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from None
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            view, offset = view[count:], offset + count


@contextmanager
def writing(path: Path, stored: Mapping[str, Stored]) -> Iterator[Writer]:
    """A new file at `path` of the tensors in `stored`, synced when the block has ended well. OSError when it cannot be written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        writer = Writer(path, descriptor, stored)
        yield writer
        writer.finish()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
