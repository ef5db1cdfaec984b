"""A fragment: a piece of a source read by one task. Today that is one file."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Of the file and of the image files that it names."""
    image_root: str = ""
    """Folder in which its rows' image paths are resolved; empty: the folder of `path`. Provenance only."""
