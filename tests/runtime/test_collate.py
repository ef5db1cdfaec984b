"""The micro-batch against a plain token-by-token statement of what it should hold, and packs that lie."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import mark, raises

from runtime.batch import Batch, Totals
from runtime.collate import SourceTable, collate
from runtime.images import tile
from shards.errors import ShardError
from shards.manifest import Geometry
from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE, Pack, fault

torch.set_num_threads(1)

GEOMETRY = Geometry(
    name="toy",
    tile_size=28,
    tokens_per_tile=4,
    max_tiles=6,
    min_tiles=1,
    thumbnail=True,
    vocab_size=64,
    image_start_id=60,
    image_end_id=61,
    image_context_id=62,
    pad_id=63,
)
SOURCES = {0x1111222233334444: 0, 5: 1, 2**64 - 1: 2}
TABLE = SourceTable(SOURCES)


def png(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {bytes([seed]) * 32: png(seed) for seed in range(3)}


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample as a test states it: text, images as (seed, cols, rows, thumbnail), text, supervised tail."""

    before: tuple[int, ...]
    images: tuple[tuple[int, int, int, bool], ...]
    answer: tuple[int, ...]
    source: int
    weight: float

    def tokens(self) -> list[int]:
        tokens = list(self.before)
        for _, cols, rows, thumbnail in self.images:
            tokens += [60] + [62] * (4 * (cols * rows + thumbnail)) + [61]
        return tokens + list(self.answer)


def make(samples: list[Sample]) -> Pack:
    tokens: list[int] = []
    segments, spans, images = [], [], []
    for sample in samples:
        segments.append((b"", sample.source, len(tokens), 0, 0, sample.weight))
        position = len(tokens) + len(sample.before)
        for seed, cols, rows, thumbnail in sample.images:
            images.append((bytes([seed]) * 32, position + 1, cols, rows, thumbnail, 0))
            position += 2 + 4 * (cols * rows + thumbnail)
        tokens += sample.tokens()
        if sample.answer:
            spans.append((position, position + len(sample.answer)))
    return Pack(
        tokens=np.array(tokens, np.int32),
        segments=np.array(segments, SEGMENT_DTYPE),
        spans=np.array(spans, SPAN_DTYPE),
        images=np.array(images, IMAGE_DTYPE),
    )


word = st.integers(0, 59)
samples = st.builds(
    Sample,
    before=st.lists(word, min_size=1, max_size=4).map(tuple),
    images=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 2), st.booleans()), max_size=2).map(
        tuple
    ),
    answer=st.lists(word, max_size=4).map(tuple),
    source=st.sampled_from(sorted(SOURCES)),
    weight=st.sampled_from([1.0, 0.5, 0.125]),
)


@settings(max_examples=60, deadline=None)
@given(packs=st.lists(st.lists(samples, max_size=3), max_size=3))
def test_a_batch_holds_every_sample_and_nothing_else(packs: list[list[Sample]]) -> None:
    row, totals = collate([make(pack) for pack in packs], IMAGES.__getitem__, GEOMETRY, TABLE)
    batch = row.expand()
    flat = [sample for pack in packs for sample in pack]
    if not flat:
        assert batch.tokens_T.tolist() == [63] and batch.cu_seqlens.tolist() == [0, 1]
        assert len(batch.labels_N) == len(batch.tiles_M) == len(batch.image_positions) == 0
        assert totals == Totals(weights=(0.0, 0.0, 0.0), tokens=0, tiles=0, pairs=0)
        return
    tokens, positions, bounds = [], [], [0]
    predict, labels, weights, sources, image_positions = [], [], [], [], []
    tiles = []
    for sample in flat:
        own = sample.tokens()
        start = len(tokens)
        image_positions += [start + i for i, token in enumerate(own) if token == 62]
        for i in range(len(own) - len(sample.answer), len(own)):
            predict.append(start + i - 1)
            labels.append(own[i])
            weights.append(sample.weight)
            sources.append(SOURCES[sample.source])
        for seed, cols, rows, thumbnail in sample.images:
            tiles.append(tile(IMAGES[bytes([seed]) * 32], cols=cols, rows=rows, thumbnail=thumbnail, side=28))
        tokens += own
        positions += range(len(own))
        bounds.append(len(tokens))
    assert batch.tokens_T.tolist() == tokens
    assert batch.positions_T.tolist() == positions
    assert batch.cu_seqlens.tolist() == bounds
    assert batch.max_seqlen == max(np.diff(bounds)) and type(batch.max_seqlen) is int
    assert batch.predict_N.tolist() == predict
    assert batch.labels_N.tolist() == labels
    assert batch.weights_N.tolist() == weights
    assert batch.sources_N.tolist() == sources
    assert batch.image_positions.tolist() == image_positions
    assert np.array_equal(batch.tiles_M.numpy(), np.concatenate(tiles) if tiles else np.empty((0, 3, 28, 28), np.uint8))
    check_types(batch)
    assert totals.weights == tuple(sum(w for w, s in zip(weights, sources, strict=True) if s == k) for k in range(3))
    assert (totals.tokens, totals.tiles) == (len(tokens), len(batch.tiles_M))
    assert totals.pairs == sum(len(sample.tokens()) ** 2 for sample in flat) and type(totals.pairs) is int


