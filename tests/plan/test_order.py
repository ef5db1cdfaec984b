"""Pieces, windows and the order of packs: the parts of mixc/plan/order.py that need no database."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixc.hashing import mix64
from mixc.plan.keys import key64, make_key
from mixc.plan.order import PIECE_STEP, SEGMENT, cut, shuffle_packs, windows

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


def samples(lengths: list[int], sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
    found = np.zeros(len(lengths), SEGMENT)
    found["hi"], found["lo"] = np.arange(len(lengths)), np.arange(len(lengths)) * 7 + 3
    found["tokens"] = lengths
    found["supervised"] = found["tokens"] - 1
    return found, -(-found["tokens"].astype(np.int64) // sequence_length)


@given(LENGTHS, st.integers(1, 40))
def test_pieces_cover_their_sample_once_and_in_order(lengths: list[int], sequence_length: int) -> None:
    segments = cut(*samples(lengths, sequence_length), sequence_length=sequence_length)
    assert (segments["tokens"] <= sequence_length).all()
    assert (segments["tokens"] == segments["piece_end"] - segments["piece_start"]).all()
    assert (segments["supervised"] == segments["tokens"] - 1).all()
    for number, length in enumerate(lengths):
        own = segments[segments["hi"] == number]
        assert own["piece"].tolist() == list(range(len(own)))
        covered = [t for s in own for t in range(s["piece_start"], s["piece_end"])]
        assert covered == list(range(length))
        assert (own["tokens"][:-1] == sequence_length).all()


@given(LENGTHS, st.integers(1, 50), st.lists(st.integers(0, 60)))
def test_windows_do_not_depend_on_batches(lengths: list[int], size: int, cuts: list[int]) -> None:
    found, pieces = samples(lengths, 16)
    whole = cut(found, pieces, sequence_length=16)
    bounds = [0, *sorted(min(c, len(found)) for c in cuts), len(found)]
    batches = [(found[a:b], pieces[a:b]) for a, b in pairwise(bounds)]
    got = list(windows(batches, size=size, sequence_length=16))
    assert (np.concatenate(got) == whole).all()
    assert all(len(window) == size for window in got[:-1])
    assert 1 <= len(got[-1]) <= size


@given(LENGTHS, st.data())
def test_packs_are_shuffled_by_the_key_of_their_first_segment(lengths: list[int], data: st.DataObject) -> None:
    segments = cut(*samples(lengths, 16), sequence_length=16)
    segments["epoch"] = np.arange(len(segments)) % 3
    raw = data.draw(st.lists(st.integers(0, 9), min_size=len(segments), max_size=len(segments)))
    packs = np.unique(raw, return_inverse=True)[1]
    order, counts, keys = shuffle_packs(segments, packs, seed=3, stage="s")
    assert sorted(order.tolist()) == list(range(len(segments)))
    assert (np.diff(keys.astype(object)) >= 0).all()
    start = 0
    for count, key in zip(counts.tolist(), keys, strict=True):
        inside = order[start : start + count]
        assert len(set(packs[inside].tolist())) == 1
        assert count == (packs == packs[inside[0]]).sum()
        assert (np.diff(inside) > 0).all()  # the window's order
        head = segments[inside[:1]]
        base = key64(make_key(3, "pack", "s", int(head["epoch"][0])), head["hi"], head["lo"])
        assert mix64(base + head["piece"].astype(np.uint64) * PIECE_STEP)[0] == key
        start += count
    assert start == len(segments)


def test_no_samples_give_no_windows() -> None:
    assert list(windows([], size=5, sequence_length=16)) == []
    empty = np.zeros(0, SEGMENT), np.zeros(0, np.int64)
    assert list(windows([empty], size=5, sequence_length=16)) == []
