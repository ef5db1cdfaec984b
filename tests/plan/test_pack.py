from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.plan import pack_kernel
from mixc.plan.pack import _largest_first, lower_bound, pack

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


def by_hand(items: list[tuple[int, int]], max_tokens: int, max_tiles: int) -> list[int]:
    """docs/planning.md section 5, word for word: looks at every pack for every item."""
    total_tokens, total_tiles = (sum(column) for column in zip(*items, strict=True))
    tiles_first = Fraction(total_tiles, max_tiles or 1) > Fraction(total_tokens, max_tokens)

    def sides(pair: tuple[int, int]) -> tuple[int, int]:
        return (pair[1], pair[0]) if tiles_first else pair

    def fill(order: list[int]) -> tuple[list[int], int]:
        packs, rooms, reached = [0] * len(items), [], []
        for clock, i in enumerate(order):
            tokens, tiles = items[i]
            fitting = [n for n, (free, spare) in enumerate(rooms) if free >= tokens and spare >= tiles]
            if fitting:
                number = min(fitting, key=lambda n: (*sides(rooms[n]), -reached[n]))
            else:
                number = len(rooms)
                rooms.append((max_tokens, max_tiles))
                reached.append(0)
            rooms[number] = (rooms[number][0] - tokens, rooms[number][1] - tiles)
            reached[number] = clock
            packs[i] = number
        return packs, len(rooms)

    def largest(i: int) -> tuple[Fraction, int, int, int]:
        primary, secondary = sides(items[i])
        ratio = max(Fraction(items[i][0], max_tokens), Fraction(items[i][1], max_tiles or 1))
        return -ratio, -primary, -secondary, i

    packs, number = fill(sorted(range(len(items)), key=largest))
    bound = max(
        ceil(Fraction(total_tokens, max_tokens)),
        ceil(Fraction(total_tiles, max_tiles or 1)),
        sum(2 * tokens > max_tokens for tokens, _ in items),
        sum(2 * tiles > max_tiles for _, tiles in items),
    )
    if number - bound > Fraction(bound, 200):
        again, fewer = fill(sorted(range(len(items)), key=lambda i: (-items[i][0], -items[i][1], i)))
        if fewer < number:
            return again
    return packs


LIMITED = st.tuples(st.integers(1, 60), st.integers(0, 9)).flatmap(
    lambda limits: st.tuples(
        st.just(limits),
        st.lists(st.tuples(st.integers(1, limits[0]), st.integers(0, limits[1])), min_size=1, max_size=60),
    )
)


@settings(max_examples=300)
@given(LIMITED)
def test_packs_are_those_of_the_page(given: tuple[tuple[int, int], list[tuple[int, int]]]) -> None:
    (max_tokens, max_tiles), items = given
    ours = pack(*arrays(items), max_tokens=max_tokens, max_tiles=max_tiles)
    assert ours.tolist() == by_hand(items, max_tokens, max_tiles)


@pytest.mark.parametrize("max_tiles", [32, 24, 16, 200])
def test_packs_of_real_sizes_are_those_of_the_page(max_tiles: int) -> None:
    tokens, tiles = realistic(400)
    expected = by_hand(list(zip(tokens.tolist(), tiles.tolist(), strict=True)), 8192, max_tiles)
    assert pack(tokens, tiles, max_tokens=8192, max_tiles=max_tiles).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(LIMITED, st.integers(0, 3))
def test_compiled_or_not_the_packs_are_equal(
    given: tuple[tuple[int, int], list[tuple[int, int]]], more_tiles: int
) -> None:
    """Also where the sets of rooms in tiles take several words."""
    (max_tokens, max_tiles), items = given
    limits = {"max_tokens": max_tokens, "max_tiles": max_tiles + 50 * more_tiles}
    tokens, tiles = arrays(items)
    tiles = tiles + 50 * more_tiles * (tiles > 0)
    plain = pack(tokens, tiles, **limits)
    kernels = (pack_kernel.tokens_first, pack_kernel.tiles_first)
    try:
        for kernel in kernels:
            kernel.plain = -1
        assert pack(tokens, tiles, **limits).tolist() == plain.tolist()
    finally:
        for kernel in kernels:
            kernel.plain = pack_kernel.PLAIN


