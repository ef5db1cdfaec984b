"""Scan: from a source in the spec to its fragments, each known by the digest of its content."""

from __future__ import annotations

import posixpath
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
from mixc.sources.paths import expand
from mixc.sources.raw import RawRow
from mixc.sources.scan_cache import Entry, Reference
from mixc.spec.schema import Source

_THREADS = 8
"""Files that are read at once. Reading and blake3 release the GIL; more than the cores, to hide a network
disk."""
_BATCH = 64
"""Image files a task of the pool."""
_OUTSIDE, _MISSING = "outside", "missing"


def scan(name: str, source: Source, base: Path, cache: Path) -> list[Fragment]:
    """The fragments of the source `name`, one a file, sorted by (digest, path).

    `base` is the spec's folder; `cache` the folder whose `scan/` remembers unchanged files. Reads every file
    that is new or changed, and every image file that rows name; decodes no image. Raises SourceError: nothing
    matches, a file is unreadable, of unknown format or not what its name says, the image folder is missing.
    """
    root = image_root(name, source, base)
    paths = expand(name, source, base)
    with ThreadPoolExecutor(_THREADS) as pool:
        scanner = _Scanner(name, source, root, cache, pool)
        known = list(pool.map(scanner.file, paths))  # of several errors, that of the first path is raised
        fragments = [scanner.fragment(file) for file in known]
    image = source.frames or source.image
    if source.kind == "chat" and image and not any(file.may_have_images for file in known):
        found = all_names(known[0].path, known[0].format, source)
        raise missing(printable(known[0].path), image_key(source), (image,), found)
    return sorted(fragments, key=lambda fragment: (fragment.digest, fragment.path))


def unchanged(fragment: Fragment, source: Source, cache: Path) -> bool:
    """Whether the fragment's file, and the image files that it names, are what they were when it was scanned.

    Cheap when the scan cache knows them. To be asked after a fragment was read, before what was read is kept
    under its digest. Raises SourceError as `scan`.
    """
    root = fragment.image_root if source.image_root is not None else None
    with ThreadPoolExecutor(_THREADS) as pool:
        scanner = _Scanner(fragment.source, source, root, cache, pool)
        return scanner.fragment(scanner.file(fragment.path)).digest == fragment.digest


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
    digest: str
    """blake3 hex of its bytes."""
    references: list[str]
    """Sorted, as the rows write them."""
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
                paths = [reference.path for reference in entry.references]
                return _File(path, stamp, entry.format, entry.digest, paths, entry.has_image_column, entry, False)
            is_folder = self._is_folder(path)
            format = "imagefolder" if is_folder else detect(path, self._source.format)
            hashing = Hashing()  # first, so that what reads rows for their images is what digests the file
            references, has_image_column = self._references(path, format, hashing)
            digest = imagefolder.digest(path, hashing.digest) if is_folder else hashing.digest(path)
            if self._stamp(path) != stamp:
                raise SourceError(
                    "this file changed while it was read",
                    where=printable(path),
                    mend="wait until its writer is done, and start again",
                )
        return _File(path, stamp, format, digest, sorted(references), has_image_column, entry, True)

    def _is_folder(self, path: str) -> bool:
        return self._source.format == "imagefolder" and posixpath.basename(path) not in METADATA

    def _stamp(self, path: str) -> Stamp:
        return imagefolder.stamp(path) if self._is_folder(path) else files.stamp(path)

    def fragment(self, file: _File) -> Fragment:
        """The fragment of a file: looks at its images, reads those that may have changed, and renews the
        cache."""
        root = file.path if file.format == "imagefolder" else self._image_root or posixpath.dirname(file.path)
        folder = ImageFolder(root)
        before = {reference.path: reference for reference in file.entry.references} if file.entry else {}

        def look(paths: list[str]) -> list[Reference]:
            return [_look(path, folder, before.get(path), file.entry) for path in paths]

        batches = [file.references[at : at + _BATCH] for at in range(0, len(file.references), _BATCH)]
        references = [reference for batch in self._pool.map(look, batches) for reference in batch]
        entry = Entry(
            identity=file.stamp.identity,
            recorded_ns=self._now,
            format=file.format,
            digest=file.digest,
            has_image_column=file.has_image_column,
            references=references,
        )
        if file.stamp.identity and (file.was_read or _news(references, before)):
            scan_cache.store(self._place(file.path), entry)
        return Fragment(
            source=self._name,
            path=file.path,
            format=file.format,
            digest=_combined(file.digest, references),
            bytes=file.stamp.size + sum(reference.size for reference in references),
            image_root=root,
        )

    def _place(self, path: str) -> Path:
        # all that decides which references a file has, and where they lie
        source = self._source
        asked = (source.kind == "text", source.format or "", source.image or "", self._image_root or "")
        more = (source.frames, sorted((source.columns or {}).items())) if source.frames or source.columns else ()
        return scan_cache.place(self._cache, path, *map(str, asked + more))

    def _references(self, path: str, format: str, hashing: Hashing) -> tuple[set[str], bool]:
        """The image paths that the rows of a file name, and whether any row has the image column."""
        used = names(self._source, format)
        if used.image is None or format == "webdataset":
            return set(), False
        if format in ("parquet", "arrow"):
            columns = self._source.columns
            if format == "parquet":
                return parquet.image_references(path, used.image, columns)
            return arrow.image_references(path, used.image, columns, hashing.open)
        found: set[str] = set()
        has_column = False
        for raw in raw_rows(path, format, self._source, opener=hashing.open):
            if isinstance(raw, RawRow) and used.image in raw.values:
                has_column = True
                found.update(references(raw.values[used.image]))
        return found, has_column


def _look(path: str, folder: ImageFolder, before: Reference | None, entry: Entry | None) -> Reference:
    """What an image path stands for now. A path that leaves the folder is never opened."""
    place = folder.locate(path)
    if isinstance(place, Problem):
        return Reference(path, "", 0, _OUTSIDE if place.reason == "path_escape" else _MISSING)
    try:
        stamp = files.stamp(place)
        if before is not None and entry is not None and entry.proves(before.identity, stamp):
            return before
        digest = Hashing().digest(place)
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


def _combined(digest: str, references: list[Reference]) -> str:
    """The digest of a file's bytes alone or, with image files, of both: see docs/sources.md."""
    if not references:
        return digest
    hasher = blake3(b"mixc fragment 1\0" + bytes.fromhex(digest))
    for reference in sorted(references, key=lambda reference: reference.path):
        for part in (reference.path.encode("utf-8", "surrogatepass"), reference.digest.encode()):
            hasher.update(len(part).to_bytes(4, "little") + part)
    return hasher.hexdigest()
