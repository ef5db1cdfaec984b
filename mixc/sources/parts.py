"""Large files in parts, so that several processes can measure one file.

JSON lines are cut at line ends, Parquet between row groups. Where is decided by the file's content alone; other formats
are read from end to end or not at all.
"""

from __future__ import annotations

import codecs

import pyarrow.parquet as pq

from mixc.sources.fragment import Part

PART_BYTES = 32 << 20
"""A part is at least this long and, but for a long line or row group, shorter than twice that. A default of ours: some
seconds of work, so that the last task of a compile does not leave the other processes idle for long, and a terabyte of
text is 30 thousand objects."""


class LineParts:
    """The parts of a file of JSON lines, found while something else reads it from end to end."""

    def __init__(self, size: int, *, part_bytes: int = PART_BYTES) -> None:
        """`size`: bytes of the file."""
        count = size // part_bytes
        self._targets = [size * k // count for k in range(count - 1, 0, -1)]  # to be taken from the end
        self._starts = [Part(first=0, last=0, first_row=0, first_line=1)]
        self._position = self._rows = 0
        self._line = 1
        self._held = b""
        self._open = False  # whether the unfinished line has more than white space

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the file."""
        if not self._position:  # a byte order mark comes whole
            chunk = self._held + chunk
            if len(chunk) < len(codecs.BOM_UTF8):
                self._held = chunk
                return
        start = 0
        while self._targets and self._targets[-1] < self._position + len(chunk):
            end = chunk.find(b"\n", max(start, self._targets[-1] - self._position)) + 1
            if not end:
                break
            self._count(chunk[start:end])
            first = self._position + end
            self._starts.append(Part(first=first, last=0, first_row=self._rows, first_line=self._line))
            while self._targets and self._targets[-1] < first:
                self._targets.pop()
            start = end
        self._count(chunk[start:])
        self._position += len(chunk)

    def _count(self, piece: bytes) -> None:
        head, *rest = piece.split(b"\n")
        if not self._position and self._line == 1:
            head = head.removeprefix(codecs.BOM_UTF8)
        self._open = self._open or not _is_blank(head)
        if rest:
            *whole, last = rest
            self._rows += self._open + sum(not _is_blank(line) for line in whole)
            self._line += len(rest)
            self._open = not _is_blank(last)

    def parts(self) -> list[Part]:
        """In order, all of them; empty when the file is one part."""
        starts = [part for part in self._starts if part.first < self._position]
        if len(starts) < 2:
            return []
        ends = [*(part.first for part in starts[1:]), self._position]
        return [
            Part(first=part.first, last=last, first_row=part.first_row, first_line=part.first_line)
            for part, last in zip(starts, ends, strict=True)
        ]


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def row_group_parts(file: pq.ParquetFile, *, part_bytes: int = PART_BYTES) -> list[Part]:
    """Runs of row groups, in order, each of at least `part_bytes` decompressed; empty when the file is one part."""
    parts: list[Part] = []
    first = rows = first_row = size = 0
    for group in range(file.num_row_groups):
        meta = file.metadata.row_group(group)
        rows += meta.num_rows
        size += meta.total_byte_size
        if size >= part_bytes:
            parts.append(Part(first=first, last=group + 1, first_row=first_row))
            first, first_row, size = group + 1, rows, 0
    if size and parts:
        parts.append(Part(first=first, last=file.num_row_groups, first_row=first_row))
    return parts if len(parts) > 1 else []
