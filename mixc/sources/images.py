"""From what a row says of its images to their encoded bytes. No path leaves the source's image folder.

Images are not decoded here: whether the bytes are an image is `mixc/measure`'s to say.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from mixc.sources import files
from mixc.sources.raw import is_utf8
from mixc.sources.sample import Reason

IMAGE_BYTES_LIMIT = 64 << 20
"""Encoded bytes of an image at most, 64 MiB. Ours: a bound on memory, far above what the tile rule can
use."""
SAMPLE_BYTES_LIMIT = 256 << 20
"""Encoded bytes of all images of a sample at most, 256 MiB."""
IMAGES_LIMIT = 1024
"""Images of a sample at most."""

_PATH_LIMIT = 4096  # PATH_MAX of Linux; longer strings are data, base64 most likely
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")


class Problem(NamedTuple):
    """Why an image cannot be had."""

    reason: Reason
    detail: str


def load(value: object, folder: ImageFolder) -> tuple[bytes, ...] | Problem:
    """The images of a row's image value: bytes, a Hugging Face struct {bytes, path}, a path in `folder`, or a
    list of these. No value, an empty path and an empty list are no images."""
    images: list[bytes] = []
    total = 0
    for item in _items(value):
        image = _bytes(item, folder)
        if isinstance(image, Problem):
            return image
        total += len(image)
        if total > SAMPLE_BYTES_LIMIT or len(images) == IMAGES_LIMIT:
            limit = f"{IMAGES_LIMIT} images or {SAMPLE_BYTES_LIMIT >> 20} MiB"
            return Problem("image_bomb", f"the images of this row are more than {limit}")
        images.append(image)
    return tuple(images)


def evenly(value: object, most: int | None) -> object:
    """At most `most` items of a list, at even distances: of n items and m = `most` < n, item
    floor((2 i (n - 1) + (m - 1)) / (2 (m - 1))) for i = 0 ... m - 1, which is i (n - 1) / (m - 1) rounded, halves up. So
    the first and the last are among them; for m = 1 it is the first alone. Anything else as it is."""
    if most is None or not isinstance(value, list) or len(value) <= most:
        return value
    if most == 1:
        return value[:1]
    return [value[(2 * i * (len(value) - 1) + most - 1) // (2 * (most - 1))] for i in range(most)]


def references(value: object) -> Iterator[str]:
    """The paths that `load` would look for, for this value. One that no file can have is not among them."""
    for item in _items(value):
        path = item.get("path") if isinstance(item, dict) and item.get("bytes") is None else item
        if isinstance(path, str) and path and len(path) <= _PATH_LIMIT and is_utf8(path):
            yield path


def _items(value: object) -> list[object]:
    if isinstance(value, dict) and _is_struct(value) and value.get("bytes") is None and not value.get("path"):
        return []  # how some writers of Parquet say null
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _is_struct(value: dict[str, object]) -> bool:
    return "bytes" in value or "path" in value


def _bytes(item: object, folder: ImageFolder) -> bytes | Problem:
    if isinstance(item, dict) and _is_struct(item):
        item = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if isinstance(item, str) and item:
        return folder.read(item)
    if item is None or item == "":
        return Problem("missing_value", "an image of this row is null")
    if not isinstance(item, bytes):
        return Problem("wrong_type", f"an image is {type(item).__name__}; expected bytes, a path, or {{bytes, path}}")
    if not item:
        return Problem("image_empty", "an image of zero bytes")
    if len(item) > IMAGE_BYTES_LIMIT:
        return _too_large(f"{len(item)} bytes")
    return item


def _too_large(what: str) -> Problem:
    return Problem("image_bomb", f"{what}, at most {IMAGE_BYTES_LIMIT >> 20} MiB encoded")


class ImageFolder:
    """The folder in which a fragment's image paths are resolved, local or at a URL. It must not change under
    us; within that, symbolic links are followed only to places inside of it."""

    def __init__(self, path: str) -> None:
        self._remote = files.is_url(path)
        self._path = path.rstrip("/") if self._remote else os.path.realpath(path)

    def locate(self, reference: str) -> str | Problem:
        """Where `reference`, as a row writes it, lies. It is inside of this folder, but need not exist."""
        if not is_utf8(reference):
            return Problem("not_utf8", f"the image path {reference!a} is not UTF-8")
        if len(reference) > _PATH_LIMIT:
            return Problem("image_missing", f"a path of {len(reference)} characters: no file has it")
        if "\0" in reference:
            return Problem("image_missing", f"{reference!r}: a path cannot hold a NUL character")
        if _SCHEME.match(reference):
            return Problem("path_escape", f"{reference!r} is a URL; only paths in the image folder are read")
        if posixpath.isabs(reference):
            return Problem("path_escape", f"{reference!r} is absolute; only paths in the image folder are read")
        if posixpath.normpath(reference).split("/", 1)[0] == "..":
            return Problem("path_escape", f"{reference!r} leaves the image folder")
        joined = posixpath.join(self._path, reference)
        if self._remote:
            return posixpath.join(self._path, posixpath.normpath(reference))
        real = os.path.realpath(joined)
        if not real.startswith(self._path.rstrip("/") + "/"):
            return Problem("path_escape", f"{reference!r} leaves the image folder through a symbolic link")
        return real

    def read(self, reference: str) -> bytes | Problem:
        """The encoded bytes of an image."""
        place = self.locate(reference)
        if isinstance(place, Problem):
            return place
        try:
            with files.open_binary(place) as file:
                data = b"".join(files.at_most(file, IMAGE_BYTES_LIMIT + 1))
        except OSError as error:
            return Problem("image_missing", f"{reference!r}: {files.reason(error)}")
        if not data:
            return Problem("image_empty", f"{reference!r} has zero bytes")
        if len(data) > IMAGE_BYTES_LIMIT:
            return _too_large(f"{reference!r} is larger")
        return data
