"""CSV and TSV with a header, plain, gzip or zstd (RFC 4180), in bounded memory.

Every value is text, and an empty field is null. What a value is must not hang on the other rows of its file, or files
of equal rows would differ; `where: "cast(score as double) > 0.5"` says what is meant.

Python's csv module does the parsing: it is strict where asked, streams, and keeps embedded line ends as they are.
pyarrow's guesses types by blocks, and gives up on the whole file at its first bad row.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from mixc.errors import SourceError
from mixc.sources.files import Opener, open_binary, printable
from mixc.sources.formats.inflate import StreamError, inflated
from mixc.sources.formats.jsonl import Line, lines
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow, reject
from mixc.sources.sample import Reject

HEADER_LIMIT = 4096
"""Columns at most."""

# of the process; its default of 128 KiB is less than a document, and above ours it never speaks first
csv.field_size_limit(2 * ROW_BYTES_LIMIT)


RETRY_LIMIT = 32 * ROW_BYTES_LIMIT
"""Bytes of a file, 1 GiB, that are read twice at most: a bound on the work that a hostile file can ask for."""


class _TooLongError(Exception):
    pass


def rows(path: str, format: str, opener: Opener = open_binary) -> Iterator[RawRow | Reject]:
    """The rows under the header. `format` is csv or tsv, then .gz, .zst or nothing. Raises OSError, and SourceError
    when there is no usable header.

    A row with more or fewer fields than the header, or with broken quotes, is a Reject; the line after the one where it
    began is read anew, so that a quote that is never closed costs the row that it stands in and no other. Empty lines are
    not rows. A UTF-8 byte order mark is skipped. A stream that breaks off keeps the rows before.
    """
    delimiter = "\t" if format.startswith("tsv") else ","
    row = 0
    with opener(path) as file:
        feed = _Feed(lines(inflated(file, format), keep_cr=True))
        records = csv.reader(feed, delimiter=delimiter, strict=True)
        try:
            header = _header(path, records)
            while True:
                feed.begin()
                try:
                    record = next(records)
                except StopIteration:
                    return
                except (csv.Error, _TooLongError) as error:
                    again = feed.retry()
                    rest = "" if again else "; nothing after it can be read: too many quotes are never closed"
                    yield reject(row, "broken_row", f"line {feed.first}: {error}{rest}", f"line {feed.first}")
                    row += 1
                    if not again:
                        return
                    continue
                if not record:
                    continue
                yield _row(row, header, record, feed.first)
                row += 1
        except StreamError as error:
            yield reject(row, "broken_row", f"nothing after row {row} can be read: {error}")


def _row(row: int, header: list[str], record: list[str], line: int) -> RawRow | Reject:
    place = f"line {line}"
    if len(record) != len(header):
        return reject(row, "broken_row", f"line {line} has {len(record)} fields, the header {len(header)}", place)
    return RawRow(
        row=row, values={name: value or None for name, value in zip(header, record, strict=True)}, place=place
    )


def _header(path: str, records: Iterator[list[str]]) -> list[str]:
    try:
        header = next((record for record in records if record), [])
    except (csv.Error, _TooLongError, StreamError) as error:
        raise SourceError(
            "the header of this file cannot be read",
            where=printable(path),
            why=str(error),
            mend="the first line names the columns, with commas (.csv) or tabs (.tsv) between; lines end with LF or CRLF",
        ) from None
    repeated = sorted({name for name in header if header.count(name) > 1}) if len(header) <= HEADER_LIMIT else []
    if not header or repeated or len(header) > HEADER_LIMIT:
        raise SourceError(
            f"two columns have the name {repeated[0]!r}" if repeated else f"this header has {len(header)} columns",
            where=printable(path),
            mend="the first line names the columns, each once",
        )
    return header


class _Feed:
    """Lines for csv.reader, with their ends; bounds what one record may take, and gives its lines again."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._size = 0
        self._held: list[Line] = []  # of the record being read
        self._again: deque[Line] = deque()
        self._retried = 0

    @property
    def first(self) -> int:
        """Line number of the record being read."""
        return self._held[0].number if self._held else 1

    def begin(self) -> None:
        self._size, self._held = 0, []

    def retry(self) -> bool:
        """Give the lines after the first of this record again. False when more was given again than RETRY_LIMIT."""
        rest = self._held[1:]
        self._retried += sum(len(line.content or b"") for line in rest)
        self._again.extendleft(reversed(rest))
        return self._retried <= RETRY_LIMIT

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._held.append(line)
        self._size += len(line.content) + 1 if line.content is not None else ROW_BYTES_LIMIT + 1
        if line.content is None or self._size > ROW_BYTES_LIMIT:
            raise _TooLongError(f"a row longer than {ROW_BYTES_LIMIT >> 20} MiB: a quote that is never closed?")
        return line.content.decode("utf-8", "surrogateescape") + "\n"
