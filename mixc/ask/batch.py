"""Questions in a file, answers in another: what `mixc chat --batch` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mixc.errors import MixcError


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the questions' file. Whatever else it has goes into the answers' file as it is."""

    question: str
    images: list[str] = []
    frames: list[str] = []


def read(path: Path) -> Iterator[tuple[dict[str, Any], Question]]:
    """The lines of a JSON Lines file, as they are and as questions; images relative to the file. Raises MixcError, with the line's
    number, for what is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MixcError("cannot read the questions", where=str(path), why=error.strerror or str(error)) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=dict[str, Any]), msgspec.json.decode(line, type=Question)
        except msgspec.DecodeError as error:
            raise MixcError(
                "not a question",
                where=f"{path}:{number}",
                why=str(error),
                mend='a line is {"question": "...", "images": ["a.jpg"]}; images and frames may be left out',
            ) from None
