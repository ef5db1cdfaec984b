"""Decompressing a stream in bounded memory, and telling a truncated stream from a whole one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

from mixc.sources.files import CHUNK, chunks

_ZSTD_INPUT = 4 << 10
"""Compressed bytes given to zstd at a time. The highest ratio of the format is an RLE block, 128 KiB from 4
bytes, so that one call gives at most 128 MiB, however hostile the file; ordinary text gives 10 to 20 KiB."""

_ZSTD_WINDOW = 1 << 27
"""The largest window accepted, 128 MiB: that of `zstd --long=27`, and the default limit of `zstd -d`."""


class StreamError(Exception):
    """The stream is truncated or corrupt from here on. What was given before is good."""


def inflated(file: BinaryIO, format: str) -> Iterator[bytes]:
    """The content of a file whose format ends with `.gz`, `.zst` or neither. Raises StreamError as those do."""
    if format.endswith(".gz"):
        return gunzip(file)
    return unzstd(file) if format.endswith(".zst") else chunks(file)


def gunzip(file: BinaryIO) -> Iterator[bytes]:
    """The content of a gzip file of one or more members. Each member's CRC is checked.

    Raises StreamError after the last good bytes. Zero bytes after a member are padding, as for gzip(1).
    """
    inflater, inside, data = zlib.decompressobj(wbits=31), False, b""
    while True:
        if not data and not (data := file.read(CHUNK)):
            if inside:
                yield inflater.flush()
                raise StreamError("the gzip stream ends in the middle: truncated")
            return
        if not inside and not (data := data.lstrip(b"\0")):
            continue
        try:
            content = inflater.decompress(data, CHUNK)
        except zlib.error as error:
            raise StreamError(f"the gzip stream is corrupt: {error}") from None
        inside = True
        if content:
            yield content
        if inflater.eof:
            data, inflater, inside = inflater.unused_data, zlib.decompressobj(wbits=31), False
        else:
            data = inflater.unconsumed_tail


def unzstd(file: BinaryIO) -> Iterator[bytes]:
    """The content of a zstd file of one or more frames, skippable frames left out. Frame checksums are
    checked.

    Raises StreamError after the last good bytes.
    """
    # not stream_reader: it takes a truncated frame for the end of the file, without a word
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frame, inside, data = decompressor.decompressobj(), False, b""
    while True:
        if not data and not (data := file.read(_ZSTD_INPUT)):
            if inside:
                raise StreamError("the zstd stream ends in the middle: truncated")
            return
        try:
            content = frame.decompress(data)
        except zstandard.ZstdError as error:
            raise StreamError(f"the zstd stream is corrupt: {error}") from None
        inside = True
        if content:
            yield content
        if frame.eof:
            data, frame, inside = frame.unused_data, decompressor.decompressobj(), False
        else:
            data = b""
