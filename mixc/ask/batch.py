"""Questions in a file, answers in another: what `mixc chat --batch` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mixc.errors import MixcError

ANSWER, END, ERROR = "answer", "end", "error"
"""What a line of the answers has more than its question's."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    images: list[str] = []
    frames: list[str] = []


@dataclass(frozen=True, slots=True)
class Question:
    """A line of the questions' file."""

    text: str
    images: list[Path]
    frames: list[Path]
    fields: dict[str, msgspec.Raw]
    """The line, values as they are written: they go into the answers' file."""


def read(path: Path) -> Iterator[Question]:
    """The lines of a JSON Lines file; images relative to it. Raises MixcError, with the line's number, for what is no question."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MixcError("cannot read the questions", where=str(path), why=error.strerror or str(error)) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _question(line, path, number)


def _question(line: bytes, path: Path, number: int) -> Question:
    where = f"{path}:{number}"
    try:
        found = msgspec.json.decode(line, type=_Line)
        fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MixcError(
            "not a question",
            where=where,
            why=str(error),
            mend='a line is {"question": "...", "images": ["a.jpg"]}; images and frames may be left out',
        ) from None
    if taken := sorted({ANSWER, END, ERROR} & fields.keys()):
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
    return Question(found.question, images, frames, {name: value.copy() for name, value in fields.items()})
