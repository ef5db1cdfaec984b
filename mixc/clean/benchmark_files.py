"""Benchmark files of any format, read for decontamination: every text and every image in them, nested ones too."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.clean.contamination import Benchmark
from mixc.errors import SourceError
from mixc.measure.image import ImageError, probe
from mixc.sources.files import open_binary, printable, reading
from mixc.sources.formats.detect import detect
from mixc.sources.formats.rows import raw_rows
from mixc.sources.images import ImageFolder, Problem
from mixc.sources.paths import expand
from mixc.sources.raw import RawRow, is_utf8
from mixc.spec.schema import Decontaminate, Source

Item = tuple[str, list[str], list[bytes]]


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
    name = posixpath.basename(path)
    folder = ImageFolder(posixpath.dirname(path))
    for number, values in enumerate(_rows(path)):
        texts: list[str] = []
        images: list[bytes] = []
        _collect(values, texts, images, folder, wants_images)
        yield f"{name} {number}", texts, images


def _rows(path: str) -> Iterator[Mapping[str, object]]:
    format = detect(path, None)
    with reading(path):
        if format == "parquet":
            with open_binary(path) as file:
                for batch in pq.ParquetFile(file).iter_batches(1024):
                    yield from pa.Table.from_batches([batch]).to_pylist()
            return
        if format == "webdataset":
            yield from _members(path)
            return
    for raw in raw_rows(path, format, Source(path=path, kind="text")):
        if not isinstance(raw, RawRow):
            raise SourceError(
                f"row {raw.row} of a benchmark cannot be read",
                where=printable(path),
                why=raw.detail,
                mend="a row that is passed over would be trained on; mend the file",
            )
        yield raw.values


def _members(path: str) -> Iterator[Mapping[str, object]]:
    """Files of a tar: those of one name without extension are a row."""
    row: dict[str, object] = {}
    before = None
    with open_binary(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if before not in (None, (folder, stem)):
                yield row
                row = {}
            before = folder, stem
            opened = archive.extractfile(member)
            data = opened.read() if opened else b""
            row[extension] = data.decode("utf-8", "replace") if extension.lower() in ("txt", "json", "cls") else data
    if row:
        yield row


def _collect(value: object, texts: list[str], images: list[bytes], folder: ImageFolder, wants_images: bool) -> None:
    """Texts and images anywhere in a value; a path to an image counts as the image."""
    if isinstance(value, str):
        if is_utf8(value):
            texts.append(value)
        if wants_images and value.lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")):
            found = folder.read(value)
            if not isinstance(found, Problem):
                _add_image(found, images)
    elif isinstance(value, bytes):
        if wants_images:
            _add_image(value, images)
    elif isinstance(value, Mapping):
        for inner in value.values():
            _collect(inner, texts, images, folder, wants_images)
    elif isinstance(value, list | tuple):
        for inner in value:
            _collect(inner, texts, images, folder, wants_images)


def _add_image(data: bytes, images: list[bytes]) -> None:
    try:
        probe(data)
    except ImageError:
        return  # bytes that are no image, as a sound or a mask in a table
    images.append(data)
