"""A tiny build, made with the writers of `shards` and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from shards.digest import digest_file, source_key
from shards.manifest import (
    FORMAT_VERSION,
    FileEntry,
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
from shards.rules import Counts, add_counts
from shards.steps import STEP_DTYPE, step_record, write_steps
from shards.tokens import write_token_shard
from tests.columns import columns

GEOMETRY = Geometry(
    name="tiny",
    tile_size=28,
    tokens_per_tile=4,
    max_tiles=4,
    min_tiles=1,
    thumbnail=True,
    vocab_size=70_000,
    image_start_id=69_000,
    image_end_id=69_001,
    image_context_id=69_002,
    pad_id=69_003,
)
TRAIN = TrainSettings(
    lr={"projector": 2e-4, "language": 1e-5},
    schedule="cosine",
    warmup_steps=1,
    min_lr_ratio=0.0,
    weight_decay=0.01,
    betas=(0.9, 0.95),
    eps=1e-8,
    clip=1.0,
    loss="square",
)
SOURCES = ("captions", "prose")
GRIDS = ((1, 1, 0), (2, 1, 1), (2, 2, 1))


def image_bytes(number: int) -> bytes:
    """An image as far as `shards` can tell: bytes."""
    return b"\x89PNG" + np.random.default_rng(number).bytes(60 + 97 * number)


def make_pack(seed: int, images: tuple[int, ...]) -> Pack:
    """One captioned image a segment, the caption supervised; then one piece of a text."""
    rng = np.random.default_rng(seed)
    tokens: list[int] = []
    segments, spans, table = [], [], []
    for k, number in enumerate(images):
        start = len(tokens)
        cols, rows, thumbnail = GRIDS[number % len(GRIDS)]
        context = (cols * rows + thumbnail) * GEOMETRY.tokens_per_tile
        tokens += [7, GEOMETRY.image_start_id]
        table.append((blake3(image_bytes(number)).digest(), len(tokens), cols, rows, thumbnail, 0))
        tokens += [GEOMETRY.image_context_id] * context + [GEOMETRY.image_end_id, 8]
        answer = rng.integers(0, 69_000, int(rng.integers(3, 9))).tolist()
        spans.append((len(tokens), len(tokens) + len(answer)))
        tokens += answer
        weight = 1 / np.sqrt(len(answer))
        segments.append((bytes([seed, k]) * 8, source_key("captions"), start, k, 0, weight))
    start = len(tokens)
    tokens += rng.integers(0, 69_000, 12).tolist()
    spans.append((start + 1, len(tokens)))
    segments.append((bytes([seed, 255]) * 8, source_key("prose"), start, 0, seed, 1.0))
    return Pack(
        tokens=np.array(tokens, np.int32),
        segments=np.array(segments, SEGMENT_DTYPE),
        spans=np.array(spans, SPAN_DTYPE),
        images=np.array(table, IMAGE_DTYPE),
    )


STAGES: dict[str, list[list[Pack]]] = {
    # two shards of two steps between them; images 0 and 1 are used again in the second stage
    "align": [[make_pack(1, (0, 1)), make_pack(2, ())], [make_pack(3, (2,)), make_pack(4, (3, 0))]],
    "sft": [[make_pack(5, (4, 1)), EMPTY_PACK]],
}
MEDIA = ((0, 1, 2), (3, 4))  # image numbers by shard, in order of first use


def write_stage(build: Path, name: str, shards: list[list[Pack]], batch: int = 2) -> StageEntry:
    packs = [pack for shard in shards for pack in shard]
    written = [
        write_token_shard(build, f"tokens/{name}/{n:05d}.tokens.zst", columns(shard)) for n, shard in enumerate(shards)
    ]
    records = np.array([step_record(packs[i : i + batch]) for i in range(0, len(packs), batch)], STEP_DTYPE)
    counts = {source_key(source): Counts() for source in SOURCES}
    for pack in packs:
        add_counts(counts, pack)
    fields = ("samples", "tokens", "supervised_tokens", "images", "tiles")
    return StageEntry(
        name=name,
        batch=batch,
        sequence_length=128,
        max_tiles=12,
        steps=len(records),
        packs=len(packs),
        unit="tokens",
        sources={
            source: SourceShare(
                wished=0.5,
                met=0.5,
                epochs=1.0,
                **{field: getattr(counts[source_key(source)], field) for field in fields},
            )
            for source in SOURCES
        },
        train=TRAIN,
        digest=stage_digest(digests for _, digests in written),
        steps_file=f"tokens/{name}/steps",
        steps_digest=write_steps(build / f"tokens/{name}/steps", records),
        shards=[entry for entry, _ in written],
        **{field: sum(getattr(c, field) for c in counts.values()) for field in fields},
    )


def write_media(build: Path) -> MediaEntry:
    entries, rows = [], []
    for shard, numbers in enumerate(MEDIA):
        images = [image_bytes(number) for number in numbers]
        entry, offsets = write_media_shard(
            build, f"media/{shard:05d}.tar", [(blake3(data).digest(), "png", data) for data in images]
        )
        entries.append(entry)
        rows += [
            (blake3(data).digest(), shard, 28, 56, 0, offset, len(data))
            for data, offset in zip(images, offsets, strict=True)
        ]
    records = np.array(rows, MEDIA_DTYPE)
    return MediaEntry(
        images=len(records),
        bytes=int(records["size"].sum()),
        index="media/index",
        index_file=write_media_index(build / "media/index", records),
        shards=entries,
    )


def write_build(build: Path) -> Manifest:
    """Write the tiny build into the folder `build`, which is made."""
    build.mkdir(parents=True)
    lock = build / "mixture.lock"
    lock.write_text("root: tiny\n")
    manifest = with_root(
        Manifest(
            format=FORMAT_VERSION,
            mixture="tiny",
            seed=20250110,
            root="",
            geometry=GEOMETRY,
            tokenizer="1" * 64,
            template="2" * 64,
            stages=[write_stage(build, name, shards) for name, shards in STAGES.items()],
            media=write_media(build),
            files={lock.name: FileEntry(bytes=lock.stat().st_size, file=digest_file(lock))},
        )
    )
    write_manifest(build, manifest)
    return manifest


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole build. Not to be written to."""
    build = tmp_path_factory.mktemp("tiny") / "build"
    write_build(build)
    return build


@pytest.fixture
def build_copy(tiny_build: Path, tmp_path: Path) -> Path:
    """A build of one's own, to damage."""
    return Path(shutil.copytree(tiny_build, tmp_path / "build"))


@pytest.fixture(scope="session")
def tiny_writer() -> Callable[[Path], Manifest]:
    return write_build


@pytest.fixture(scope="session")
def tiny_packs() -> dict[str, list[Pack]]:
    """The packs of each stage of the tiny build."""
    return {name: [pack for shard in shards for pack in shard] for name, shards in STAGES.items()}


@pytest.fixture(scope="session")
def tiny_images() -> list[bytes]:
    """The images of the tiny build."""
    return [image_bytes(number) for numbers in MEDIA for number in numbers]


Flipped = Callable[[Path, int, int], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def flipped() -> Flipped:
    """`with flipped(path, at, mask)`: byte `at` of a file is exclusive-ored with `mask`, in place, and put
    back after.
    """

    @contextmanager
    def flip(path: Path, at: int, mask: int) -> Iterator[None]:
        with path.open("r+b", buffering=0) as file:
            file.seek(at)
            (good,) = file.read(1)
            file.seek(at)
            file.write(bytes([good ^ mask]))
            yield
            file.seek(at)
            file.write(bytes([good]))

    return flip
