"""Packs: their bytes are canonical, and nothing but a pack decodes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.pack import (
    EMPTY_PACK,
    IMAGE_DTYPE,
    SEGMENT_DTYPE,
    SPAN_DTYPE,
    Pack,
    decode_pack,
    encode_pack,
    pack_digest,
    supervised_by_segment,
    tiles_by_image,
)

U32 = st.integers(0, 2**32 - 1)


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """Any pack that the format allows."""
    lengths = draw(st.lists(st.integers(1, 12), max_size=6))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    total = sum(lengths)
    tokens = draw(st.lists(st.integers(0, 2**24 - 1), min_size=total, max_size=total))
    segments, spans = [], []
    for start, length in zip(starts, lengths, strict=True):
        weight = draw(st.floats(0, 2**20, width=32).filter(lambda w: not np.signbit(w)))
        segments.append(
            (
                draw(st.binary(min_size=16, max_size=16)),
                draw(st.integers(0, 2**64 - 1)),
                start,
                draw(U32),
                draw(U32),
                weight,
            )
        )
        cuts = sorted(draw(st.sets(st.integers(1, length))))
        spans += [(start + a, start + b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    images = [
        (draw(st.binary(min_size=32, max_size=32)), at, cols, rows, thumbnail, 0)
        for at in sorted(draw(st.sets(st.integers(0, max(0, total - 1)), max_size=min(3, total))))
        for cols, rows, thumbnail in [draw(st.tuples(*[st.integers(1, 255)] * 2, st.integers(0, 1)))]
    ]
    return Pack(
        tokens=np.array(tokens, np.int32),
        segments=np.array(segments, SEGMENT_DTYPE),
        spans=np.array(spans, SPAN_DTYPE),
        images=np.array(images, IMAGE_DTYPE),
    )


def same(a: Pack, b: Pack) -> bool:
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype and getattr(a, name).tobytes() == getattr(b, name).tobytes()
        for name in ("tokens", "segments", "spans", "images")
    )


@given(packs())
def test_round_trip(pack: Pack) -> None:
    data = encode_pack(pack)
    back = decode_pack(data)
    assert same(back, pack)
    assert encode_pack(back) == data
    assert same(decode_pack(memoryview(bytearray(data))), pack)
    for array in (back.tokens, back.segments, back.spans, back.images):
        assert not array.flags.writeable


@given(packs(), st.data())
def test_damaged_bytes_decode_to_nothing_or_to_another_valid_pack(pack: Pack, data: st.DataObject) -> None:
    """A decoder that let another form of a pack through would give two digests for one content."""
    good = encode_pack(pack)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        back = decode_pack(bytes(bad))
    except ShardError:
        return
    assert encode_pack(back) == bytes(bad)


@given(packs())
def test_every_truncation_and_any_extra_byte_is_refused(pack: Pack) -> None:
    data = encode_pack(pack)
    for size in range(len(data)):
        with pytest.raises(ShardError):
            decode_pack(data[:size])
    with pytest.raises(ShardError, match="header promises"):
        decode_pack(data + b"\0")


@given(packs())
def test_supervised_tokens_are_counted_by_segment(pack: Pack) -> None:
    mask = np.zeros(len(pack.tokens), bool)
    for start, end in pack.spans.tolist():
        mask[start:end] = True
    bounds = [*pack.segments["start"].tolist(), len(pack.tokens)]
    expected = [int(mask[a:b].sum()) for a, b in pairwise(bounds)]
    assert supervised_by_segment(pack).tolist() == (expected if len(pack.segments) else [])


def example() -> dict[str, Any]:
    """The arrays of a valid pack, to be broken one rule at a time."""
    return {
        "tokens": np.array([9, 151643, 70000, 1, 2, 3, 4, 5], np.int32),
        "segments": np.array([(b"a" * 16, 1, 0, 0, 0, 1.0), (b"b" * 16, 2, 5, 1, 0, 0.5)], SEGMENT_DTYPE),
        "spans": np.array([(1, 3), (3, 5), (6, 8)], SPAN_DTYPE),
        "images": np.array([(b"i" * 32, 2, 1, 2, 1, 0), (b"j" * 32, 6, 1, 1, 0, 0)], IMAGE_DTYPE),
    }


def test_golden_digest() -> None:
    """The format is frozen: a change of a pack's bytes needs another version."""
    data = encode_pack(Pack(**example()))
    assert pack_digest(data).hex() == "283fae809f046820c63cfa726e9fa327c29e3754849aa605afe1a26a49da391a"
    assert encode_pack(EMPTY_PACK) == b"MXP1" + (1).to_bytes(4, "little") + bytes(24)
    assert (
        pack_digest(encode_pack(EMPTY_PACK)).hex() == "57a3596acf2722d5e4df09826949800e4ee1203d6d2dc9b80933eb9c9e880063"
    )
    assert same(decode_pack(encode_pack(EMPTY_PACK)), EMPTY_PACK)