def check_types(batch: Batch) -> None:
    long = ("tokens_T", "positions_T", "predict_N", "labels_N", "sources_N", "image_positions")
    assert all(getattr(batch, name).dtype == torch.int64 for name in long)
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.weights_N.dtype == torch.float32
    assert batch.tiles_M.dtype == torch.uint8


def test_a_batch_of_nothing_is_legal() -> None:
    batch = collate([make([]), make([])], IMAGES.__getitem__, GEOMETRY, TABLE)[0].expand()
    check_types(batch)
    assert batch.tokens_T.tolist() == [GEOMETRY.pad_id]
    assert batch.cu_seqlens.tolist() == [0, 1] and batch.max_seqlen == 1
    assert batch.tiles_M.shape == (0, 3, 28, 28)


GOOD = [
    Sample(before=(1, 2), images=((0, 2, 1, True),), answer=(3, 4), source=5, weight=1.0),
    Sample(before=(6,), images=(), answer=(7, 8), source=5, weight=0.5),
]


def spoilt(**changes: object) -> Pack:
    """GOOD with elements set: array__index__field or tokens__index."""
    pack = make(GOOD)
    arrays = {name: getattr(pack, name).copy() for name in ("tokens", "segments", "spans", "images")}
    for path, value in changes.items():
        array, index, *field = path.split("__")
        if field:
            arrays[array][field[0]][int(index)] = value
        else:
            arrays[array][int(index)] = value
    return Pack(**arrays)


@mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens__0": 64}, "token ids must be in"),
        ({"tokens__0": -1}, "token ids must be in"),
        ({"segments__1__source": 77}, "source 0x0000"),
        ({"images__0__cols": 1}, "is 1 x 1 tiles and a thumbnail, 8 tokens from 3"),
        ({"images__0__thumbnail": 0}, "is 2 x 1 tiles, 8 tokens from 3"),
        ({"images__0__rows": 3}, "within the pack"),
        ({"images__0__start": 4}, "the tokens there are not that"),
        ({"tokens__2": 9}, "the tokens there are not that"),
        ({"tokens__5": 9}, "the tokens there are not that"),
        ({"tokens__15": 9}, "the tokens there are not that"),
        ({"tokens__19": 62}, "1 image tokens belong to no image"),
        ({"segments__1__start": 8}, "the tokens there are not that"),  # a boundary inside the image
    ],
)
def test_a_pack_that_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    pack = spoilt(**changes)
    with raises(ShardError, match=message) as error:
        collate([make([]), pack, make(GOOD)], IMAGES.__getitem__, GEOMETRY, TABLE)
    assert "pack 1 of the micro-batch, of 21 tokens" in str(error.value)


def test_the_unspoilt_pack_is_accepted() -> None:
    assert len(collate([spoilt()], IMAGES.__getitem__, GEOMETRY, TABLE)[0].expand().labels_N) == 4


def test_a_build_without_sources_has_no_samples() -> None:
    with raises(ShardError, match=r"source 0x0*5, not in the manifest"):
        collate([make(GOOD)], IMAGES.__getitem__, GEOMETRY, SourceTable({}))


changes = st.fixed_dictionaries(
    {},
    optional={
        "tokens__3": st.sampled_from([-1, 9, 62, 64]),
        "tokens__19": st.sampled_from([9, 60, 62]),
        "segments__1__start": st.integers(1, 20),
        "segments__1__source": st.sampled_from([5, 6]),
        "segments__0__weight": st.sampled_from([1.0, 0.0]),
        "spans__0__start": st.integers(1, 20),
        "spans__0__end": st.integers(2, 21),
        "spans__1__start": st.integers(2, 20),
        "spans__1__end": st.integers(3, 21),
        "images__0__start": st.integers(0, 20),
        "images__0__cols": st.integers(1, 3),
    },
).filter(lambda made: fault(spoilt(**made)) is None)


@settings(max_examples=300, deadline=None)
@given(made=st.lists(changes | st.just({}), min_size=2, max_size=3))
def test_a_pack_is_judged_by_itself_whatever_stands_beside_it(made: list[dict[str, object]]) -> None:
    packs = [spoilt(**each) for each in made]
    alone: list[Batch | None] = []
    for pack in packs:
        try:
            alone.append(collate([pack], IMAGES.__getitem__, GEOMETRY, TABLE)[0].expand())
        except ShardError:
            alone.append(None)
    good = [batch for batch in alone if batch]
    if len(good) < len(packs):
        with raises(ShardError) as error:
            collate(packs, IMAGES.__getitem__, GEOMETRY, TABLE)
        place = int(str(error.value).split()[1])
        assert alone[place] is None
    else:
        batch = collate(packs, IMAGES.__getitem__, GEOMETRY, TABLE)[0].expand()
        for name in ("tokens_T", "positions_T", "labels_N", "weights_N", "sources_N", "tiles_M"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(each, name) for each in good])), name


def test_an_image_that_does_not_decode_is_named() -> None:
    with raises(ShardError, match=f"image {'00' * 32} does not decode"):
        collate([make(GOOD)], lambda _: b"not an image", GEOMETRY, TABLE)
