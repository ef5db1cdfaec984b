"""A line of a file of data with a caret, safe for a terminal whatever the line holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mixc.spec.diagnostics import display_width, visible

WIDTH = 100
"""Columns that a shown line takes; a longer one is cut around the caret."""
MOST = 4 * WIDTH
"""Characters of it at most: those that combine take no column."""

Span = tuple[int, int]
"""Characters [start, end) of a line."""


def shown(number: int, text: str, span: Span) -> list[str]:
    """A line of a file, of the given number, and a caret line below it. `span` is marked as far as it is shown."""
    start, end = span
    head = f"{number:>5}"
    room = WIDTH - len(head) - len(" | ……")
    before = _fitting(reversed(text[max(0, start - MOST) : start]), room // 2)
    first = start - len(before)
    last = first + len(_fitting(text[first : first + MOST], room))
    left, right = "…" if first else "", "…" if last < len(text) else ""
    line = "".join(map(visible, text[first:last]))
    marked = sum(map(_wide, text[start : min(end, last)]))
    return [
        f"{head} | {left}{line}{right}".rstrip(),
        f"{' ' * len(head)} | {' ' * (len(left) + sum(map(_wide, before)))}{'^' * max(1, marked)}",
    ]


def _fitting(text: Iterable[str], room: int) -> list[str]:
    """The first characters that take no more than `room` columns."""
    found: list[str] = []
    for character in text:
        room -= _wide(character)
        if room < 0:
            break
        found.append(character)
    return found


def _wide(character: str) -> int:
    return display_width(visible(character))
