"""The line of a file that made a row unusable, with a caret under the place: for JSON lines, where a row is a line.

    4 | …"id": 17, "text": 12, "lang": "en"}
      |                    ^^

It is for the few rows that a message names: the file is read again up to the row.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable

from mixc.errors import SourceError
from mixc.sources.caret import Span, shown
from mixc.sources.files import reading
from mixc.sources.formats import jsonl
from mixc.sources.formats.jsonl import Line
from mixc.sources.fragment import Fragment
from mixc.sources.names import names
from mixc.sources.sample import Reason, Reject
from mixc.spec.diagnostics import printable
from mixc.spec.schema import Source

_COLUMN = re.compile(r"column ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_TURN = re.compile(r"turn (\d+)")
_OF_IMAGES: tuple[Reason, ...] = (
    "path_escape",
    "image_missing",
    "image_empty",
    "image_undecodable",
    "image_bomb",
    "placeholder_mismatch",
)
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def excerpt(fragment: Fragment, source: Source, reject: Reject) -> list[str]:
    """The row's line and its caret, as lines of text. None where the format has no lines, the line is too long to be read, or
    the file is not there or is another by now."""
    if not fragment.format.startswith("jsonl"):
        return []
    try:
        with reading(fragment.path):
            line = jsonl.line_of(fragment.path, fragment.format, reject.row, fragment.part)
    except SourceError:
        return []
    if line is None or line.content is None:
        return []
    text = line.content.decode(errors="replace")
    return shown(line.number, text, place(line, text, source, fragment.format, reject))


def reason(reject: Reject) -> str:
    """Why a row is unusable, for a terminal."""
    return f"{reject.reason}: {printable(reject.detail, len(reject.detail))}"


def place(line: Line, text: str, source: Source, format: str, reject: Reject) -> Span:
    """Where in the text of a line the fault is: where its UTF-8 or JSON breaks, else the value of the field that is to blame, else
    where its object ends without that field."""
    assert line.content is not None
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    try:
        line.content.decode()
        json.loads(text)
    except UnicodeDecodeError as error:
        at = len(line.content[: error.start].decode())
        return at, at + 1
    except json.JSONDecodeError as error:
        return error.pos, error.pos + 1
    except (ValueError, RecursionError):
        return begin, begin + 1
    fields = _members(text)
    if reject.reason == "broken_row" or not fields:
        return begin, begin + 1
    for name in _blamed(source, format, reject):
        if name in fields:
            return _turn(text, fields[name], reject.detail)
    return end - 1, end


def _turn(text: str, field: Span, detail: str) -> Span:
    """Of a conversation the turn that the detail names; all of it where there is none, or where turns may be counted without the
    first, which is left out when it is the system's and empty."""
    match = _TURN.match(detail)
    turns = _items(text, field[0]) if match else []
    if match is None or int(match[1]) >= len(turns):
        return field
    first = json.loads(text[slice(*turns[0])])
    if isinstance(first, dict) and "system" in (first.get("from"), first.get("role")):
        return field
    return turns[int(match[1])]


def _blamed(source: Source, format: str, reject: Reject) -> Iterable[str]:
    """Fields, by the names in the file, that a reject is about: the one that it names, or those of what it is about."""
    used = names(source, format)
    found: list[str] = []
    if match := _COLUMN.search(reject.detail):
        found.append(str(ast.literal_eval(match[1])))
    if reject.reason in _OF_IMAGES and used.image:
        found.append(used.image)
    elif not found:
        found += used.messages or ((used.text,) if used.text else ())
    old = source.columns or {}
    return [each for name in found for each in (old.get(name, name), name)]


def _members(text: str) -> dict[str, Span]:
    """Where the values of an object's fields stand. Of a field that comes twice the last counts."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return {}
    found: dict[str, Span] = {}
    at = _skip(text, at + 1)
    while text[at : at + 1] not in ("}", ""):
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # the colon
        _, end = _DECODER.raw_decode(text, at)
        found[key] = (at, end)
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at : at + 1] == "," else at
    return found


def _items(text: str, at: int) -> list[Span]:
    """Where the items of the list that begins at `at` stand."""
    found: list[Span] = []
    if text[at] != "[":
        return found
    at = _skip(text, at + 1)
    while text[at : at + 1] not in ("]", ""):
        _, end = _DECODER.raw_decode(text, at)
        found.append((at, end))
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at : at + 1] == "," else at
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches the empty string
    return match.end()
