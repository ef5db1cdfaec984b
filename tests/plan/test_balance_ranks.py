from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.plan import balance_ranks
from mixc.plan.balance_ranks import ENOUGH, SWEEPS, TOTAL_BITS, balanced_order, rank_skews, world_sizes
from mixc.plan.cost import SAIL_VL_2B
from mixc.plan.pack import pack


def by_hand(costs: list[int], batch: int) -> list[int]:
    """docs/planning.md section 6, word for word, for one step: adds everything up again for every exchange."""
    worlds = [w for w in range(2, 65) if batch % w == 0 and w < batch]
    worlds = [w for w in worlds if not any(v > w and v % w == 0 for v in worlds)]
    if not worlds:
        return list(range(batch))
    unit = max(1, sum(costs) >> TOTAL_BITS)
    scaled = [cost // unit for cost in costs]
    total = sum(scaled)
    order = list(range(batch))

    def work() -> list[list[int]]:
        return [[sum(scaled[i] for i in order[r::w]) for r in range(w)] for w in worlds]

    def unevenness() -> int:
        return sum((w * own - total) ** 2 for w, ranks in zip(worlds, work(), strict=True) for own in ranks)

    def enough() -> bool:
        return all((max(ranks) - min(ranks)) * w * ENOUGH <= total for w, ranks in zip(worlds, work(), strict=True))

    def exchanged(i: int, j: int) -> int:
        order[i], order[j] = order[j], order[i]
        found = unevenness()
        order[i], order[j] = order[j], order[i]
        return found

    def exchange(pairs: list[tuple[int, int]]) -> bool:
        now = unevenness()
        best = min(pairs, key=lambda pair: exchanged(*pair))
        if exchanged(*best) >= now:
            return False
        i, j = best
        order[i], order[j] = order[j], order[i]
        return True

    run = max(worlds)
    while not enough():
        off = [
            (-abs(w * own - total), k, r)
            for k, (w, ranks) in enumerate(zip(worlds, work(), strict=True))
            for r, own in enumerate(ranks)
        ]
        _, k, rank = min(off)
        places = range(rank, batch, worlds[k])
        if not exchange([(i, j) for i in places for j in range(batch) if i // run == j // run]):
            break
    else:
        return order
    for _ in range(SWEEPS):
        changed = False
        for i in range(batch):
            if exchange([(i, j) for j in range(batch)]):
                changed = True
                if enough():
                    return order
        if not changed:
            break
    return order


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[int], int]:
    batch = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 10, 12, 18]))
    most = draw(st.sampled_from([0, 1, 5, 1000, 2**40]))
    return sorted(draw(st.lists(st.integers(0, most), min_size=batch, max_size=batch)), reverse=True), batch


@settings(deadline=None)
@given(steps())
def test_places_are_those_of_the_page(given: tuple[list[int], int]) -> None:
    costs, batch = given
    assert balanced_order(np.array(costs, np.int64), batch=batch).tolist() == by_hand(costs, batch)


def realistic_costs(packs: int, seed: int = 5) -> np.ndarray:
    """Packs of captions, pages and prose of up to 8,192 tokens and 32 tiles; without the lightest, what a window has
    left over."""
    random = np.random.default_rng(seed)
    number = packs * 8
    tiles = random.choice(
        [0, 1, 2, 3, 4, 5, 7, 9, 10, 13], number, p=[0.2, 0.2, 0.1, 0.12, 0.08, 0.1, 0.08, 0.04, 0.03, 0.05]
    )
    tokens = np.clip(random.lognormal(5.3, 0.9, number).astype(np.int64), 8, 4000) + 256 * tiles
    numbers = pack(tokens, tiles, max_tokens=8192, max_tiles=32)
    columns = (np.bincount(numbers, values).astype(np.int64) for values in (tokens, tiles, tokens * tokens))
    costs = SAIL_VL_2B.of(*columns)
    return random.permutation(np.delete(costs, costs.argmin()))[:packs]


@pytest.mark.parametrize("batch", [64, 96, 480, 512])
def test_compiled_or_not_the_order_is_equal(batch: int) -> None:
    costs = -np.sort(-realistic_costs(2 * batch).reshape(-1, batch), axis=1).reshape(-1)
    kernel = balance_ranks._balance
    assert kernel.plain == balance_ranks.PLAIN
    try:
        kernel.plain = 10**12
        plain = balanced_order(costs, batch=batch)
        kernel.plain = -1
        compiled = balanced_order(costs, batch=batch)
    finally:
        kernel.plain = balance_ranks.PLAIN
    assert plain.tolist() == compiled.tolist()


@pytest.mark.parametrize("batch", [256, 384, 480, 512, 1024])
def test_work_differs_by_less_than_three_percent_for_every_world_size(batch: int) -> None:
    costs = -np.sort(-realistic_costs(4 * batch).reshape(-1, batch), axis=1).reshape(-1)
    ordered = costs[balanced_order(costs, batch=batch)]
    assert rank_skews(costs, batch=batch).max() > 0.03  # sorted alone does not do
    assert rank_skews(ordered, batch=batch).max() <= 0.03
    for world in world_sizes(batch):
        for step in ordered.reshape(-1, batch):
            work = [int(step[rank::world].sum()) for rank in range(world)]
            assert Fraction((max(work) - min(work)) * world, sum(work)) <= Fraction(3, 100)


def test_a_micro_step_stays_alike() -> None:
    """Where that is enough, no pack leaves its run of 64, what one micro-step of 64 ranks takes."""
    costs = -np.sort(-np.random.default_rng(2).normal(1e8, 8e6, 512).astype(np.int64))
    order = balanced_order(costs, batch=512)
    assert (order != np.arange(512)).any()
    assert (order // 64 == np.arange(512) // 64).all()
    assert rank_skews(costs, batch=512)[0] > 0.03 > 0.011 > rank_skews(costs[order], batch=512)[0]


def test_all_work_in_one_pack() -> None:
    """The largest numbers there are: nothing can be evened out, nothing overflows."""
    costs = np.zeros(512, np.int64)
    costs[0] = 1 << 50
    order = balanced_order(costs, batch=512)
    assert sorted(order.tolist()) == list(range(512))
    assert rank_skews(costs[order], batch=512).tolist() == [64.0]
