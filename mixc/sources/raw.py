"""A row as its format gives it, before it is normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mixc.sources.sample import Reason, Reject

ROW_BYTES_LIMIT = 32 << 20
"""A JSON row, or a text or json member of a tar, longer than this many bytes (32 MiB) is rejected. Ours: a
bound on memory, far above any document that fits a context window."""

DETAIL_LIMIT = 200
"""A reject's detail is cut at this many characters, since it may quote the data."""

PLACE_LIMIT = 255
"""Its place too: the longest name of a file, and members of a tar have longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    row: int
    """Row number in its fragment, from 0, in file order."""
    values: Mapping[str, object]
    """By column: None, bool, int, float, str, bytes, or lists and dicts of these. A str that was not UTF-8 in
    the file holds lone surrogates (`surrogateescape`), so that it is found where it is used."""
    unread: tuple[str, ...] = ()
    """Names that the row has and that were not read: members of a tar that the source does not ask for."""
    place: str = field(default="", compare=False)
    """As of a Sample."""


def reject(row: int, reason: Reason, detail: str, place: str = "") -> Reject:
    """A Reject whose detail and place are valid UTF-8 and of bounded length, whatever the data held."""
    return Reject(row=row, reason=reason, detail=clip(detail), place=clip(place, PLACE_LIMIT))


def clip(text: str, limit: int = DETAIL_LIMIT) -> str:
    clean = text[: limit + 1].encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def is_utf8(text: str) -> bool:
    """False when `text` holds a lone surrogate, which no UTF-8 file can hold and no tokenizer accepts."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
