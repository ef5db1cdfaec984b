"""A folder of images without metadata: each image a row, its text in the `.txt` beside it.

A folder with `metadata.csv`, `.jsonl` or `.parquet` (Hugging Face's imagefolder) is that file, read as what it is, with
images under `file_name`; `mixc/sources/folders.py` tells the two apart.
"""

from __future__ import annotations

import codecs
import posixpath
from collections.abc import Callable, Iterator

from blake3 import blake3

from mixc.sources import files
from mixc.sources.files import Opener, Stamp
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow, reject
from mixc.sources.sample import Reject

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def pairs(path: str) -> list[tuple[str, str | None]]:
    """The images of a folder, sorted by name, each with the name of its text file or None. Raises OSError."""
    there = {name for name, is_folder in files.listing(path) if not is_folder}
    images = sorted(name for name in there if is_image(name))
    return [(name, text if (text := text_name(name)) in there else None) for name in images]


def stamp(path: str) -> Stamp:
    """Of all that `digest` reads. Raises OSError."""
    size, newest, proof = 0, 0, blake3()
    for image, text in pairs(path):
        told = files.stamp(posixpath.join(path, text)) if text is not None else Stamp(0, "none", 0)
        if not told.identity:
            return Stamp(0, "", 0)
        size, newest = size + told.size, max(newest, told.mtime_ns)
        proof.update(_prefixed(image) + _prefixed(told.identity))
    return Stamp(size, f"folder {proof.hexdigest()}", newest)


def digest(path: str, of_file: Callable[[str], str]) -> str:
    """blake3 hex of `mixc imagefolder 1`, a zero byte, and for each image, in order, its name and its text's blake3 in
    hexadecimal or nothing, each as a little-endian u32 length and UTF-8 bytes. `of_file` gives the blake3 hex of the file at
    a path. Raises OSError."""
    hasher = blake3(b"mixc imagefolder 1\0")
    for image, text in pairs(path):
        hasher.update(_prefixed(image) + _prefixed(of_file(posixpath.join(path, text)) if text is not None else ""))
    return hasher.hexdigest()


def _prefixed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return len(data).to_bytes(4, "little") + data


def is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def rows(path: str, opener: Opener = files.open_binary) -> Iterator[RawRow | Reject]:
    """`image` and `file_name`: the image's name; `text`: the content of the file beside it; `label`: the folder's
    name. Raises OSError when the folder cannot be read."""
    label = posixpath.basename(path.rstrip("/"))
    for row, (image, text) in enumerate(pairs(path)):
        values: dict[str, object] = {"image": image, "file_name": image, "label": label}
        if text is not None:
            try:
                with opener(posixpath.join(path, text)) as file:
                    content = b"".join(files.at_most(file, ROW_BYTES_LIMIT + 1))
            except OSError as error:
                yield reject(row, "broken_row", f"{text!r}: {files.reason(error)}", image)
                continue
            if len(content) > ROW_BYTES_LIMIT:
                yield reject(row, "broken_row", f"{text!r} is longer than {ROW_BYTES_LIMIT >> 20} MiB", image)
                continue
            values["text"] = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
        else:
            values["text"] = None
        yield RawRow(row=row, values=values, place=image)


def no_caption(image: str, detail: str) -> str:
    """Why an image of a folder has no text, for who knows of files and not of columns; `detail` is of the column."""
    return f"no caption: {text_name(image)} is {'empty' if detail.endswith('empty') else 'missing'}"


def text_name(image: str) -> str:
    """Of the file beside an image that holds its text."""
    return posixpath.splitext(image)[0] + ".txt"
