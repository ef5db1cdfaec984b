"""A look at the head of a source: a few rows of a few files, read as a compile would, at a cost that does not grow with
the source."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mixc.errors import SourceError
from mixc.sources import files
from mixc.sources.files import Stamp, printable, reading
from mixc.sources.folders import METADATA
from mixc.sources.formats import imagefolder
from mixc.sources.formats.detect import detect
from mixc.sources.formats.rows import all_names, raw_rows
from mixc.sources.fragment import Fragment
from mixc.sources.names import image_key, missing, require
from mixc.sources.paths import expand
from mixc.sources.raw import RawRow
from mixc.sources.read import columns, read
from mixc.sources.rename import root as root_of
from mixc.sources.sample import Reject, Sample
from mixc.sources.scan import image_root
from mixc.spec.schema import Source

HEAD_FILES = 4
"""Files of a source whose rows are read: the first by path."""
HEAD_ROWS = 64
"""Rows of each that are read."""
_ENDS = 1 << 16
"""Bytes at both ends of two files of equal size that must be equal for them to be taken as copies."""
_THREADS = 8


@dataclass(slots=True)
class Head:
    paths: list[str]
    """Every file of the source."""
    stamps: list[Stamp]
    fragments: list[Fragment]
    """Of the first HEAD_FILES. Their digests are empty: nothing was read whole."""
    problems: list[SourceError] = field(default_factory=list)
    """What would stop a compile."""
    rows: list[Sample | Reject] = field(default_factory=list)
    """At most HEAD_FILES x HEAD_ROWS."""
    origins: list[Fragment] = field(default_factory=list)
    """Of each of the rows, the file that it is of."""
    whole: bool = True
    """Whether these are all rows of the source."""


def head(name: str, source: Source, base: Path) -> Head:
    """Raises SourceError when the source's files cannot be told; what is wrong with single files is in `problems`."""
    root = image_root(name, source, base)
    paths = expand(name, source, base)
    with ThreadPoolExecutor(_THREADS) as pool:
        stamps = list(pool.map(lambda path: _stamp(path, source), paths))
    found = Head(paths, stamps, [])
    empty = [path for path, stamp in zip(paths, stamps, strict=True) if not stamp.size and not _is_folder(path, source)]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        found.problems.append(
            SourceError("a file is empty", where=printable(empty[0]) + more, mend="fill it, or leave it out of `path`")
        )
    found.whole = len(paths) <= HEAD_FILES
    for path in [path for path in paths if path not in empty][:HEAD_FILES]:
        try:
            _look(found, name, source, path, root)
        except SourceError as error:
            found.problems.append(error)
    named = source.frames or source.image
    if source.kind == "chat" and named and found.fragments and not found.problems:
        seen = [all_names(each.path, each.format, source) for each in found.fragments]
        tar = any(each.format == "webdataset" for each in found.fragments)
        whole = len(found.fragments) == len(paths)
        if whole and not tar and not any(named in each or named in (source.columns or {}) for each in seen):
            found.problems.append(missing(printable(paths[0]), image_key(source), (named,), set().union(*seen)))
    return found


def head_columns(found: Head, source: Source, *, all_files: bool = False) -> dict[str, str]:
    """Scalar columns and their types, of the files looked at or of all. Raises SourceError."""
    kinds: dict[str, str] = {}
    fragments = found.fragments
    if all_files:
        fragments = [_fragment("", source, path, None) for path in found.paths]
    for fragment in fragments:
        for column, kind in columns(fragment, source).items():
            kinds[column] = kind if kinds.get(column, kind) == kind else f"{kinds[column]} | {kind}"
    return dict(sorted(kinds.items()))


def same_files(heads: dict[str, Head]) -> list[tuple[str, str, str, str]]:
    """Files of two sources that are one file, or copies as far as their sizes and both ends tell:
    (source, path, other source, other path), sorted. Within a source a copy may well be meant; here it is a mistake
    more often than not."""
    by_size: dict[int, list[tuple[str, str]]] = {}
    for name, found in sorted(heads.items()):
        for path, stamp in zip(found.paths, found.stamps, strict=True):
            if stamp.size:
                by_size.setdefault(stamp.size, []).append((name, path))
    pairs = []
    for _, group in sorted(by_size.items()):
        if len({name for name, _ in group}) < 2:
            continue
        first: dict[object, tuple[str, str]] = {}
        for name, path in group:
            key = _ends_of(path)
            known = first.setdefault(key, (name, path)) if key is not None else (name, path)
            if known[0] != name:
                pairs.append((*known, name, path))
    return sorted(pairs)


def _look(found: Head, name: str, source: Source, path: str, root: str | None) -> None:
    fragment = _fragment(name, source, path, root)
    found.fragments.append(fragment)
    raws = list(islice(raw_rows(path, fragment.format, source), HEAD_ROWS))
    found.whole &= len(raws) < HEAD_ROWS
    have = {column for raw in raws if isinstance(raw, RawRow) for column in (*raw.values, *raw.unread)}
    for new, old in sorted((source.columns or {}).items()):
        # a nested value may be absent from these rows and present in others; its column may not
        if new not in have and root_of(old, there := all_names(path, fragment.format, source)) is None:
            raise missing(printable(path), f"columns.{new}", (old,), there)
    if any(isinstance(raw, RawRow) for raw in raws):
        require(printable(path), source, fragment.format, have)
    if not raws:
        raise SourceError("this file holds no row", where=printable(path), mend="fill it, or leave it out of `path`")
    for row in islice(read(fragment, source), HEAD_ROWS):
        found.rows.append(row)
        found.origins.append(fragment)


def _fragment(name: str, source: Source, path: str, root: str | None) -> Fragment:
    folder = _is_folder(path, source)
    return Fragment(
        source=name,
        path=path,
        format="imagefolder" if folder else detect(path, source.format),
        digest="",
        bytes=0,
        image_root=path if folder else root or posixpath.dirname(path),
    )


def _is_folder(path: str, source: Source) -> bool:
    return source.format == "imagefolder" and posixpath.basename(path) not in METADATA


def _stamp(path: str, source: Source) -> Stamp:
    with reading(path):
        return imagefolder.stamp(path) if _is_folder(path, source) else files.stamp(path)


def _ends_of(path: str) -> Sequence[bytes] | None:
    try:
        with files.open_binary(path) as file:
            start = file.read(_ENDS)
            file.seek(-min(_ENDS, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return (start, file.read(_ENDS))
    except OSError:
        return None
