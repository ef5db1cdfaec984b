"""Expansion and assembly: image runs, moved spans, cut pieces, packs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixc.emit.expand import Expanded, Segment, assemble, cut, expand
from mixc.measure.facts import RECORD_IMAGE
from shards.pack import IMAGE_DTYPE, decode_pack, encode_pack

CONTEXT = 151671
PER_TILE = 4


@st.composite
def records(draw: st.DrawFn):
    n = draw(st.integers(2, 40))
    tokens = np.array(draw(st.lists(st.integers(0, 151642), min_size=n, max_size=n)), dtype=np.uint32)
    positions = sorted(draw(st.sets(st.integers(0, n - 1), max_size=4)))
    images = np.zeros(len(positions), dtype=RECORD_IMAGE)
    for i, position in enumerate(positions):
        tokens[position] = CONTEXT
        images[i] = (
            bytes([i + 1] * 32),
            position,
            draw(st.integers(1, 3)),
            draw(st.integers(1, 3)),
            draw(st.integers(0, 1)),
            0,
        )
    supervised = [i not in positions and draw(st.booleans()) for i in range(n)]
    supervised[0] = False
    edges = np.flatnonzero(np.diff(np.array([False, *supervised, False]).astype(int)))
    spans = edges.reshape(-1, 2).astype(np.uint32)
    return tokens, spans, images


@given(records())
def test_expand_keeps_every_text_token_and_its_supervision(record) -> None:
    tokens, spans, images = record
    got = expand(tokens, spans, images, tokens_per_tile=PER_TILE)

    expected, supervised = [], []
    by_position = {int(image["position"]): image for image in images}
    starts = []
    for i, token in enumerate(tokens.tolist()):
        image = by_position.get(i)
        if image is not None:
            starts.append(len(expected))
            expected += [CONTEXT] * (PER_TILE * (int(image["cols"]) * int(image["rows"]) + int(image["thumbnail"])))
            continue
        if any(a <= i < b for a, b in spans.tolist()):
            supervised.append(len(expected))
        expected.append(token)
    assert got.tokens.tolist() == expected
    assert [i for a, b in got.spans.tolist() for i in range(a, b)] == supervised
    assert got.images["start"].tolist() == starts
    assert [image["digest"].tobytes() for image in got.images] == [image["digest"].tobytes() for image in images]


@given(st.integers(2, 200), st.integers(1, 50))
def test_pieces_cover_a_text_and_supervise_all_but_their_first_token(n: int, size: int) -> None:
    text = Expanded(np.arange(n, dtype=np.uint32), np.array([[1, n]], dtype=np.uint32), np.zeros(0, IMAGE_DTYPE))
    pieces = [cut(text, start, min(start + size, n)) for start in range(0, n, size)]
    assert np.concatenate([piece.tokens for piece in pieces]).tolist() == list(range(n))
    for piece in pieces:
        assert sum(b - a for a, b in piece.spans.tolist()) == len(piece.tokens) - 1
        assert all(a >= 1 for a, _ in piece.spans.tolist())


@given(st.lists(records(), max_size=5))
def test_a_pack_holds_its_samples_end_to_end(samples) -> None:
    contents = [expand(*sample, tokens_per_tile=PER_TILE) for sample in samples]
    segments = [
        Segment(id=bytes([i] * 16), source=i, epoch=1, piece=0, weight=0.5, content=content)
        for i, content in enumerate(contents)
    ]
    pack = decode_pack(encode_pack(assemble(segments)))
    at = 0
    spans, images = [], []
    for segment, content in zip(pack.segments, contents, strict=True):
        assert segment["start"] == at
        assert pack.tokens[at : at + len(content.tokens)].tolist() == content.tokens.tolist()
        spans += [(a + at, b + at) for a, b in content.spans.tolist()]
        images += [int(start) + at for start in content.images["start"]]
        at += len(content.tokens)
    assert len(pack.tokens) == at
    assert pack.spans.tolist() == spans
    assert pack.images["start"].tolist() == images


def test_no_sample_makes_the_empty_pack() -> None:
    pack = assemble([])
    assert len(pack.tokens) == len(pack.segments) == 0
    assert decode_pack(encode_pack(pack)).tokens.shape == (0,)


def test_a_sample_that_is_not_cut_is_itself() -> None:
    text = Expanded(np.arange(5, dtype=np.uint32), np.array([[3, 5]], dtype=np.uint32), np.zeros(0, IMAGE_DTYPE))
    assert cut(text, 0, 5) is text
