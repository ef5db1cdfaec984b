"""Sizes and ages as people write them: `200GB`, `1.5 TiB`, `30d`; and as they read them."""

from __future__ import annotations

import re
from fractions import Fraction

from mixc.errors import MixcError

_UNITS = {"B": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("KMGTP", 1)
    for end, base in (("", 1000), ("B", 1000), ("iB", 1024))
}
_BY_LOWER = {unit.lower(): factor for unit, factor in _UNITS.items()}
_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_WRITTEN = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")
_MAX_LENGTH = 100


def parse_size(text: str, where: str) -> int:
    """Bytes, rounded down. KB, MB, GB, TB, PB are powers of 1000, KiB and so on of 1024; the B may be left out, the case of
    letters is free. A number without a unit is none: `200` could mean gigabytes. `where` is for the message. Raises
    MixcError."""
    if text.strip() == "0":
        return 0
    number, unit = _split(text)
    factor = _BY_LOWER.get(unit.lower())
    if number is None or factor is None:
        raise MixcError(f"`{_printable(text)}` is not a size", where=where, mend="write `200GB`, `1.5TB` or `64GiB`")
    return int(number * factor)


def parse_age(text: str, where: str) -> int:
    """Seconds, rounded down, of `12h`, `30d` or `8w`. Raises MixcError."""
    number, unit = _split(text)
    factor = _SECONDS.get(unit)
    if number is None or factor is None:
        raise MixcError(f"`{_printable(text)}` is not an age", where=where, mend="write `12h`, `30d` or `8w`")
    return int(number * factor)


def show_size(size: int) -> str:
    """To three digits, in units of 1000: 0 B, 12 B, 1.23 kB, 45.6 GB."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5 or unit == "PB":
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def show_age(seconds: float) -> str:
    """In the largest unit of which there is one: 3 min, 5 h, 12 d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "now"


def _split(text: str) -> tuple[Fraction | None, str]:
    match = _WRITTEN.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    return (None, "") if match is None else (Fraction(match[1].replace("_", "")), match[2])


def _printable(text: str) -> str:
    return text if text.isprintable() and len(text) <= _MAX_LENGTH else ascii(text)[:_MAX_LENGTH]