@pytest.mark.parametrize(("max_tokens", "max_tiles"), [(8192, 18), (8192, 32), (1 << 20, 4096), (1 << 20, 1 << 62)])
def test_compiled_packs_of_many_items_are_equal(max_tokens: int, max_tiles: int) -> None:
    tokens, tiles = realistic(3000)
    kernel = pack_kernel.tiles_first if max_tiles == 18 else pack_kernel.tokens_first
    plain = pack(tokens, tiles, max_tokens=max_tokens, max_tiles=max_tiles)
    kernel.plain = -1
    try:
        compiled = pack(tokens, tiles, max_tokens=max_tokens, max_tiles=max_tiles)
    finally:
        kernel.plain = pack_kernel.PLAIN
    assert compiled.tolist() == plain.tolist()


@given(ITEMS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(items: list[tuple[int, int]], random: object) -> None:
    """Packs hold the same sizes, and are opened in the same order."""

    def contents(items: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        held: dict[int, list[tuple[int, int]]] = {}
        for item, number in zip(items, pack(*arrays(items), **LIMITS).tolist(), strict=True):
            held.setdefault(number, []).append(item)
        return [sorted(held[number]) for number in sorted(held)]

    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert contents(shuffled) == contents(items)


def test_one_number_or_three_give_one_order() -> None:
    """The keys of long sequences do not fit one number and are sorted apart."""
    tokens, tiles = realistic(2000)
    for tiles_bind in (False, True):
        limits = {"max_tokens": 8192, "max_tiles": 20, "tiles_bind": tiles_bind}
        primary, secondary = (tiles, tokens) if tiles_bind else (tokens, tiles)
        expected = np.lexsort([-secondary, -primary, -np.maximum(tokens * 20, tiles * 8192)])
        assert _largest_first(tokens, tiles, **limits).tolist() == expected.tolist()
        # the same sizes and limits, 2^22 times as large
        large = {"max_tokens": 8192 << 22, "max_tiles": 20 << 6, "tiles_bind": tiles_bind}
        assert _largest_first(tokens << 22, tiles << 6, **large).tolist() == expected.tolist()


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
        (8192, 18, 0.98),  # tiles do, in lumps
        (32768, 128, 0.999),
    ],
)
def test_fill_is_close_to_the_bound(max_tokens: int, max_tiles: int, least: float) -> None:
    tokens, tiles = realistic(30_000)
    packs = pack(tokens, tiles, max_tokens=max_tokens, max_tiles=max_tiles)
    bound = lower_bound(tokens, tiles, max_tokens=max_tokens, max_tiles=max_tiles)
    assert bound / (packs.max() + 1) >= least


@pytest.mark.parametrize("max_tiles", [32, 16])
def test_fill_where_one_limit_dominates(max_tiles: int) -> None:
    """1,350 tokens in the mean, 1 to 13 tiles, few images large: 32 tiles leave tokens to bind, 16 bind."""
    random = np.random.default_rng(3)
    shares = [0.25, 0.13, 0.15, 0.1, 0.13, 0.1, 0.05, 0.04, 0.05]
    tiles = random.choice([1, 2, 3, 4, 5, 7, 9, 10, 13], 30_000, p=shares)
    tokens = np.clip(random.lognormal(5.3, 0.8, 30_000).astype(np.int64), 8, 4000) + 256 * tiles + 2
    limits = {"max_tokens": 8192, "max_tiles": max_tiles}
    assert lower_bound(tokens, tiles, **limits) / (pack(tokens, tiles, **limits).max() + 1) >= 0.995


def test_nothing_to_pack() -> None:
    assert pack([], [], **LIMITS).tolist() == []
    assert lower_bound([], [], **LIMITS) == 0


@pytest.mark.parametrize(("tokens", "tiles"), [(61, 0), (10, 10), (0, 0), (5, -1)])
def test_what_fits_no_pack_is_refused(tokens: int, tiles: int) -> None:
    with pytest.raises(ValueError):
        pack([10, tokens], [1, tiles], **LIMITS)


def test_no_tiles_allowed_is_a_limit_like_another() -> None:
    assert pack([30, 30, 30], [0, 0, 0], max_tokens=60, max_tiles=0).max() == 1
