"""What a user sees of a mistake in a spec: the sentence, the place, the line with a caret, and the mend.

    recipes/sft.yaml:12:5: error: unknown key `budgte` in stages.sft
       12 |     budgte: 2 epochs
          |     ^^^^^^
      mend: did you mean `budget`?

Columns count characters from 1, as editors do. Carets are placed by display width, so that they stand
under the text also after Chinese characters or combining marks.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mixc.errors import SpecError

Severity = Literal["error", "warning"]

SHOWN = 20
"""Diagnostics that one error prints; the rest are counted."""
WIDTH = 110
"""Characters of a source line that are shown; a longer line is cut around the caret."""


@dataclass(frozen=True, slots=True)
class Text:
    """YAML text and its name in messages. Line breaks are `\\n` only."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one source line."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    length: int
    """Characters marked, at least 1, never beyond the line."""
    source: str
    """The whole line, without its break."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a text."""

    text: Text
    start: int
    end: int

    @property
    def place(self) -> Place:
        """Where it starts. A span of several lines is marked to the end of its first."""
        content = self.text.content
        start = min(self.start, len(content))
        line_start = content.rfind("\n", 0, start) + 1
        line_end = content.find("\n", start)
        line_end = len(content) if line_end < 0 else line_end
        return Place(
            file=self.text.name,
            line=content.count("\n", 0, start) + 1,
            column=start - line_start + 1,
            length=max(1, min(self.end, line_end) - start),
            source=content[line_start:line_end],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    message: str
    """One sentence without a full stop."""
    place: Place | None = None
    severity: Severity = "error"
    why: str = ""
    mend: str = ""

    def render(self) -> str:
        """Lines as in the module's example; ends without a line break."""
        head = f"{self.severity}: {self.message}"
        lines = [f"{self.place}: {head}" if self.place else head]
        if self.place:
            lines += _excerpt(self.place)
        lines += [f"  why:  {self.why}"] if self.why else []
        lines += [f"  mend: {self.mend}"] if self.mend else []
        return "\n".join(lines)


class InvalidSpecError(SpecError):
    """One or more mistakes in a spec, all that one pass could find. `str()` shows each with its source line.

    `diagnostics` may hold warnings beside the errors; there is at least one error.
    """

    prefix = ""  # each diagnostic says for itself whether it is an error

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        errors = [d for d in self.diagnostics if d.severity == "error"]
        assert errors, "an InvalidSpecError without an error"
        first = errors[0]
        super().__init__(
            first.message,
            where=str(first.place) if first.place else "",
            why=first.why,
            mend=first.mend,
        )

    def __str__(self) -> str:
        return render(self.diagnostics)

    def __reduce__(self) -> tuple[Any, ...]:
        # the default would call __init__ with the message alone; errors must survive a process pool
        return type(self), (self.diagnostics,)


def render(diagnostics: Sequence[Diagnostic]) -> str:
    """All of them, with a count at the end when there are several."""
    blocks = [d.render() for d in diagnostics[:SHOWN]]
    if len(diagnostics) > 1:
        errors = sum(d.severity == "error" for d in diagnostics)
        counts = [_count(errors, "error")] if errors else []
        counts += [_count(len(diagnostics) - errors, "warning")] if errors < len(diagnostics) else []
        hidden = f", {len(diagnostics) - SHOWN} not shown" if len(diagnostics) > SHOWN else ""
        blocks.append(" and ".join(counts) + hidden)
    return "\n".join(blocks)


def fail(message: str, span: Span | Place | None = None, *, why: str = "", mend: str = "") -> InvalidSpecError:
    """An InvalidSpecError of one error, to be raised."""
    place = span.place if isinstance(span, Span) else span
    return InvalidSpecError([Diagnostic(message=message, place=place, why=why, mend=mend)])


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by file and place, those without a place first; equal ones once."""
    unique = dict.fromkeys(diagnostics)

    def key(d: Diagnostic) -> tuple[str, int, int]:
        return (d.place.file, d.place.line, d.place.column) if d.place else ("", 0, 0)

    return tuple(sorted(unique, key=key))


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, the names there are, or nothing when there are none."""
    names = sorted(known)
    folded = {name.casefold(): name for name in reversed(names)}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{folded[close[0]]}`?"
    if not names:
        return ""
    shown = ", ".join(f"`{printable(name)}`" for name in names[:12])
    return f"there is {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def printable(text: str, limit: int = 60) -> str:
    """Text from a user's file made safe for a terminal, and short: no control or direction marks, one
    line."""
    clean = "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text[: limit + 1])
    return clean if len(text) <= limit else clean[: limit - 1] + "…"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _excerpt(place: Place) -> list[str]:
    first = max(0, place.column - 1 - WIDTH // 2) if len(place.source) > WIDTH else 0
    cut = place.source[first : first + WIDTH]
    at = place.column - 1 - first
    shown = "".join(visible(c) for c in cut)
    before = sum(display_width(c) for c in shown[:at])
    marked = sum(display_width(c) for c in shown[at : at + place.length])
    left, right = "…" if first else "", "…" if first + WIDTH < len(place.source) else ""
    number = f"{place.line:>5}"
    return [
        f"{number} | {left}{shown}{right}".rstrip(),
        f"{' ' * len(number)} | {' ' * (before + len(left))}{'^' * max(1, marked)}",
    ]


def visible(character: str) -> str:
    """A character as it is, or what stands for it where a terminal might obey it."""
    # one column for a tab, so that the caret line needs none
    return character if character.isprintable() else " " if character == "\t" else "�"


def display_width(character: str) -> int:
    """Columns that a character takes on a terminal."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
