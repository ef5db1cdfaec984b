"""Small, real builds for `sail-vl-tiny`, written with the shard writers."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3
from PIL import Image

from shards.digest import source_key
from shards.layout import MEDIA_INDEX, media_shard_name, steps_name, token_shard_name
from shards.manifest import (
    FORMAT_VERSION,
    Continues,
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
from shards.pack import EMPTY_PACK, IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE, Pack
from shards.steps import STEP_DTYPE, step_record, write_steps
from shards.tokens import write_token_shard
from tests.columns import columns

GEOMETRY = Geometry(
    name="sail-vl-tiny",
    tile_size=448,
    tokens_per_tile=256,
    max_tiles=12,
    min_tiles=1,
    thumbnail=True,
    vocab_size=151936,
    image_start_id=151665,
    image_end_id=151666,
    image_context_id=151667,
    pad_id=151643,
)

SETTINGS = TrainSettings(
    lr={"vision": 1e-3, "projector": 2e-3, "language": 5e-3},
    schedule="cosine",
    warmup_steps=2,
    min_lr_ratio=0.1,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    eps=1e-8,
    clip=1.0,
    loss="token",
)

ALIGN = msgspec.structs.replace(SETTINGS, lr={"projector": 2e-3}, schedule="linear", warmup_steps=0)


def image(number: int) -> bytes:
    """A PNG of its own colours."""
    across = np.linspace(0, 255, 32, dtype=np.uint8)
    pixels = np.stack([np.tile(across, (32, 1)), np.tile(across[:, None], (1, 32))], axis=-1)
    pixels = np.concatenate([pixels, np.full((32, 32, 1), 60 * number % 256, np.uint8)], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [image(number) for number in range(3)]


def pack_of(*samples: tuple[str, list[int], int | None, float]) -> Pack:
    """Samples end to end: (source, text tokens, number of its image or None, weight). All text but the first
    token is supervised."""
    tokens: list[int] = []
    segments, spans, images = [], [], []
    for source, text, picture, weight in samples:
        segment_id = blake3(repr((source, text, picture)).encode()).digest(16)
        segments.append((segment_id, source_key(source), len(tokens), 0, 0, weight))
        if picture is not None:
            tokens.append(GEOMETRY.image_start_id)
            images.append((blake3(IMAGES[picture]).digest(), len(tokens), 1, 1, 0, 0))
            tokens += [GEOMETRY.image_context_id] * GEOMETRY.tokens_per_tile + [GEOMETRY.image_end_id]
        spans.append((len(tokens) + 1, len(tokens) + len(text)))
        tokens += text
    return Pack(
        tokens=np.array(tokens, np.int32),
        segments=np.array(segments, SEGMENT_DTYPE),
        spans=np.array(spans, SPAN_DTYPE),
        images=np.array(images, IMAGE_DTYPE),
    )


def steps_of(steps: int, seed: int) -> list[list[Pack]]:
    """Steps of four packs, heaviest first: one image in even steps and two in odd ones, so that two processes
    work once on an image beside text and once both on one; the last step ends in an empty pack."""
    random = np.random.default_rng(seed)

    def text(least: int) -> list[int]:
        return random.integers(0, 2000, least + random.integers(0, 8)).tolist()

    made = []
    for step in range(steps):
        packs = [pack_of(("captions", text(12), step % 3, 1.0), ("prose", text(6), None, 0.5))]
        packs.append(
            pack_of(("captions", text(10), (step + 1) % 3, 1.0))
            if step % 2
            else pack_of(("prose", text(30), None, 1.0))
        )
        packs.append(pack_of(("prose", text(12), None, 1.0), ("chat", text(10), None, 0.25)))
        packs.append(pack_of(("chat", text(8), None, 2.0)) if step < steps - 1 else EMPTY_PACK)
        made.append(packs)
    return made


def write_build(
    folder: Path,
    stages: dict[str, tuple[TrainSettings, list[list[Pack]]]],
    *,
    geometry: Geometry = GEOMETRY,
    tokenizer: str = "0" * 64,
    template: str = "1" * 64,
    seed: int = 7,
    continues: Continues | None = None,
    model: str = GEOMETRY.name,
) -> Path:
    """A build of these stages: settings, and packs by step. Two token shards a stage, where it has packs for
    two. `model`: one that has the tiny one's geometry."""
    folder.mkdir(parents=True)
    entries = []
    for name, (settings, steps) in stages.items():
        packs = [pack for step in steps for pack in step]
        middle = len(packs) // 2
        shards, digests = [], []
        for number, part in enumerate((packs[:middle], packs[middle:])):
            entry, its_digests = write_token_shard(folder, token_shard_name(name, number), columns(part))
            shards.append(entry)
            digests.append(its_digests)
        records = np.array([step_record(step) for step in steps], STEP_DTYPE)
        share = SourceShare(
            wished=0.0, met=0.0, epochs=0.0, samples=0, tokens=0, supervised_tokens=0, images=0, tiles=0
        )
        entries.append(
            StageEntry(
                name=name,
                batch=len(steps[0]),
                sequence_length=512,
                max_tiles=1,
                steps=len(steps),
                packs=len(packs),
                samples=int(records["samples"].sum()),
                tokens=int(records["tokens"].sum()),
                supervised_tokens=int(records["supervised"].sum()),
                images=int(records["images"].sum()),
                tiles=int(records["tiles"].sum()),
                unit="tokens",
                sources=dict.fromkeys(("captions", "chat", "prose"), share),
                train=settings,
                digest=stage_digest(digests),
                steps_file=steps_name(name),
                steps_digest=write_steps(folder / steps_name(name), records),
                shards=shards,
            )
        )
    manifest = Manifest(
        format=FORMAT_VERSION,
        mixture="small",
        seed=seed,
        continues=continues,
        root="",
        geometry=msgspec.structs.replace(geometry, name=model),
        tokenizer=tokenizer,
        template=template,
        stages=entries,
        media=_media(folder),
        files={},
    )
    write_manifest(folder, with_root(manifest))
    return folder


def _media(folder: Path) -> MediaEntry:
    digests = [blake3(data).digest() for data in IMAGES]
    items = [(digest, "png", data) for digest, data in zip(digests, IMAGES, strict=True)]
    entry, offsets = write_media_shard(folder, media_shard_name(0), items)
    records = np.zeros(len(IMAGES), MEDIA_DTYPE)
    for row, digest, data, offset in zip(records, digests, IMAGES, offsets, strict=True):
        row["digest"], row["width"], row["height"] = digest, 32, 32
        row["offset"], row["size"] = offset, len(data)
    return MediaEntry(
        images=len(IMAGES),
        bytes=sum(map(len, IMAGES)),
        index=MEDIA_INDEX,
        index_file=write_media_index(folder / MEDIA_INDEX, records),
        shards=[entry],
    )
