"""A build of images and text for benchmarks of training, with the shards' writers: no mixture, no tokenizer, no compiler.

Samples are like those of the SAIL-VL recipes in kind and size: captioned photographs, document pages, conversations about an
image, prose. Token ids are drawn, images are drawn too, and encoded as JPEG. Packs are filled by first fit, longest sample first,
then shuffled. A stage for each sequence length.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from blake3 import blake3
from PIL import Image

from runtime.model.zoo import ARCHITECTURES
from shards.digest import source_key
from shards.layout import MEDIA_INDEX, media_shard_name, steps_name, token_shard_name
from shards.manifest import (
    FORMAT_VERSION,
    Geometry,
    Manifest,
    MediaEntry,
    SourceShare,
    StageEntry,
    TrainSettings,
    stage_digest,
    with_root,
    write_manifest,
)
from shards.media import MEDIA_DTYPE, write_media_index, write_media_shard
from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE, Pack
from shards.packs import Packs
from shards.steps import STEP_DTYPE, step_record, write_steps
from shards.tokens import write_token_shard

T = TypeVar("T")

IMAGES = 4
"""Different images of each grid."""


@dataclass(frozen=True)
class Kind:
    """What samples of a source are like."""

    source: str
    share: float
    """Of the samples."""
    grids: tuple[tuple[int, int], ...]
    """Columns and rows of tiles that an image may have; none: text alone."""
    prompt: tuple[int, int]
    """Tokens before the answer, between these."""
    answer: tuple[int, int]
    """Supervised tokens, likewise, evenly in their logarithm."""


KINDS = (
    Kind("captions", 0.45, ((1, 1), (3, 2), (4, 3), (2, 2)), (8, 24), (40, 250)),
    Kind("pages", 0.15, ((2, 3), (3, 4)), (8, 24), (200, 1200)),
    Kind("chat", 0.25, ((1, 1), (2, 2), (3, 2)), (40, 200), (80, 800)),
    Kind("prose", 0.15, (), (1, 1), (100, 4000)),
)


def geometry(model: str) -> Geometry:
    """Of `model`, with the ids that Qwen's tokenizer gives its tokens."""
    shape = ARCHITECTURES[model]
    return Geometry(
        name=model,
        tile_size=shape.vision.tile,
        tokens_per_tile=shape.tokens_per_tile,
        max_tiles=12,
        min_tiles=1,
        thumbnail=True,
        vocab_size=shape.language.vocab,
        image_start_id=151669,
        image_end_id=151670,
        image_context_id=151671,
        pad_id=151643,
    )


