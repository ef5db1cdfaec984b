"""A JSON file that holds one list of objects (LLaVA, ShareGPT), read an object at a time in bounded
memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from mixc.errors import SourceError
from mixc.sources.caret import shown
from mixc.sources.files import CHUNK, Opener, open_binary, printable
from mixc.sources.formats.json_value import DEPTH_LIMIT, too_deep
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow, reject
from mixc.sources.sample import Reject

_SPACE = re.compile(r"[ \t\r\n]*")
_CUT_TOKEN = re.compile(r"u[0-9A-Fa-f]{0,4}|\.|[eE][+-]?")  # of an escape, of a number
_DECODER = json.JSONDecoder()


def rows(path: str, opener: Opener = open_binary) -> Iterator[RawRow | Reject]:
    """The objects of the list, in order. Raises OSError, and SourceError with line and column where the file
    is not a list or where its JSON is broken: beyond that place, no row of it could be told from another.

    A file that ends in the middle (a broken download) keeps its rows, followed by one Reject.
    """
    with opener(path) as file:
        text = _Text(file)
        text.skip_space()
        if text.peek() != "[":
            raise _not_a_list(path, text)
        text.position += 1
        row = 0
        text.skip_space()
        while text.peek() != "]":
            try:
                if row:
                    text.expect(",")
                value, brackets = text.value()
            except _CutError:
                yield reject(row, "broken_row", f"the file ends in the middle of row {row}: truncated")
                return
            except _BrokenError as error:
                raise SourceError(
                    f"row {row} of this list is broken JSON",
                    where=f"{printable(path)}:{error.line}:{error.column}",
                    why="\n".join([str(error), *error.shown]),
                    mend="mend the file there; JSON lines (one object a line) lose only the broken line",
                ) from None
            if too_deep(value, brackets):
                yield reject(row, "broken_row", f"nested more than {DEPTH_LIMIT} deep")
            elif isinstance(value, dict):
                yield RawRow(row=row, values=value)
            else:
                yield reject(row, "wrong_type", f"row {row} is {type(value).__name__}, not an object")
            row += 1
            text.skip_space()
        text.position += 1
        text.skip_space()
        if text.peek():
            line, column = text.place(text.position)
            raise SourceError(
                "there is text after the list",
                where=f"{printable(path)}:{line}:{column}",
                mend="keep one list in the file; write the others as files of their own",
            )


def _not_a_list(path: str, text: _Text) -> SourceError:
    first = text.peek()
    mends = {
        "": "the file is empty: write a list, `[]` at least, or leave the file out",
        "{": "is it one object a line? say `format: jsonl`. Is the list in an object? keep the list alone",
    }
    return SourceError(
        "this JSON file is not a list of objects",
        where=printable(path),
        why=f"it begins with {first!r}" if first else "it holds nothing",
        mend=mends.get(first, "write a list of objects: [{...}, {...}]"),
    )


class _CutError(Exception):
    """The file ends inside a value."""


class _BrokenError(Exception):
    def __init__(self, message: str, line: int, column: int, shown: list[str]) -> None:
        """`shown`: the line with a caret."""
        super().__init__(message)
        self.line, self.column, self.shown = line, column, shown


class _Text:
    """A window on the decoded text that grows to the row it is at and forgets what is behind.

    A value is parsed from the window as it stands; when that fails, the window is doubled and the value
    parsed again, up to ROW_BYTES_LIMIT characters, since a value that is cut and one that is broken look
    alike until there is more.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape").decode
        self._window = ""
        self._end = False
        self._line, self._column = 1, 1  # of the window's first character
        self.position = 0

    def peek(self) -> str:
        """The next character, or "" at the end."""
        while self.position >= len(self._window) and self._more(CHUNK):
            pass
        return self._window[self.position : self.position + 1]

    def skip_space(self) -> None:
        while True:
            match = _SPACE.match(self._window, self.position)
            assert match is not None  # the pattern matches the empty string
            self.position = match.end()
            if self.position < len(self._window) or not self._more(CHUNK):
                return

    def expect(self, character: str) -> None:
        """Passes over `character` and the space after it."""
        found = self.peek()
        if not found:
            raise _CutError
        if found != character:
            raise self._broken(f"expected {character!r}, found {found!r}", self.position)
        self.position += 1
        self.skip_space()

    def value(self) -> tuple[object, int]:
        """The next value, and how many brackets its text opens."""
        if not self.peek():
            raise _CutError
        while True:
            start = self.position
            try:
                value, stop = _DECODER.raw_decode(self._window, start)
            except RecursionError:
                raise self._broken("nested too deeply", start) from None
            except json.JSONDecodeError as error:
                if len(self._window) - start <= ROW_BYTES_LIMIT and self._more(len(self._window) - start):
                    continue
                if self._end and _looks_cut(error):
                    raise _CutError from None
                limit = "" if self._end else f" (within {ROW_BYTES_LIMIT >> 20} MiB, the limit of a row)"
                raise self._broken(error.msg + limit, error.pos) from None
            except ValueError as error:  # an int of thousands of digits
                raise self._broken(str(error), start) from None
            if stop == len(self._window) and self._more(CHUNK):
                continue  # a number may go on
            brackets = self._window.count("[", start, stop) + self._window.count("{", start, stop)
            self.position = stop
            return value, brackets

    def place(self, position: int) -> tuple[int, int]:
        """Line and column, from 1, of a position in the window."""
        newlines = self._window.count("\n", 0, position)
        if not newlines:
            return self._line, self._column + position
        return self._line + newlines, position - self._window.rfind("\n", 0, position)

    def _broken(self, message: str, position: int) -> _BrokenError:
        line, column = self.place(position)
        start = self._window.rfind("\n", 0, position) + 1
        end = self._window.find("\n", position)
        text = self._window[start : end if end >= 0 else len(self._window)].rstrip("\r")
        return _BrokenError(message, line, column, shown(line, text, (position - start, position - start + 1)))

    def _more(self, wanted: int) -> bool:
        """Forgets what is behind and reads at least `wanted` bytes more; False at the end of the file."""
        if self._end:
            return False
        self._line, self._column = self.place(self.position)
        parts = [self._window[self.position :]]
        self.position = 0
        wanted = max(wanted, CHUNK)
        while not self._end and (wanted > 0 or not any(parts[1:])):  # a byte need not be a character
            data = self._file.read(max(wanted, 1))
            self._end = not data
            parts.append(self._decode(data, self._end))
            wanted -= len(data)
        self._window = "".join(parts)
        return len(self._window) > len(parts[0])


def _looks_cut(error: json.JSONDecodeError) -> bool:
    """Whether the parser ran out of text, rather than met a wrong character."""
    rest = error.doc[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated string"):
        return True
    if _CUT_TOKEN.fullmatch(rest):
        return True
    return any(literal.startswith(rest) for literal in ("true", "false", "null", "NaN", "Infinity", "-Infinity"))
