"""Scan: from a source in the spec to its fragments, each known by the digest of its content."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from mixc.cache.use import touch
from mixc.errors import SourceError
from mixc.sources import files, scan_cache
from mixc.sources.files import Stamp, printable, reading
from mixc.sources.folders import METADATA
from mixc.sources.formats import arrow, imagefolder, parquet
from mixc.sources.formats.detect import detect
from mixc.sources.formats.rows import all_names, raw_rows
from mixc.sources.fragment import Fragment
from mixc.sources.hashed import Hashing
from mixc.sources.images import ImageFolder, Problem, references
from mixc.sources.names import image_key, missing, names
from mixc.sources.parts import LineParts, Piece, row_group_pieces
from mixc.sources.paths import expand
from mixc.sources.raw import RawRow
from mixc.sources.scan_cache import Content, Entry, Reference
from mixc.spec.schema import Source

_THREADS = 8
"""Files that are read at once. Reading and blake3 release the GIL; more than the cores, to hide a network
disk."""
_BATCH = 64
"""Image files a task of the pool."""
_OUTSIDE, _MISSING = "outside", "missing"


def scan(name: str, source: Source, base: Path, cache: Path) -> list[Fragment]:
    """The fragments of the source `name`, one a file or a part of a large one, sorted by (digest, path).

    `base` is the spec's folder; `cache` the folder whose `scan/` remembers unchanged files. Reads every file
    that is new or changed, and every image file that rows name; decodes no image. Raises SourceError: nothing
    matches, a file is unreadable, of unknown format or not what its name says, the image folder is missing.
    """
    root = image_root(name, source, base)
    paths = expand(name, source, base)
    with ThreadPoolExecutor(_THREADS) as pool:
        scanner = _Scanner(name, source, root, cache, pool)
        known = list(pool.map(scanner.file, paths))  # of several errors, that of the first path is raised
        fragments = [fragment for file in known for fragment in scanner.fragments(file)]
    image = source.frames or source.image
    if source.kind == "chat" and image and not any(file.may_have_images for file in known):
        found = all_names(known[0].path, known[0].format, source)
        raise missing(printable(known[0].path), image_key(source), (image,), found)
    return sorted(fragments, key=lambda fragment: (fragment.digest, fragment.path))


def unchanged(fragment: Fragment, source: Source, cache: Path) -> bool:
    """Whether the fragment's rows, and the image files that they name, are what they were when it was scanned.

    Cheap when the scan cache knows them. To be asked after a fragment was read, before what was read is kept
    under its digest. Raises SourceError as `scan`.
    """
    root = fragment.image_root if source.image_root is not None else None
    with ThreadPoolExecutor(_THREADS) as pool:
        scanner = _Scanner(fragment.source, source, root, cache, pool)
        return scanner.has(scanner.file(fragment.path), fragment)


def image_root(name: str, source: Source, base: Path) -> str | None:
    """The configured image folder, or None: the folder of each file."""
    if source.image_root is None or files.is_url(source.image_root):
        return source.image_root
    root = base.absolute() / files.local(source.image_root)
    if not root.is_dir():
        raise SourceError(
            f"there is no folder {source.image_root!r}",
            where=f"sources.{name}.image_root",
            mend="name the folder that the rows' image paths start from; it is relative to the spec's folder",
        )
    return str(root)


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is now. The images that it names are still to be looked at: they change apart from it."""

    path: str
    stamp: Stamp
    format: str
    contents: list[tuple[Piece, list[str]]]
    """Its pieces, and the image paths that the rows of each name: sorted, as the rows write them."""
    has_image_column: bool
    entry: Entry | None
    """What an earlier scan recorded of the file, be it out of date."""
    was_read: bool
    """Whether the file was read just now, rather than known from `entry`."""

    @property
    def may_have_images(self) -> bool:
        return self.has_image_column or self.format == "webdataset"