class _Maker:
    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.random = np.random.default_rng(0)
        grids = sorted({grid for kind in KINDS for grid in kind.grids})
        self.images = {grid: [self._jpeg(*grid) for _ in range(IMAGES)] for grid in grids}

    def _jpeg(self, cols: int, rows: int) -> bytes:
        """Of about the grid's pixels, as smooth and as noisy as a photograph."""
        size = cols * 400, rows * 400
        coarse = self.random.integers(0, 256, (rows * 12, cols * 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + self.random.integers(-12, 13, smooth.shape, dtype=np.int16)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def sample(self, length: int) -> Pack:
        """One of at most `length` tokens, as a pack of its own."""
        dice, geometry = self.random, self.geometry
        while True:
            kind = KINDS[dice.choice(len(KINDS), p=[kind.share for kind in KINDS])]
            prompt = int(dice.integers(kind.prompt[0], kind.prompt[1] + 1))
            answer = int(np.exp(dice.uniform(*np.log(kind.answer))))
            head: list[int] = []
            images = np.zeros(0, IMAGE_DTYPE)
            if kind.grids:
                cols, rows = kind.grids[dice.integers(len(kind.grids))]
                thumbnail = cols * rows > 1
                data = self.images[cols, rows][dice.integers(IMAGES)]
                run = geometry.tokens_per_tile * (cols * rows + thumbnail)
                images = np.array([(blake3(data).digest(), 1, cols, rows, thumbnail, 0)], IMAGE_DTYPE)
                head = [geometry.image_start_id, *[geometry.image_context_id] * run, geometry.image_end_id]
            start = len(head) + prompt
            if start + answer > length:
                continue
            return Pack(
                tokens=np.array([*head, *dice.integers(0, 150_000, prompt + answer)], np.int32),
                segments=np.array([(dice.bytes(16), source_key(kind.source), 0, 0, 0, 1.0)], SEGMENT_DTYPE),
                spans=np.array([(start, start + answer)], SPAN_DTYPE),
                images=images,
            )

    def packs(self, number: int, length: int) -> list[Pack]:
        """The fullest `number` of packs of samples worth a tenth more. No sample takes more than half a pack."""
        samples: list[Pack] = []
        while sum(len(sample.tokens) for sample in samples) < 1.1 * number * length:
            samples += [self.sample(length // 2) for _ in range(16)]
        free: list[int] = []
        bins: list[list[Pack]] = []
        for sample in sorted(samples, key=lambda sample: -len(sample.tokens)):
            size = len(sample.tokens)
            place = next((place for place, room in enumerate(free) if room >= size), len(free))
            if place == len(free):
                free.append(length)
                bins.append([])
            free[place] -= size
            bins[place].append(sample)
        fullest = sorted(range(len(bins)), key=free.__getitem__)[:number]
        return [_joined(self._shuffled(bins[place])) for place in self._shuffled(fullest)]

    def _shuffled(self, items: list[T]) -> list[T]:
        return [items[i] for i in self.random.permutation(len(items))]


def _joined(samples: Sequence[Pack]) -> Pack:
    """Samples end to end in one pack."""
    first = np.cumsum([0, *(len(sample.tokens) for sample in samples)]).astype(np.uint32)
    for start, sample in zip(first, samples, strict=False):
        sample.segments["start"] += start
        sample.spans["start"] += start
        sample.spans["end"] += start
        sample.images["start"] += start
    return Pack(**{part: np.concatenate([getattr(sample, part) for sample in samples]) for part in _PARTS})


_PARTS = ("tokens", "segments", "spans", "images")


def _columns(packs: Sequence[Pack]) -> Packs:
    joined = {part: np.concatenate([getattr(pack, part) for pack in packs]) for part in _PARTS}
    ends = {
        f"{part.removesuffix('s')}_ends": np.cumsum([len(getattr(pack, part)) for pack in packs], dtype=np.int64)
        for part in _PARTS
    }
    return Packs(**joined, **ends)


def write_build(
    folder: Path, model: str, *, lengths: Sequence[int], batch: int, steps: int, trained: Sequence[str]
) -> Path:
    """A build at `folder` with stages named after their sequence lengths, of `steps` steps of `batch` packs, which train
    the modules `trained`."""
    maker = _Maker(geometry(model))
    nothing = dict.fromkeys(("samples", "tokens", "supervised_tokens", "images", "tiles"), 0)
    share = SourceShare(wished=0.0, met=0.0, epochs=1.0, **nothing)
    settings = TrainSettings(
        lr=dict.fromkeys(trained, 1e-5),
        schedule="constant",
        warmup_steps=0,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        eps=1e-8,
        clip=1.0,
        loss="token",
    )
    stages = []
    for length in lengths:
        name = str(length)
        packs = maker.packs(batch * steps, length)
        shard, digests = write_token_shard(folder, token_shard_name(name, 0), _columns(packs))
        records = [step_record(packs[start : start + batch]) for start in range(0, len(packs), batch)]
        table = np.array(records, STEP_DTYPE)
        stages.append(
            StageEntry(
                name=name,
                batch=batch,
                sequence_length=length,
                max_tiles=int(max(_tiles(pack) for pack in packs)),
                steps=steps,
                packs=len(packs),
                samples=int(table["samples"].sum()),
                tokens=int(table["tokens"].sum()),
                supervised_tokens=int(table["supervised"].sum()),
                images=int(table["images"].sum()),
                tiles=int(table["tiles"].sum()),
                unit="samples",
                sources={kind.source: share for kind in KINDS},
                train=settings,
                digest=stage_digest([digests]),
                steps_file=steps_name(name),
                steps_digest=write_steps(folder / steps_name(name), table),
                shards=[shard],
            )
        )
    manifest = Manifest(
        format=FORMAT_VERSION,
        mixture="mixed",
        seed=0,
        root="",
        geometry=maker.geometry,
        tokenizer="0" * 64,
        template="0" * 64,
        stages=stages,
        media=_media(folder, [image for images in maker.images.values() for image in images]),
        files={},
    )
    write_manifest(folder, with_root(manifest))
    return folder


def _tiles(pack: Pack) -> int:
    return int((pack.images["cols"].astype(int) * pack.images["rows"] + pack.images["thumbnail"]).sum())


def _media(folder: Path, images: Sequence[bytes]) -> MediaEntry:
    items = [(blake3(data).digest(), "jpg", data) for data in images]
    shard, offsets = write_media_shard(folder, media_shard_name(0), items)
    records = np.zeros(len(images), MEDIA_DTYPE)
    for record, (digest, _, data), offset in zip(records, items, offsets, strict=True):
        record["digest"], record["offset"], record["size"] = digest, offset, len(data)
        record["width"], record["height"] = Image.open(io.BytesIO(data)).size
    return MediaEntry(
        images=len(images),
        bytes=sum(map(len, images)),
        index=MEDIA_INDEX,
        index_file=write_media_index(folder / MEDIA_INDEX, records),
        shards=[shard],
    )
