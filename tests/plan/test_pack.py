from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.plan.pack import lower_bound, pack

ITEMS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), min_size=1, max_size=120)
LIMITS = {"max_tokens": 60, "max_tiles": 9}


def arrays(items: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens, tiles = np.array(items, np.int64).reshape(-1, 2).T
    return tokens, tiles


@given(ITEMS)
def test_limits_hold_and_every_item_is_placed_once(items: list[tuple[int, int]]) -> None:
    tokens, tiles = arrays(items)
    packs = pack(tokens, tiles, **LIMITS)
    assert packs.shape == (len(items),)
    assert set(packs.tolist()) == set(range(packs.max() + 1))
    assert np.bincount(packs, tokens).max() <= 60
    assert np.bincount(packs, tiles).max() <= 9
    assert lower_bound(tokens, tiles, **LIMITS) <= packs.max() + 1


@given(ITEMS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(items: list[tuple[int, int]], random: object) -> None:
    tokens, tiles = arrays(items)
    names = np.arange(len(items))
    shuffled = names.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = pack(tokens, tiles, **LIMITS, ties=[names])
    second = pack(tokens[shuffled], tiles[shuffled], **LIMITS, ties=[names[shuffled]])
    assert (first[shuffled] == second).all()


@given(ITEMS)
def test_no_two_packs_could_be_one(items: list[tuple[int, int]]) -> None:
    """Any fit rule guarantees it: the item that opened the later of the two would have gone into the earlier,
    or one before it. Here for what is left at the end, which is weaker but needs no trace."""
    tokens, tiles = arrays(items)
    packs = pack(tokens, tiles, **LIMITS)
    used, held = np.bincount(packs, tokens), np.bincount(packs, tiles)
    for i, j in product(range(len(used)), repeat=2):
        if i < j:
            assert used[i] + used[j] > 60 or held[i] + held[j] > 9


def reference(tokens: np.ndarray, limit: int) -> np.ndarray:
    """Best-fit decreasing in one dimension, one item after another, as a textbook has it."""
    packs, room = np.empty(len(tokens), np.int64), []
    for i in np.lexsort([np.arange(len(tokens)), -tokens]):
        fits = [(left, -number) for number, left in enumerate(room) if left >= tokens[i]]
        if fits:
            number = -min(fits)[1]
        else:
            number = len(room)
            room.append(limit)
        packs[i] = number
        room[number] -= tokens[i]
    return packs


@given(st.lists(st.integers(1, 60), min_size=1, max_size=150))
def test_equals_a_textbook_in_one_dimension(lengths: list[int]) -> None:
    tokens = np.array(lengths)
    ours = pack(tokens, np.zeros_like(tokens), **LIMITS)
    theirs = reference(tokens, 60)
    assert sorted(np.bincount(ours, tokens)) == sorted(np.bincount(theirs, tokens))


def realistic(rows: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    text = np.clip(random.lognormal(5, 1, rows).astype(np.int64), 8, 2500)
    tiles = random.choice([0, 1, 3, 5, 7, 10, 13], rows)
    return text + 256 * tiles + 2 * (tiles > 0), tiles


@pytest.mark.parametrize(
    ("max_tokens", "max_tiles", "least"),
    [
        (8192, 32, 0.999),  # tokens bind
        (8192, 26, 0.97),  # both do, and the bound is not tight
        (8192, 18, 0.98),  # tiles do
        (32768, 128, 0.999),
    ],
)
def test_fill_is_close_to_the_bound(max_tokens: int, max_tiles: int, least: float) -> None:
    tokens, tiles = realistic(30_000)
    packs = pack(tokens, tiles, max_tokens=max_tokens, max_tiles=max_tiles)
    bound = lower_bound(tokens, tiles, max_tokens=max_tokens, max_tiles=max_tiles)
    assert bound / (packs.max() + 1) >= least


def test_nothing_to_pack() -> None:
    assert pack([], [], **LIMITS).tolist() == []
    assert lower_bound([], [], **LIMITS) == 0


@pytest.mark.parametrize(("tokens", "tiles"), [(61, 0), (10, 10), (0, 0), (5, -1)])
def test_what_fits_no_pack_is_refused(tokens: int, tiles: int) -> None:
    with pytest.raises(ValueError):
        pack([10, tokens], [1, tiles], **LIMITS)


def test_no_tiles_allowed_is_a_limit_like_another() -> None:
    assert pack([30, 30, 30], [0, 0, 0], max_tokens=60, max_tiles=0).max() == 1
