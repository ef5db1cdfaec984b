"""Questions in a file: what `mixc chat --batch` answers in another, and `mixc train --eval-questions` while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from mixc.errors import MixcError

ANSWER, END, ERROR = "answer", "end", "error"
"""What a line of the answers has more than its question's."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    images: list[str] = []
    frames: list[str] = []


class _Referenced(_Line, frozen=True, kw_only=True):
    id: str | int | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A line of the questions' file."""

    text: str
    images: list[Path]
    frames: list[Path]
    fields: dict[str, msgspec.Raw]
    """The line, values as they are written: they go into the answers' file."""
    line: int
    """Its number in the file, from 1."""
    id: str | int | None = None
    answer: str | None = None
    """The right one. This and `id` of questions that are read with `references`."""


def read(path: Path, *, references: bool = False) -> Iterator[Question]:
    """The lines of a JSON Lines file; images relative to it. With `references`, `id` and `answer` mean something. Raises MixcError,
    with the line's number, for what is no question."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MixcError("cannot read the questions", where=str(path), why=error.strerror or str(error)) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _question(line, path, number, references)


def _question(line: bytes, path: Path, number: int, references: bool) -> Question:
    where = f"{path}:{number}"
    try:
        found = msgspec.json.decode(line, type=_Referenced if references else _Line)
        fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MixcError(
            "not a question",
            where=where,
            why=str(error),
            mend='a line is {"question": "...", "images": ["a.jpg"]}; images and frames may be left out',
        ) from None
    if not references and (taken := sorted({ANSWER, END, ERROR} & fields.keys())):
        raise MixcError(
            f"a question has {taken[0]!r} already",
            where=where,
            why="the answer is written there, and what stands there would be lost",
            mend="give it another name",
        )
    if found.images and found.frames:
        raise MixcError("a question is about images or about a video's frames, not both", where=where)
    images, frames = ([path.parent / each for each in some] for some in (found.images, found.frames))
    # of its own: a Raw is a view into the line, and would keep all of it
    kept = {name: value.copy() for name, value in fields.items()}
    question = Question(found.question, images, frames, kept, number)
    return replace(question, id=found.id, answer=found.answer) if isinstance(found, _Referenced) else question
