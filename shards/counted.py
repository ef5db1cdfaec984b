"""A number with its noun, as people read it."""

from __future__ import annotations


def counted(number: float, noun: str, shown: str = "") -> str:
    """`1 step`, `2 steps`, `2 processes`. `noun`: one that takes an s, or es; `shown`: the number as it is to be read."""
    return f"{shown or format(number, ',')} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")
