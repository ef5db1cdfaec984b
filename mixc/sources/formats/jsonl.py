"""JSON lines: one object a line; plain, gzip or zstd. In bounded memory, whatever the lines hold."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

from mixc.sources.files import Opener, at_most, open_binary
from mixc.sources.formats.inflate import StreamError, inflated
from mixc.sources.formats.json_value import BadJSONError, parse_utf8
from mixc.sources.fragment import Part
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow, reject
from mixc.sources.sample import Reject


class Line(NamedTuple):
    number: int
    """From 1, counting blank lines, as an editor does."""
    content: bytes | None
    """Without its line end; None when longer than ROW_BYTES_LIMIT."""


def rows(path: str, format: str, part: Part | None = None, opener: Opener = open_binary) -> Iterator[RawRow | Reject]:
    """The rows of a file of format jsonl, jsonl.gz or jsonl.zst, or of a part of a plain one. Raises OSError.

    Lines end with LF or CRLF. Blank lines are not rows. A UTF-8 byte order mark at the start is skipped.
    Where the stream breaks off, the lines before it are kept and one Reject follows.
    """
    row = 0 if part is None else part.first_row
    with opener(path) as file:
        try:
            for line in _row_lines(file, format, part):
                yield _row(row, line)
                row += 1
        except StreamError as error:  # within the block: what remains of the file is still to be hashed
            yield reject(row, "broken_row", f"nothing after row {row} can be read: {error}")


def _row_lines(file: BinaryIO, format: str, part: Part | None) -> Iterator[Line]:
    """The lines that are rows. Raises OSError, StreamError."""
    if part is None:
        stream = inflated(file, format)
    else:
        file.seek(part.first)
        stream = at_most(file, part.last - part.first)
    for line in lines(stream, start=1 if part is None else part.first_line):
        if line.content is None or line.content.strip():
            yield line


def line_of(path: str, format: str, row: int, part: Part | None = None) -> Line | None:
    """The line that is a row of the file, read again from the start of it or of its part. None where there is no such row, or
    the stream breaks off before it. Raises OSError."""
    first = 0 if part is None else part.first_row
    with open_binary(path) as file:
        try:
            return next(islice(_row_lines(file, format, part), row - first, None), None)
        except StreamError:
            return None


def _row(row: int, line: Line) -> RawRow | Reject:
    place = f"line {line.number}"
    if line.content is None:
        return reject(row, "broken_row", f"line {line.number} is longer than {ROW_BYTES_LIMIT >> 20} MiB", place)
    try:
        value = parse_utf8(line.content)
    except UnicodeDecodeError as error:
        return reject(row, "not_utf8", f"line {line.number}, byte {error.start + 1}: {error.reason}", place)
    except BadJSONError as error:
        return reject(row, "broken_row", f"line {line.number}: {error}", place)
    if not isinstance(value, dict):
        return reject(row, "wrong_type", f"line {line.number} is {type(value).__name__}, not an object", place)
    return RawRow(row=row, values=value, place=place)


def lines(stream: Iterator[bytes], *, keep_cr: bool = False, start: int = 1) -> Iterator[Line]:
    """Splits at LF, and takes a CR before it away unless it is to be kept. Lines are numbered from `start`. Holds one line at
    most, and of a line that is too long nothing but the fact.

    A StreamError of `stream` is passed on after the last whole line; the piece of a line before it is left
    out.
    """
    number = start
    parts: list[bytes] = []  # of the line that the last chunk left open
    size = 0
    for chunk in stream:
        first, *others = chunk.split(b"\n")
        size += len(first)
        if size <= ROW_BYTES_LIMIT:
            parts.append(first)
        else:
            parts.clear()
        for other in others:
            yield _line(number, parts, size, keep_cr)
            number, parts, size = number + 1, [other], len(other)
    if size:
        yield _line(number, parts, size, keep_cr)


def _line(number: int, parts: list[bytes], size: int, keep_cr: bool) -> Line:
    if size > ROW_BYTES_LIMIT:
        return Line(number, None)
    content = b"".join(parts)
    if not keep_cr:
        content = content.removesuffix(b"\r")
    return Line(number, content.removeprefix(codecs.BOM_UTF8) if number == 1 else content)
