"""Benchmark files of any format, read for decontamination: every text and every image in them, nested ones too."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.clean.contamination import Benchmark
from mixc.errors import SourceError
from mixc.measure.image import ImageError, probe
from mixc.sources.files import open_binary, printable, reading
from mixc.sources.formats.detect import detect
from mixc.sources.formats.json_value import BadJSONError, parse
from mixc.sources.formats.rows import raw_rows
from mixc.sources.formats.tar import TarError, members
from mixc.sources.formats.webdataset import split
from mixc.sources.images import ImageFolder, Problem
from mixc.sources.paths import expand
from mixc.sources.raw import RawRow
from mixc.spec.schema import Decontaminate, Source

Item = tuple[str, list[str], list[bytes]]

_IMAGE_NAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_TEXT_MEMBERS = ("txt", "text", "cls")
"""Of tars."""


def load_benchmark(decontaminate: Decontaminate, base: Path) -> Benchmark:
    """The benchmark that `decontaminate` names, paths relative to `base`. An item is a row, named by its file's name and
    row number.

    Raises SourceError: no file matches, one cannot be read, a row is broken, or there is no text long enough and no image
    to compare with.
    """
    source = Source(path=decontaminate.against, kind="text")
    try:
        paths = expand("decontaminate", source, base)
    except SourceError as error:
        raise SourceError(error.what, where="decontaminate.against", why=error.why, mend=error.mend) from error
    wants_images = decontaminate.phash is not None
    benchmark = Benchmark.of(
        (item for path in paths for item in _items(path, wants_images)),
        ngram=decontaminate.ngram,
        phash_bits=decontaminate.phash,
    )
    if not benchmark.ngrams and not len(benchmark.hashes):
        raise SourceError(
            "there is nothing in these files to compare with",
            where="decontaminate.against",
            why=f"{len(benchmark.items):,} rows, no text of 8 words or more, and no image that is compared",
            mend="name the files with the questions, or set phash to compare images",
        )
    return benchmark


def _items(path: str, wants_images: bool) -> Iterator[Item]:
    name = printable(posixpath.basename(path))
    folder = ImageFolder(posixpath.dirname(path))
    for number, values in enumerate(_rows(path)):
        found = _Found(folder, wants_images)
        found.collect(values)
        if found.unreadable and not found.images:
            raise SourceError(
                f"the images of row {number} of a benchmark cannot be read",
                where=printable(path),
                why=found.unreadable[0],
                mend="paths are relative to this file's folder; put the images there, or do without `phash`",
            )
        yield f"{name} {number}", found.texts, found.images


def _rows(path: str) -> Iterator[Mapping[str, object]]:
    """Rows with all that is in them: of a table every column, of a tar every member."""
    format = detect(path, None)
    with reading(path):
        if format == "parquet":
            yield from _table(path)
            return
        if format == "webdataset":
            yield from _tar(path)
            return
    for raw in raw_rows(path, format, Source(path=path, kind="text")):
        if not isinstance(raw, RawRow):
            raise _broken(path, f"row {raw.row}", raw.detail)
        yield raw.values


def _broken(path: str, what: str, why: str) -> SourceError:
    return SourceError(
        f"{what} of a benchmark cannot be read",
        where=printable(path),
        why=why,
        mend="what is passed over would be trained on, so make or download the file again",
    )


def _table(path: str) -> Iterator[Mapping[str, object]]:
    row = 0
    try:
        with open_binary(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(1024, use_threads=False):
                for values in pa.Table.from_batches([batch]).to_pylist():
                    yield values
                    row += 1
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise _broken(path, f"what follows row {row}", str(error).splitlines()[0]) from None


def _tar(path: str) -> Iterator[Mapping[str, object]]:
    row: dict[str, object] = {}
    before = None
    try:
        with open_binary(path) as file:
            for member in members(file):
                parts = split(member.name)
                if parts is None or not member.plain:
                    continue
                key, extension = parts
                if before not in (None, key):
                    yield row
                    row = {}
                before = key
                data = member.read()
                if extension == "json":
                    row[extension] = parse(data.decode("utf-8", "surrogateescape"))
                else:
                    row[extension] = data.decode("utf-8", "replace") if extension in _TEXT_MEMBERS else data
    except BadJSONError as error:
        raise _broken(path, f"the json of sample {before!a}", str(error)) from None
    except TarError as error:
        raise _broken(path, "the rest", str(error)) from None
    if row:
        yield row


class _Found:
    """Texts and images anywhere in a row. A path to an image counts as the image."""

    def __init__(self, folder: ImageFolder, wants_images: bool) -> None:
        self.texts: list[str] = []
        self.images: list[bytes] = []
        self.unreadable: list[str] = []
        """Why there is no image where a path names one."""
        self._folder, self._wants_images = folder, wants_images

    def collect(self, value: object) -> None:
        if isinstance(value, str):
            self.texts.append(value)
            if self._wants_images and value.lower().endswith(_IMAGE_NAMES) and not re.search(r"\s|://", value):
                self._add_file(value)
        elif isinstance(value, bytes):
            if self._wants_images:
                self._add(value)
        elif isinstance(value, Mapping):
            for inner in value.values():
                self.collect(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                self.collect(inner)

    def _add_file(self, reference: str) -> None:
        data = self._folder.read(reference)
        why = data.detail if isinstance(data, Problem) else self._add(data)
        if why is not None:
            self.unreadable.append(why)

    def _add(self, data: bytes) -> str | None:
        """Why these bytes are no image, as a sound in a table is none."""
        try:
            probe(data)
        except ImageError as error:
            return str(error)
        self.images.append(data)
        return None
