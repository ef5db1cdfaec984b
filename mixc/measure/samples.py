"""Samples in, an object out: the core of measuring, the same whatever format the samples were read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mixc.measure.facts import RECORD_IMAGE
from mixc.measure.identity import columns_digest, content_digest, image_digest, sample_id
from mixc.measure.image import ImageError, probe
from mixc.measure.object import ImageEntry, ObjectWriter
from mixc.measure.parity import agree
from mixc.measure.records import I64, Records
from mixc.measure.template import IMAGE_SEGMENT, Segment, Template, TokenBatch, template_named, tokenize
from mixc.measure.tiles import ONE_TILE, grid
from mixc.measure.tokenizer import Ids, Offsets, Tokenizer
from mixc.sources.raw import reject
from mixc.sources.sample import Reject, Sample, Scalar
from shards.manifest import Geometry

BATCH_SAMPLES = 512
BATCH_CHARACTERS = 1 << 22
"""How much is tokenised at a time. It bounds memory, and shows in nothing that is written."""

_U16 = (1 << 16) - 1


@dataclass(slots=True)  # not frozen: there is one a row, and a frozen one costs six times as much to make
class _Accepted:
    """A sample that will be in the object, all but its tokens. Its encoded images are written already."""

    row: int
    content: bytes
    columns: dict[str, Scalar]
    columns_digest: int
    segments: list[Segment]
    images: list[ImageEntry]
    frames: bool
    turns: int
    characters: int


def measure_rows(
    rows: Iterable[Sample | Reject],
    writer: ObjectWriter,
    *,
    source: str,
    geometry: Geometry,
    tokenizer: Tokenizer,
    template: Template,
    decode_images: bool = True,
) -> bool:
    """Write every row, a sample or a reject, to `writer`. Returns whether the fast tokenizer did all of it.

    What makes a Sample a Reject here: an image that is empty, undecodable (without `decode_images`, by its header) or a
    bomb; text that is not Unicode; a text of no characters; more or fewer `<image>` placeholders than images; more than
    65,535 turns or images.
    """
    encoder = _Encoder(tokenizer)
    batch: list[_Accepted] = []
    characters = 0
    for row in rows:
        outcome = row if isinstance(row, Reject) else _accept(row, writer, template, decode_images)
        if isinstance(outcome, Reject):
            writer.add_reject(outcome)
            continue
        batch.append(outcome)
        characters += outcome.characters
        if len(batch) >= BATCH_SAMPLES or characters >= BATCH_CHARACTERS:
            _write(writer, batch, encoder, source, geometry)
            batch, characters = [], 0
    if batch:
        _write(writer, batch, encoder, source, geometry)
    return encoder.tokenizer.fast


class _Encoder:
    """`encode_plain` of a fragment: by the fast tokenizer if it agrees with the reference on the first texts, and for
    as long as it does not give up (its regular expressions have limits of their own)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._compared = False

    def __call__(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        if self.tokenizer.fast:
            if self._compared or agree(self.tokenizer, texts):
                self._compared = True
                try:
                    return self.tokenizer.encode_fast(texts)
                except Exception:  # whatever it is, the reference decides
                    pass
            self.tokenizer = replace(self.tokenizer, fast=False)
        return self.tokenizer.encode_reference(texts)


def _accept(sample: Sample, writer: ObjectWriter, template: Template, decode_images: bool) -> _Accepted | Reject:
    """Check, name and segment a sample, and write those of its images that the object does not hold yet."""
    if sample.text == "":
        return reject(sample.row, "empty_text", "the text has no characters", sample.place)
    if len(sample.turns) > _U16:
        return reject(sample.row, "bad_turns", f"{len(sample.turns)} turns; at most {_U16} are read", sample.place)
    if len(sample.images) > _U16:
        return reject(
            sample.row, "placeholder_mismatch", f"{len(sample.images)} images; at most {_U16} are read", sample.place
        )
    if sample.template:
        template = template_named(sample.template, think=template.think)
    segments = template.segments(sample)
    placeholders = segments.count(IMAGE_SEGMENT)
    if placeholders != len(sample.images):
        return reject(
            sample.row,
            "placeholder_mismatch",
            f"{placeholders} <image> placeholders, {len(sample.images)} images",
            sample.place,
        )
    digests = [image_digest(image) for image in sample.images]
    try:
        content = content_digest(sample.text, sample.turns, digests, frames=sample.frames)
        columns = columns_digest(sample.columns)
    except UnicodeEncodeError as error:
        return reject(sample.row, "not_utf8", f"a lone surrogate at character {error.start} of a text", sample.place)
    known: dict[bytes, ImageEntry | None] = {digest: writer.image(digest) for digest in digests}
    new = {}
    for place, (digest, image) in enumerate(zip(digests, sample.images, strict=True)):
        if known[digest] is None and digest not in new:
            try:
                new[digest] = (probe(image, decode=decode_images), image)
            except ImageError as error:
                where = f"image {place + 1} of {len(digests)}: " if len(digests) > 1 else ""
                return reject(sample.row, error.reason, f"{where}{error}", sample.place)
    entries = {digest: writer.add_image(digest, facts, image) for digest, (facts, image) in new.items()}
    return _Accepted(
        row=sample.row,
        content=content,
        columns=sample.columns,
        columns_digest=columns,
        segments=segments,
        images=[known[digest] or entries[digest] for digest in digests],
        frames=sample.frames,
        turns=sum(turn.role != "system" for turn in sample.turns),
        characters=len(sample.text) if sample.text is not None else sum(len(turn.text) for turn in sample.turns),
    )


def _write(
    writer: ObjectWriter, batch: Sequence[_Accepted], encoder: _Encoder, source: str, geometry: Geometry
) -> None:
    tokens = tokenize([sample.segments for sample in batch], encoder, encoder.tokenizer.special)
    images, tiles = _images(batch, tokens, geometry)
    image_counts = np.diff(tokens.image_ends, prepend=0)
    supervised = np.concatenate([[0], np.cumsum(tokens.spans[:, 1].astype(np.int64) - tokens.spans[:, 0])])
    largest = [_largest(sample.images) for sample in batch]
    writer.add_samples(
        {
            "row": [sample.row for sample in batch],
            "id": [sample_id(source, sample.content) for sample in batch],
            "content": [sample.content for sample in batch],
            "columns": [sample.columns_digest for sample in batch],
            # each <IMG_CONTEXT> of the record stands for all the tokens of its image's tiles
            "tokens": np.diff(tokens.ends, prepend=0) - image_counts + tiles * geometry.tokens_per_tile,
            "supervised_tokens": np.diff(supervised[np.append(0, tokens.span_ends)]),
            "images": image_counts,
            "tiles": tiles,
            "turns": [sample.turns for sample in batch],
            "characters": [sample.characters for sample in batch],
            "width": [width for width, _ in largest],
            "height": [height for _, height in largest],
            "image_bytes": [sum(image.size for image in sample.images) for sample in batch],
        },
        [sample.columns for sample in batch],
        Records(
            tokens=tokens.ids,
            token_ends=tokens.ends,
            spans=tokens.spans,
            span_ends=tokens.span_ends,
            images=images,
            image_ends=tokens.image_ends,
        ),
        [sample.images for sample in batch],
    )


def _images(batch: Sequence[_Accepted], tokens: TokenBatch, geometry: Geometry) -> tuple[npt.NDArray[np.void], I64]:
    """Records of all images of a batch, RECORD_IMAGE [I], and the tiles of each sample [S]."""
    records = np.zeros(len(tokens.images), RECORD_IMAGE)
    records["position"] = tokens.images
    tiles = np.zeros(len(batch), np.int64)
    number = 0
    for place, sample in enumerate(batch):
        for image in sample.images:
            tiling = ONE_TILE if sample.frames else grid(image.facts.width, image.facts.height, geometry)
            record = records[number]
            record["digest"] = image.digest
            record["cols"], record["rows"], record["thumbnail"] = tiling
            tiles[place] += tiling.tiles
            number += 1
    return records, tiles


def _largest(images: Sequence[ImageEntry]) -> tuple[int, int]:
    """Width and height of the image with the most pixels; 0 without."""
    sizes = [(image.facts.width, image.facts.height) for image in images]
    return max(sizes, key=lambda size: (size[0] * size[1], size), default=(0, 0))
