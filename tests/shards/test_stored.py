"""The stored form of packs, and vocabularies: what is written is read, and nothing else is."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.pack import EMPTY_PACK, SEGMENT_DTYPE, Pack, encode_pack
from shards.stored import HEADER, decode_stored, encode_stored
from shards.vocabulary import EXCEPTION, decode_vocabulary, encode_vocabulary, rank_table, token_table, vocabulary

tokens = st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**24 - 1)), max_size=60)


@given(tokens)
def test_the_most_frequent_come_first_and_of_equals_the_lower(ids: list[int]) -> None:
    found = vocabulary(np.array(ids, np.int32))
    assert found.tolist() == sorted(set(ids), key=lambda token: (-ids.count(token), token))
    assert decode_vocabulary(encode_vocabulary(found)).tolist() == found.tolist()


def test_a_vocabulary_has_room_for_65535() -> None:
    ids = np.arange(70_000, dtype=np.int32)
    found = vocabulary(np.concatenate([ids, ids[::7]]))
    assert found.tolist() == [*range(0, 70_000, 7), *(i for i in range(70_000) if i % 7)][:EXCEPTION]
    assert decode_vocabulary(encode_vocabulary(found)).tolist() == found.tolist()


def test_what_is_no_vocabulary() -> None:
    good = encode_vocabulary(np.array([7, 5, 2**24 - 1], np.int32))
    for bad, why in (
        (good[:7], "fewer than a header"),
        (b"MXP1" + good[4:], "begins with"),
        (good[:-1], "bytes for 3 entries"),
        (good + b"\0", "bytes for 3 entries"),
        (good[:8] + bytes(9), "twice"),
        (b"MXV1" + struct.pack("<I", EXCEPTION + 1) + bytes(3 * (EXCEPTION + 1)), "entries"),
    ):
        with pytest.raises(ShardError, match=why):
            decode_vocabulary(bad)


def stored(ids: list[int], words: list[int]) -> tuple[bytes, np.ndarray, Pack]:
    """The stored form of a pack of one segment under a vocabulary, and the table to read it by."""
    array = np.array(ids, np.int32)
    segments = np.zeros(1 if ids else 0, SEGMENT_DTYPE)
    pack = Pack(tokens=array, segments=segments, spans=EMPTY_PACK.spans, images=EMPTY_PACK.images)
    ranks = rank_table(np.array(words, np.int32), 2**24)[array]
    data = encode_stored(pack, bytes(range(32)), ranks.tobytes(), array[ranks == EXCEPTION].astype("<u4").tobytes())
    return data, token_table(np.array(words, np.int32)), pack


@given(tokens, st.lists(st.integers(0, 25), unique=True, max_size=8))
def test_any_vocabulary_gives_the_pack_back(ids: list[int], words: list[int]) -> None:
    data, table, pack = stored(ids, words)
    found, digest = decode_stored(data, table)
    assert encode_pack(found) == encode_pack(pack)
    assert digest == bytes(range(32))


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_gives_another_pack(at: int, value: int) -> None:
    """Never an error of another kind. What it is cannot be told by the form: checksums are the frame's."""
    data, table, pack = stored([3, 9, 2**20, 3, 5], [3, 5])
    at %= len(data)
    bad = bytearray(data)
    bad[at] = value
    try:
        found, digest = decode_stored(bytes(bad), table)
    except ShardError:
        return
    if bytes(bad) == data:
        assert encode_pack(found) == encode_pack(pack)
    else:
        assert encode_pack(found) != encode_pack(pack) or digest != bytes(range(32))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d[:63], "fewer than a header and a digest"),
        (lambda d: b"MXP1" + d[4:], "begins with"),
        (lambda d: d[:4] + b"\2" + d[5:], "stored in version 2"),
        (lambda d: d[:28] + b"\1" + d[29:], "reserved"),
        (lambda d: d[:-1], "its header promises"),
        (lambda d: d + b"\0", "its header promises"),
        (lambda d: d[: -4 - 10] + b"\7\0" + d[-4 - 8 :], "1 exceptions, and 2 ranks"),  # a rank beyond the vocabulary
        (lambda d: d[: -4 - 6] + b"\0\0" + d[-4 - 4 :], "1 exceptions, and 0 ranks"),
        (lambda d: d[:-1] + b"\1", "token id is not in"),
    ],
)
def test_what_is_no_stored_pack(change, why: str) -> None:
    data, table, _ = stored([3, 9, 2**20, 3, 5], [3, 5, 9])
    assert decode_stored(data, table)
    with pytest.raises(ShardError, match=why):
        decode_stored(change(data), table)


def test_a_rank_that_the_vocabulary_lacks_is_no_exception() -> None:
    data, table, _ = stored([3, 9], [3])
    assert HEADER.unpack_from(data)[6] == 1
    with pytest.raises(ShardError, match="1 exceptions, and 1 ranks"):
        decode_stored(data[: -4 - 2] + b"\1\0" + data[-4:], table)


def test_rules_of_a_pack_hold() -> None:
    data, table, _ = stored([3, 9], [3, 9])
    at = HEADER.size + 32 + 24  # the first segment's start
    with pytest.raises(ShardError, match="the first segment starts at token 1"):
        decode_stored(data[:at] + b"\1" + data[at + 1 :], table)
