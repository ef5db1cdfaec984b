"""Objects on disk: written a batch at a time, published by one rename, read at random. facts.py says what is in one.

An object is addressed by the digest of all that went into it, and holds nothing else: no path, clock or host. So two
runs, two processes or two machines that measure the same fragment write the same bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from mixc.cache.folders import partial, publish
from mixc.errors import BuildError
from mixc.measure.columns import ColumnTable
from mixc.measure.facts import (
    FACTS_SCHEMA,
    MEDIA_SCHEMA,
    OBJECT_VERSION,
    REJECTS_SCHEMA,
    ObjectInfo,
)
from mixc.measure.records import Records, encode
from mixc.measure.template import Template, template_named
from mixc.sources.fragment import Fragment
from mixc.sources.normalise import DEFAULT_PROMPTS
from mixc.sources.sample import Reject, Scalar
from mixc.spec.schema import Source
from shards.errors import ShardError
from shards.handles import PositionalFile
from shards.manifest import Geometry

if TYPE_CHECKING:  # Pillow, which who reads objects need not load
    from mixc.measure.image import ImageFacts

INFO, FACTS, REJECTS, MEDIA = "object.json", "facts.parquet", "rejects.parquet", "media.parquet"
SAMPLES_BIN, MEDIA_BIN = "samples.bin", "media.bin"
_FILES = (FACTS, REJECTS, MEDIA, SAMPLES_BIN, MEDIA_BIN)

ROW_GROUP = 1 << 14
"""Rows of facts, rejects and media that are held in memory before they are written."""

U32 = npt.NDArray[np.uint32]


def object_digest(fragment: Fragment, source: Source, *, geometry: Geometry, tokenizer: str, template: Template) -> str:
    """The key of a fragment's object, in hex: blake3 over all that decides its content.

    Of the source, its name and what says how a row is read; not where it lies, nor what the plan does with it. Of the
    geometry, the tile rule; not the model's name or vocabulary. `tokenizer` is a digest, `template` the model's, for a
    source that names none. Raises SpecError for the name of no template.
    """
    key = {
        "object": OBJECT_VERSION,
        "fragment": fragment.digest,
        "format": fragment.format,
        "source": fragment.source,
        "reading": {
            "kind": source.kind,
            "text": source.text,
            "image": source.image,
            "messages": source.messages,
            "prompt": source.prompt if source.prompt is not None else DEFAULT_PROMPTS.get(source.kind),
        },
        **_asked(source),
        "tiles": {
            "size": geometry.tile_size,
            "tokens": geometry.tokens_per_tile,
            "min": geometry.min_tiles,
            "max": geometry.max_tiles,
            "thumbnail": geometry.thumbnail,
        },
        "tokenizer": tokenizer,
        "template": _template(source, template).digest,
    }
    return blake3(msgspec.json.encode(key, order="sorted")).hexdigest()


def _template(source: Source, template: Template) -> Template:
    """What a source's rows are made tokens with. A text has no answer, so models that think share it with all others."""
    if source.kind == "text":
        return template_named(template.name)
    return template if source.template is None else template_named(source.template, think=template.think)


def _asked(source: Source) -> dict[str, object]:
    """What else a source says of how its rows are read, where it says it: so that a new key of the spec leaves objects
    of sources without it as they are."""
    keys = {
        "columns": source.columns,
        "messages_format": source.messages_format,
        "frames": source.frames,
        "max_frames": source.max_frames,
        "number_images": source.number_images or None,
        "decode_images": None if source.decode_images else False,
        # version 2: a reject has the name of its image
        "folder": "imagefolder 2" if source.format == "imagefolder" else None,
    }
    asked = {key: value for key, value in keys.items() if value is not None}
    return {"asked": asked} if asked else {}


def object_path(cache: Path, digest: str) -> Path:
    return cache / "objects" / digest[:2] / digest