class _Scanner:
    def __init__(
        self, name: str, source: Source, image_root: str | None, cache: Path, pool: ThreadPoolExecutor
    ) -> None:
        self._name, self._source, self._image_root, self._pool = name, source, image_root, pool
        self._cache = cache
        self._now = time.time_ns()  # tells what a later scan may trust; no result depends on it

    def file(self, path: str) -> _File:
        """What there is to know of a file: from the cache when it is surely unchanged, or by reading it."""
        entry = scan_cache.load(self._place(path))
        with reading(path):
            stamp = self._stamp(path)
            if entry is not None and entry.proves(entry.identity, stamp):
                touch(self._place(path))
                contents = [(known.piece, [each.path for each in known.references]) for known in entry.contents]
                return _File(path, stamp, entry.format, contents, entry.has_image_column, entry, False)
            is_folder = self._is_folder(path)
            format = "imagefolder" if is_folder else detect(path, self._source.format)
            found, has_image_column = self._contents(path, format, stamp)
            if self._stamp(path) != stamp:
                raise SourceError(
                    "this file changed while it was read",
                    where=printable(path),
                    mend="wait until its writer is done, and start again",
                )
        contents = [(piece, sorted(references)) for piece, references in found]
        return _File(path, stamp, format, contents, has_image_column, entry, True)

    def _is_folder(self, path: str) -> bool:
        return self._source.format == "imagefolder" and posixpath.basename(path) not in METADATA

    def _stamp(self, path: str) -> Stamp:
        return imagefolder.stamp(path) if self._is_folder(path) else files.stamp(path)

    def fragments(self, file: _File) -> list[Fragment]:
        """The fragments of a file: looks at its images, reads those that may have changed, and renews the cache."""
        before = file.entry.contents if file.entry else []
        known = {reference.path: reference for content in before for reference in content.references}
        contents = [Content(piece, self._look(file, paths, known)) for piece, paths in file.contents]
        references = [reference for content in contents for reference in content.references]
        if file.stamp.identity and (file.was_read or _news(references, known)):
            entry = Entry(
                identity=file.stamp.identity,
                recorded_ns=self._now,
                format=file.format,
                has_image_column=file.has_image_column,
                contents=contents,
            )
            scan_cache.store(self._place(file.path), entry)
        return [
            Fragment(
                source=self._name,
                path=file.path,
                format=file.format,
                digest=_combined(content),
                bytes=content.piece.bytes + sum(reference.size for reference in content.references),
                image_root=self._root(file),
                part=content.piece.part,
            )
            for content in contents
        ]

    def has(self, file: _File, fragment: Fragment) -> bool:
        """Whether `fragment` is one of the file's still."""
        if file.was_read or file.entry is None:
            return any((each.part, each.digest) == (fragment.part, fragment.digest) for each in self.fragments(file))
        for known in file.entry.contents:
            if known.piece.part == fragment.part:
                before = {reference.path: reference for reference in known.references}
                return fragment.digest == _combined(Content(known.piece, self._look(file, list(before), before)))
        return False

    def _root(self, file: _File) -> str:
        return file.path if file.format == "imagefolder" else self._image_root or posixpath.dirname(file.path)

    def _look(self, file: _File, paths: list[str], before: dict[str, Reference]) -> list[Reference]:
        """What the image paths of a piece stand for now."""
        folder = ImageFolder(self._root(file))

        def look(some: list[str]) -> list[Reference]:
            return [_look(path, folder, before.get(path), file.entry) for path in some]

        batches = [paths[at : at + _BATCH] for at in range(0, len(paths), _BATCH)]
        return [reference for batch in self._pool.map(look, batches) for reference in batch]

    def _place(self, path: str) -> Path:
        # all that decides which references a file has, and where they lie
        source = self._source
        asked = (source.kind == "text", source.format or "", source.image or "", self._image_root or "")
        more = (source.frames, sorted((source.columns or {}).items())) if source.frames or source.columns else ()
        return scan_cache.place(self._cache, path, *map(str, asked + more))

    def _contents(self, path: str, format: str, stamp: Stamp) -> tuple[list[tuple[Piece, set[str]]], bool]:
        """The pieces of a file, the image paths that the rows of each name, and whether any row has the image column. Reads
        the file: once, whatever reads it for its rows is what hashes it."""
        # what cannot be told to be unchanged is read again after each piece was measured, so it stays one
        if format == "jsonl" and stamp.identity:
            lines = Hashing(LineParts)
            found: dict[int, set[str]] = {}
            has_column = False
            for row, paths in self._named(path, format, lines):
                has_column = True
                found.setdefault(lines.begun(path).number(row), set()).update(paths)
            pieces = lines.whole(path).pieces()
            return [(piece, found.get(number, set())) for number, piece in enumerate(pieces)], has_column
        hashing = Hashing(blake3)
        image = names(self._source, format).image
        if format == "parquet":
            digest = hashing.whole(path).hexdigest()
            with parquet.opened(path) as file:
                whole = [Piece(None, digest, stamp.size)]
                pieces = row_group_pieces(file, digest, stamp.size) if stamp.identity else whole
                if image is None:
                    return [(piece, set()) for piece in pieces], False
                named = [parquet.image_references(file, image, self._source.columns, piece.part) for piece in pieces]
            contents = [(piece, found) for piece, (found, _) in zip(pieces, named, strict=True)]
            return contents, any(has_column for _, has_column in named)
        references, has_column = self._references(path, format, hashing)
        if format == "imagefolder":
            digest = imagefolder.digest(path, lambda text: hashing.whole(text).hexdigest())
        else:
            digest = hashing.whole(path).hexdigest()
        return [(Piece(None, digest, stamp.size), references)], has_column

    def _references(self, path: str, format: str, hashing: Hashing[blake3]) -> tuple[set[str], bool]:
        image = names(self._source, format).image
        if image is not None and format == "arrow":
            return arrow.image_references(path, image, self._source.columns, hashing.open)
        found: set[str] = set()
        has_column = False
        for _, paths in self._named(path, format, hashing):
            has_column = True
            found.update(paths)
        return found, has_column

    def _named(self, path: str, format: str, hashing: Hashing[Any]) -> Iterator[tuple[int, Iterator[str]]]:
        """Of each row that has the image column its number and the image paths that it names."""
        image = names(self._source, format).image
        if image is None or format == "webdataset":
            return
        for raw in raw_rows(path, format, self._source, opener=hashing.open):
            if isinstance(raw, RawRow) and image in raw.values:
                yield raw.row, references(raw.values[image])