def test_counts() -> None:
    pack = Pack(**example())
    assert supervised_by_segment(pack).tolist() == [4, 2]
    assert tiles_by_image(pack).tolist() == [3, 1]


BROKEN = [
    ("segments", 0, "start", 1, "first segment starts"),
    ("segments", 1, "start", 0, "segments do not start in order"),
    ("segments", 1, "start", 8, "segments do not start in order"),
    ("segments", 1, "weight", -1.0, "weight"),
    ("segments", 1, "weight", -0.0, "weight"),
    ("segments", 1, "weight", np.inf, "weight"),
    ("segments", 1, "weight", np.nan, "weight"),
    ("spans", 0, "end", 1, "spans are not in order"),
    ("spans", 0, "end", 4, "spans are not in order"),
    ("spans", 2, "end", 9, "spans are not in order"),
    ("spans", 0, "start", 0, "first token of a segment"),
    ("spans", 1, "end", 6, "first token of a segment"),
    ("spans", 2, "start", 5, "first token of a segment"),
    ("images", 1, "start", 8, "images do not start in order"),
    ("images", 1, "start", 2, "images do not start in order"),
    ("images", 0, "cols", 0, "grid without tiles"),
    ("images", 0, "rows", 0, "grid without tiles"),
    ("images", 0, "thumbnail", 2, "thumbnail"),
    ("images", 0, "reserved", 1, "reserved"),
]


@pytest.mark.parametrize(("table", "row", "field", "value", "message"), BROKEN)
def test_each_rule_is_checked_when_written_and_when_read(
    table: str, row: int, field: str, value: float, message: str
) -> None:
    arrays = example()
    good = encode_pack(Pack(**arrays))
    arrays[table][row][field] = value
    with pytest.raises(ShardError, match=message):
        encode_pack(Pack(**arrays))
    # The same fault, put into bytes that were written without it.
    sizes = {"segments": SEGMENT_DTYPE, "spans": SPAN_DTYPE, "images": IMAGE_DTYPE}
    at = 32
    for name, dtype in sizes.items():
        raw = arrays[name].tobytes()
        if name == table:
            bad = good[:at] + raw + good[at + len(raw) :]
        at += len(raw)
        assert dtype.itemsize * len(arrays[name]) == len(raw)
    with pytest.raises(ShardError, match=message):
        decode_pack(bad)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"MXP2", "begins with"),
        (4, b"\2", "version 2"),
        (24, b"\1", "reserved header"),
        (31, b"\1", "reserved header"),
        (8, b"\xff\xff\xff\xff", "header promises"),
        (12, b"\xff\xff\xff\xff", "header promises"),
    ],
)
def test_header_is_checked(at: int, value: bytes, message: str) -> None:
    good = encode_pack(Pack(**example()))
    with pytest.raises(ShardError, match=message):
        decode_pack(good[:at] + value + good[at + len(value) :])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokens", np.array([1 << 24] * 8, np.int32), "token id"),
        ("tokens", np.array([-1] * 8, np.int32), "token id"),
        ("tokens", np.zeros(8, np.float32), "tokens is float32"),
        ("tokens", np.zeros((2, 4), np.int32), "2 dimensions"),
        ("tokens", np.zeros(0, np.int32), "0 tokens in 2 segments"),
        ("segments", np.zeros(0, SEGMENT_DTYPE), "8 tokens in 0 segments"),
        ("spans", np.zeros(3, IMAGE_DTYPE), "spans is"),
    ],
)
def test_wrong_arrays_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        encode_pack(Pack(**(example() | {name: value})))