def read_info(path: Path) -> ObjectInfo | None:
    """What a whole object says of itself; None when there is none at `path`, or a damaged one, which is to be measured
    again: object.json missing or unreadable, of another version or key, or a file that has not its recorded size."""
    try:
        info = msgspec.json.decode((path / INFO).read_bytes(), type=ObjectInfo)
        sizes = {name: (path / name).stat().st_size for name in _FILES}
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    whole = info.version == OBJECT_VERSION and info.digest == path.name and info.files == sizes
    return info if whole else None


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One distinct image of an object."""

    digest: bytes
    facts: ImageFacts
    offset: int
    size: int


class ObjectWriter:
    """Writes one object into a folder of its own; see `write_object`. Call in row order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._samples = (folder / SAMPLES_BIN).open("wb")
        self._media = (folder / MEDIA_BIN).open("wb")
        self._facts = ColumnTable(folder / FACTS, FACTS_SCHEMA, row_group=ROW_GROUP)
        self._rejects = ColumnTable(folder / REJECTS, REJECTS_SCHEMA, row_group=ROW_GROUP)
        self._places = ColumnTable(folder / MEDIA, MEDIA_SCHEMA, row_group=ROW_GROUP)
        self._samples_bytes = 0
        self._media_bytes = 0
        self._tokens = 0
        self._images: dict[bytes, ImageEntry] = {}

    def image(self, digest: bytes) -> ImageEntry | None:
        """An image that this object already holds. The table of them is all that grows with the fragment: some 300
        bytes for each distinct image."""
        return self._images.get(digest)

    def add_image(self, digest: bytes, facts: ImageFacts, data: bytes) -> ImageEntry:
        """Keep an encoded image, once."""
        entry = ImageEntry(digest, facts, self._media_bytes, len(data))
        self._media.write(data)
        self._media_bytes += len(data)
        self._images[digest] = entry
        return entry

    def add_samples(
        self,
        facts: Mapping[str, Any],
        columns: Sequence[Mapping[str, Scalar]],
        records: Records,
        images: Sequence[Sequence[ImageEntry]],
    ) -> None:
        """Append samples: their records, their rows of facts.parquet (FACTS_SCHEMA by name, but for `offset` and `length`),
        their sources' columns, and the images of each."""
        words, lengths = encode(records)
        offsets = self._samples_bytes + np.cumsum(lengths) - lengths
        self._samples.write(words.astype("<u4", copy=False).data)
        self._samples_bytes += words.nbytes
        self._facts.add({**facts, "offset": offsets, "length": lengths}, columns)
        self._tokens += int(np.sum(facts["tokens"]))
        placed = [
            (row, place, image)
            for row, own in zip(facts["row"], images, strict=True)
            for place, image in enumerate(own)
        ]
        if placed:
            entries = [image for _, _, image in placed]
            self._places.add(
                {
                    "row": [row for row, _, _ in placed],
                    "place": [place for _, place, _ in placed],
                    "digest": [image.digest for image in entries],
                    "offset": [image.offset for image in entries],
                    "size": [image.size for image in entries],
                    "extension": [image.facts.extension for image in entries],
                    "width": [image.facts.width for image in entries],
                    "height": [image.facts.height for image in entries],
                }
            )

    def add_reject(self, reject: Reject) -> None:
        self._rejects.add(
            {"row": [reject.row], "reason": [reject.reason], "detail": [reject.detail], "place": [reject.place]}
        )

    def finish(self, fragment: Fragment, digest: str, *, fast_tokenizer: bool) -> ObjectInfo:
        """Write what is held back, then object.json, last."""
        columns = self._facts.close()
        self._rejects.close()
        self._places.close()
        self.close()
        info = ObjectInfo(
            version=OBJECT_VERSION,
            digest=digest,
            source=fragment.source,
            fragment=fragment.digest,
            samples=self._facts.rows,
            rejects=self._rejects.rows,
            tokens=self._tokens,
            columns=columns,
            fast_tokenizer=fast_tokenizer,
            files={name: (self._folder / name).stat().st_size for name in _FILES},
        )
        (self._folder / INFO).write_bytes(msgspec.json.format(msgspec.json.encode(info, order="sorted"), indent=1))
        return info

    def close(self) -> None:
        self._samples.close()
        self._media.close()


@contextmanager
def write_object(cache: Path, digest: str) -> Iterator[ObjectWriter]:
    """A writer whose object appears at `object_path(cache, digest)` when the block ended well and called `finish`."""
    with partial(cache, digest) as folder:
        writer = ObjectWriter(folder)
        try:
            yield writer
        finally:
            writer.close()
        publish(folder, object_path(cache, digest), lambda there: read_info(there) is not None)


class Object:
    """A measured fragment, for reading at random. Its samples are mapped when first read, which costs the same for an object
    of any size; its images are read one by one."""

    def __init__(self, path: Path) -> None:
        """Of a whole object (`read_info`). Raises BuildError, later, when a file is gone."""
        self.path = path

    @cached_property
    def words(self) -> U32:
        """samples.bin, read-only: where facts.parquet has `offset` and `length`, there is a record (records.py)."""
        return np.frombuffer(self._samples, "<u4")

    def let_go(self) -> None:
        """Give the memory back that reading `words` took. They stay as they are, and are read again when they are needed."""
        if isinstance(self._samples, mmap.mmap):
            self._samples.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def _samples(self) -> mmap.mmap | bytes:
        path = self.path / SAMPLES_BIN
        try:
            with path.open("rb") as file:
                if path.stat().st_size == 0:  # cannot be mapped
                    return b""
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _gone(path, error.strerror or str(error)) from error

    @cached_property
    def _media(self) -> PositionalFile:
        path = self.path / MEDIA_BIN
        try:
            return PositionalFile(path)
        except ShardError as error:
            raise _gone(path, str(error)) from error

    def image(self, offset: int, size: int) -> bytes:
        """The encoded image whose `offset` and `size` media.parquet gives. Raises BuildError when it lies beyond the end."""
        try:
            return self._media.read_at(offset, size, "an image")
        except ShardError as error:
            raise BuildError(
                "an object does not hold an image that it should",
                why=str(error),
                mend="delete the cache and compile again",
            ) from error


def _gone(path: Path, why: str) -> BuildError:
    return BuildError(
        "an object is gone that was measured",
        where=str(path),
        why=why,
        mend="compile again, and leave the cache folder alone while it runs",
    )


def read_rejects(path: Path) -> pa.Table:
    """Unusable rows of an object, REJECTS_SCHEMA, in row order. Places are empty in an object of an earlier version."""
    table = pq.read_table(path / REJECTS)
    if "place" not in table.column_names:
        table = table.append_column("place", pa.array([""] * len(table), pa.string()))
    return table.select(REJECTS_SCHEMA.names)


def reject_counts(path: Path) -> dict[str, int]:
    """Unusable rows of an object by reason, in alphabetical order."""
    reasons = pq.ParquetFile(path / REJECTS).read(columns=["reason"])["reason"].value_counts().to_pylist()
    return {item["values"]: item["counts"] for item in sorted(reasons, key=lambda item: str(item["values"]))}