def _look(path: str, folder: ImageFolder, before: Reference | None, entry: Entry | None) -> Reference:
    """What an image path stands for now. A path that leaves the folder is never opened."""
    place = folder.locate(path)
    if isinstance(place, Problem):
        return Reference(path, "", 0, _OUTSIDE if place.reason == "path_escape" else _MISSING)
    try:
        stamp = files.stamp(place)
        if before is not None and entry is not None and entry.proves(before.identity, stamp):
            return before
        digest = Hashing(blake3).whole(place).hexdigest()
    except OSError:
        return Reference(path, "", 0, _MISSING)
    return Reference(path, stamp.identity, stamp.size, digest)


def _news(references: list[Reference], before: dict[str, Reference]) -> bool:
    """Whether any image was read again, or has appeared or gone. A scan of unchanged files writes nothing."""
    return any(
        reference is not before[reference.path]
        if reference.identity and reference.path in before
        else reference != before.get(reference.path)
        for reference in references
    )


def _combined(content: Content) -> str:
    """The digest of a piece alone or, with image files, of both: see docs/sources.md."""
    if not content.references:
        return content.piece.digest
    hasher = blake3(b"mixc fragment 1\0" + bytes.fromhex(content.piece.digest))
    for reference in sorted(content.references, key=lambda reference: reference.path):
        for part in (reference.path.encode("utf-8", "surrogatepass"), reference.digest.encode()):
            hasher.update(len(part).to_bytes(4, "little") + part)
    return hasher.hexdigest()
