"""Large files in parts, so that several processes can measure one file.

JSON lines are cut at line ends, Parquet between row groups. Where is decided by the file's content alone; other formats
are read from end to end or not at all. A build does not depend on it: two files and two parts of one are the same to it.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from dataclasses import dataclass

import pyarrow.parquet as pq
from blake3 import blake3

from mixc.sources.fragment import Part

PART_BYTES = 32 << 20
"""A part is this long, and longer by a piece of a line or row group; but for the last, which is what remains. A default of
ours: some seconds of work, so that the last task of a compile does not leave the other processes idle for long, and a
terabyte of text is 30 thousand objects."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file, or all of it."""

    part: Part | None
    """None: all."""
    digest: str
    """blake3 hex of the file's bytes; for a part see docs/sources.md."""
    bytes: int
    """As they lie in the file."""


class LineParts:
    """The pieces of a file of JSON lines, found and hashed while something else reads it from end to end.

    Parts begin at the first line end at or after each multiple of `part_bytes` (PART_BYTES), so a file to which lines
    are appended keeps all of its parts but the last.
    """

    def __init__(self, *, part_bytes: int | None = None) -> None:
        self._part_bytes = self._target = part_bytes or PART_BYTES
        self._starts = [Part(first=0, last=0, first_row=0, first_line=1)]
        self._hashers = [blake3()]
        self._position = self._rows = 0
        self._line = 1
        self._held = b""
        self._open = False  # whether the unfinished line has more than white space

    def update(self, chunk: bytes) -> None:
        """The next bytes of the file."""
        if not self._position:  # a byte order mark comes whole
            self._held += chunk
            if len(self._held) < len(codecs.BOM_UTF8):
                return
            chunk, self._held = self._held, b""
        self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        start = 0
        while self._target <= self._position + len(chunk):
            # a line that ends just before the multiple ends a part, too
            end = chunk.find(b"\n", max(start, self._target - 1 - self._position)) + 1
            if not end:
                break
            self._count(chunk[start:end])
            self._starts.append(Part(first=self._position + end, last=0, first_row=self._rows, first_line=self._line))
            self._hashers.append(blake3())
            self._target = (self._starts[-1].first // self._part_bytes + 1) * self._part_bytes
            start = end
        self._count(chunk[start:])
        self._position += len(chunk)

    def _count(self, piece: bytes) -> None:
        self._hashers[-1].update(piece)
        head, *rest = piece.split(b"\n")
        if not self._position and self._line == 1:
            head = head.removeprefix(codecs.BOM_UTF8)
        self._open = self._open or not _is_blank(head)
        if rest:
            *whole, last = rest
            self._rows += self._open + sum(not _is_blank(line) for line in whole)
            self._line += len(rest)
            self._open = not _is_blank(last)

    def number(self, row: int) -> int:
        """Of the part that holds a row which the bytes so far have begun."""
        return bisect_right(self._starts, row, key=lambda start: start.first_row) - 1

    def pieces(self) -> list[Piece]:
        """In order, all of them, of a file that has been read to its end."""
        if self._held:
            self._take(self._held)
            self._held = b""
        starts = [start for start in self._starts if start.first < self._position]
        if len(starts) < 2:
            return [Piece(None, self._hashers[0].hexdigest(), self._position)]
        ends = [*(start.first for start in starts[1:]), self._position]
        return [
            Piece(
                Part(first=start.first, last=last, first_row=start.first_row, first_line=start.first_line),
                _digest(start.first_row, start.first_line, content.digest()),
                last - start.first,
            )
            for start, last, content in zip(starts, ends, self._hashers, strict=False)
        ]


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def row_group_pieces(file: pq.ParquetFile, digest: str, size: int, *, part_bytes: int | None = None) -> list[Piece]:
    """Runs of row groups, in order, each of `part_bytes` (PART_BYTES) decompressed. `digest` is the blake3 hex and
    `size` the length of the file."""
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    parts: list[tuple[Part, int]] = []
    first = first_row = rows = stored = inflated = 0
    for number, group in enumerate(groups, 1):
        rows += group.num_rows
        inflated += group.total_byte_size
        stored += sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        if inflated >= (part_bytes or PART_BYTES) or number == len(groups):
            parts.append((Part(first=first, last=number, first_row=first_row), stored))
            first, first_row, stored, inflated = number, rows, 0, 0
    if len(parts) < 2:
        return [Piece(None, digest, size)]
    return [Piece(part, _digest(part.first, part.last, bytes.fromhex(digest)), stored) for part, stored in parts]


def _digest(first: int, second: int, content: bytes) -> str:
    return blake3(b"mixc part 1\0" + first.to_bytes(8, "little") + second.to_bytes(8, "little") + content).hexdigest()
