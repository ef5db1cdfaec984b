"""Reading a tar in one pass: names, sizes and content of its members, and what is wrong with it.

The standard library's tarfile takes a damaged header in the middle for the end of the archive, keeps every
member in memory, and allocates what a header asks for. Here the first is an error, and the others cannot
happen. Header blocks are still decoded by `tarfile.TarInfo`. Formats: v7, ustar, pax (POSIX.1-2001), GNU long
names.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from mixc.sources.files import CHUNK

_BLOCK = tarfile.BLOCKSIZE
_ZERO = bytes(_BLOCK)
_HEADER_LIMIT = 1 << 20
"""An extended header (a long name) longer than 1 MiB is damage."""
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


class TarError(Exception):
    """The archive is truncated or damaged from here on."""

    def __init__(self, message: str, name: str | None = None, *, whole: bool = False) -> None:
        super().__init__(message)
        self.name = name
        """The member that is cut, when it is known."""
        self.whole = whole
        """Whether every member before this place is whole."""


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    """As it stands in the archive; bytes that are not UTF-8 as lone surrogates. Never a path to open."""
    size: int
    plain: bool
    """A regular file, stored whole: not a link, folder, device or sparse file."""
    _file: BinaryIO = field(repr=False)
    _start: int = field(repr=False)

    def read(self) -> bytes:
        """The content. To be called before the next member is asked for."""
        self._file.seek(self._start)
        return _exactly(self._file, self.size, self.name)


@dataclass(slots=True)
class _Extended:
    """What extended headers say about the member that follows them."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


def members(file: BinaryIO) -> Iterator[Member]:
    """The members in order. `file` is seekable. Raises TarError after the last good member."""
    end = file.seek(0, 2)
    position = 0
    extended = _Extended()
    while True:
        file.seek(position)
        block = file.read(_BLOCK)
        if block == _ZERO:
            _check_end(file)
            return
        if not block:
            raise TarError("the archive has no end mark: it may be truncated", whole=True)
        info = _header(block)
        content = position + _BLOCK
        if info.type == tarfile.GNUTYPE_SPARSE:
            content = _skip_sparse_map(file, block, content)
        # a size outside of the file, however large, is found here, before anything is allocated for it
        is_header = info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, *_LONG)
        size = info.size if is_header or extended.size is None else extended.size
        stored = size if info.isreg() or is_header or info.type not in tarfile.SUPPORTED_TYPES else 0
        name = info.name if is_header or extended.name is None else extended.name
        if size < 0:
            raise TarError("damaged header: negative size")
        if content + stored > end:
            raise TarError(f"cut in the middle of {name!a}: truncated", None if is_header else name)
        position = content + -(-stored // _BLOCK) * _BLOCK
        if is_header:
            if stored > _HEADER_LIMIT:
                raise TarError(f"damaged: an extended header of {stored} bytes")
            file.seek(content)
            _extend(extended, info.type, _exactly(file, stored, None))
            continue
        plain = info.isreg() and info.type != tarfile.GNUTYPE_SPARSE and not extended.sparse
        yield Member(name, size, plain, file, content)
        extended = _Extended()


_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def _header(block: bytes) -> tarfile.TarInfo:
    if len(block) < _BLOCK:
        raise TarError("cut in the middle of a header: truncated")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise TarError(f"damaged header: {error}") from None


def _extend(extended: _Extended, kind: bytes, content: bytes) -> None:
    """Takes what an extended header says. Global headers (`g`) name no member and are passed over."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        extended.name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    elif kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        position = 0
        while match := _PAX_RECORD.match(content, position):
            length, key = int(match[1]), match[2]
            if length <= match.end() - position:
                raise TarError("damaged pax header")
            value = content[match.end() : position + length - 1]
            position += length
            if key == b"path":
                extended.name = value.decode("utf-8", "surrogateescape")
            elif key == b"size":
                if not value.isdigit() or len(value) > 19:
                    raise TarError("damaged pax header: size")
                extended.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                extended.sparse = True


def _skip_sparse_map(file: BinaryIO, block: bytes, content: int) -> int:
    """Where the content of an old GNU sparse member begins: after the blocks that go on with its map."""
    more = block[482] != 0
    while more:
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise TarError("cut in the middle of a header: truncated")
        content += _BLOCK
        more = block[504] != 0
    return content


def _check_end(file: BinaryIO) -> None:
    """After the end mark there may be padding, and nothing else: `cat a.tar b.tar` would lose b without a
    word."""
    while data := file.read(CHUNK):
        if data.strip(b"\0"):
            raise TarError("there is more after the archive's end mark: tars joined with cat?", whole=True)


def _exactly(file: BinaryIO, size: int, name: str | None) -> bytes:
    parts = []
    while size > 0:
        data = file.read(size)
        if not data:
            raise TarError("cut: the file became shorter while it was read", name)
        parts.append(data)
        size -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)
