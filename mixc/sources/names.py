"""Which columns of a row a source uses. Every other scalar column is kept as it is, for `where` and
`order.by`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from mixc.errors import SourceError
from mixc.spec.schema import Source

DEFAULT_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
IMAGES_IN_IMAGE = ("webdataset", "imagefolder")
"""Formats of fragments whose rows have their images under `image` whatever the spec says."""


@dataclass(frozen=True)
class Names:
    """The columns that a source uses; None or empty when its kind has no such part."""

    text: str | None
    image: str | None
    messages: tuple[str, ...]
    """The first that a row has is its conversation."""

    @cached_property
    def used(self) -> frozenset[str]:
        return frozenset(name for name in (self.text, self.image, *self.messages) if name)

    def required(self, source: Source) -> list[tuple[str, tuple[str, ...]]]:
        """What every row needs, as (key in the spec, its columns of which one is enough)."""
        need: list[tuple[str, tuple[str, ...]]] = []
        if self.text:
            need.append(("text", (self.text,)))
        if self.messages:
            need.append(("messages", self.messages))
        if self.image and source.kind in ("caption", "ocr"):
            need.append((image_key(source), (self.image,)))
        return need


def names(source: Source, format: str) -> Names:
    """The columns used in a file of this format."""
    tar = format == "webdataset"
    image = source.frames or source.image or ("file_name" if source.format == "imagefolder" else "image")
    chat, text = source.kind == "chat", source.kind == "text"
    return Names(
        text=None if chat else source.text or ("txt" if tar else "text"),
        image=None if text else "image" if format in IMAGES_IN_IMAGE else image,
        messages=() if not chat else (source.messages,) if source.messages else ("conversations", "messages"),
    )


def image_key(source: Source) -> str:
    """The key of the spec that names the image column."""
    return "image" if source.frames is None else "frames"


def image_extensions(source: Source) -> tuple[str, ...]:
    """Extensions of a tar's image members: `image: "jpg, png"`, or `frames:` likewise, or the default. Lower case, no
    leading dot."""
    named = source.frames or source.image
    if named is None:
        return DEFAULT_IMAGE_EXTENSIONS
    parts = re.split(r"[\s,;|]+", named.lower())
    return tuple(dict.fromkeys(part.lstrip(".") for part in parts if part.strip(".")))


def require(path: str, source: Source, format: str, have: Collection[str], shown: Iterable[str] = ()) -> None:
    """Raises SourceError when none of the columns `have` is one that a file of this format needs. `shown` are told as its
    columns besides."""
    for key, wanted in names(source, format).required(source):
        if not any(name in have for name in wanted):
            raise missing(path, key, wanted, {*have, *shown})


def missing(path: str, key: str, wanted: tuple[str, ...], found: Iterable[str]) -> SourceError:
    """The error for a column that no row has: names the file's real columns and the likeliest meant."""
    have = sorted({name for name in found if name.isprintable()})
    near = [close for want in wanted for close in difflib.get_close_matches(want, have, n=1, cutoff=0.5)]
    shown = ", ".join(have[:20]) + (f" and {len(have) - 20} more" if len(have) > 20 else "")
    return SourceError(
        f"no row has the column {' or '.join(map(repr, wanted))}",
        where=path,
        why=f"its columns are: {shown}" if have else "its rows have no columns",
        mend=f"set `{key}: {near[0]}`" if near else f"set `{key}:` to the column that holds it",
    )
