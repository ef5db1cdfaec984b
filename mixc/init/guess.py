"""What the rows of a file are, told by their values: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixc.sources.formats.imagefolder import IMAGE_SUFFIXES
from mixc.sources.names import DEFAULT_IMAGE_EXTENSIONS
from mixc.sources.raw import RawRow
from mixc.spec.schema import Kind

_TEXTS = ("text", "caption", "txt", "content", "markdown", "description", "body", "document", "answer", "transcription")
"""Names of a text column, likeliest first."""
_OCR = ("ocr", "page", "scan", "receipt", "transcri", "textvqa")
"""Parts of a path or of a column's name that say that an image's text is what stands on it."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_LONG = 1024
"""Characters: a longer string is no column that an expression may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    kind: Kind
    keys: dict[str, str] = field(default_factory=dict)
    """Keys of the source besides `path` and `kind`, where they are not the default."""
    columns: tuple[str, ...] = ()
    """That `where` and `order.by` may use, sorted."""


def guess(rows: Sequence[RawRow], *, tar: bool, folder: bool, hint: str) -> Guess | str:
    """What `rows`, the first of a file, are; or, in words, why that cannot be told.

    `tar`: members of a WebDataset tar; `folder`: of an image folder; `hint`: the path, whose words may tell pages from pictures.
    """
    if not rows:
        return "it holds no row that can be read"
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.values.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    image = _image(values, rows, tar=tar, folder=folder)
    messages = _named(values, ("conversations", "messages"), _is_conversation)
    if messages is not None:
        keys = {} if messages in ("conversations", "messages") else {"messages": messages}
        if image is not None and image != "image":
            keys["image"] = image
        return Guess(kind="chat", keys=keys, columns=_columns(values, {messages, image}))
    text = _named(values, _TEXTS, _is_text) or _longest(values, image)
    if text is None:
        have = ", ".join(sorted(values)[:12])
        return f"it has neither a text nor a conversation among its columns ({have})" if have else "its rows are empty"
    keys = {} if text == ("txt" if tar else "text") else {"text": text}
    if image is None:
        return Guess(kind="text", keys=keys, columns=_columns(values, {text}))
    if image != ("file_name" if folder else "image") and not tar:
        keys["image"] = image
    told = f"{hint} {text}".lower()
    return Guess(
        kind="ocr" if any(word in told for word in _OCR) else "caption",
        keys=keys,
        columns=_columns(values, {text, image}),
    )


def _image(values: Mapping[str, list[Any]], rows: Sequence[RawRow], *, tar: bool, folder: bool) -> str | None:
    """The column with images; in a tar `image`, which stands for the members with the usual extensions."""
    if tar:
        members = {name for row in rows for name in (*row.values, *row.unread)}
        usual = any(name.rsplit(".", 1)[-1].lower() in DEFAULT_IMAGE_EXTENSIONS for name in members)
        return "image" if usual or "image" in values else None
    if folder:
        return "file_name" if "file_name" in values else "image"
    return _named(values, ("image", "images", "jpg", "png", "img", "image_path", "file_name"), _is_image)


def _named(values: Mapping[str, list[Any]], likely: Sequence[str], fits: Any) -> str | None:
    """The first column whose values fit, those of likely names first, then by name."""
    order = [name for name in likely if name in values] + sorted(name for name in values if name not in likely)
    if fits is _is_text:  # any string is a text: only a name can tell
        order = [name for name in order if name in likely]
    return next((name for name in order if all(fits(value) for value in values[name])), None)


def _longest(values: Mapping[str, list[Any]], image: str | None) -> str | None:
    """Without a name that tells, the column of the longest strings, if they are sentences: three words and more in the mean."""
    lengths = {
        name: sum(map(len, column)) / len(column)
        for name, column in values.items()
        if name != image
        and all(_is_text(value) for value in column)
        and sum(len(value.split()) for value in column) >= 3 * len(column)
    }
    return max(sorted(lengths), key=lambda name: lengths[name], default=None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_image(value: Any) -> bool:
    match value:
        case bytes():
            return value.startswith(_MAGIC)
        case str():
            return value.lower().endswith(IMAGE_SUFFIXES)
        case {"bytes": _, "path": _}:
            return True
        case [first, *_]:
            return _is_image(first)
    return False


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and (turn.keys() >= {"from", "value"} or turn.keys() >= {"role", "content"}) for turn in value)
    )  # fmt: skip


def _columns(values: Mapping[str, list[Any]], used: set[str | None]) -> tuple[str, ...]:
    return tuple(
        sorted(
            name
            for name, column in values.items()
            if name not in used
            and all(
                isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONG)
                for value in column
            )
        )
    )
