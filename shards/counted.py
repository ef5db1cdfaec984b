"""A number with its noun, as people read it."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 step`, `2 steps`, `12,345 steps`. `noun`: one that takes an s."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
