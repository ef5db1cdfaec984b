"""A fragment: a piece of a source that one task reads. A file, or a part of a large one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Of a file (parts.py)."""

    first: int
    last: int
    """Bytes [first, last) of JSON lines, row groups [first, last) of Parquet."""
    first_row: int
    """Rows of the file before it."""
    first_line: int = 0
    """Of JSON lines, the number of its first line, from 1 and counting blank lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    source: str
    path: str
    """Where it is now. Provenance only: nothing in a build depends on it."""
    format: str
    digest: str
    """blake3 hex of its content: the file's bytes and, when rows name image files, each of those files'
    (reference, digest) too. Equal content has an equal digest wherever it lies."""
    bytes: int
    """Of the file and of the image files that it names; of a part its share."""
    image_root: str = ""
    """Folder in which its rows' image paths are resolved; empty: the folder of `path`. Provenance only."""
    part: Part | None = None
    """None: all of the file."""
