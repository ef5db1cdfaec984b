from __future__ import annotations

from fractions import Fraction
from math import isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.plan.divide import (
    denominators,
    loss_weights,
    rank_skews,
    step_costs,
    step_order,
    warmup_steps,
)

BATCHES = [1, 2, 6, 12, 24, 64]


@st.composite
def packs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    batch = draw(st.sampled_from(BATCHES))
    number = batch * draw(st.integers(1, 4))
    most = draw(st.sampled_from([0, 3, 40]))
    columns = [draw(st.lists(st.integers(0, top), min_size=number, max_size=number)) for top in (most, 10**6, 9000)]
    keys = draw(st.lists(st.integers(0, 2**64 - 1), min_size=number, max_size=number))
    return *(np.array(column, np.int64) for column in columns), np.array(keys, np.uint64), batch


@given(packs())
def test_rank_skew_is_bounded_for_every_world_size(given: tuple) -> None:
    """What the runtime does: micro-step k of rank r takes packs s*B + k*W*m + j*W + r for j below m."""
    tiles, squares, tokens, keys, batch = given
    order = step_order(tiles, squares, tokens, keys, batch=batch)
    cost = step_costs(tiles[order], squares[order], batch=batch)
    skews = rank_skews(cost, batch=batch)
    for step in range(len(cost) // batch):
        c = cost[step * batch : (step + 1) * batch]
        assert (np.diff(c) <= 0).all()
        for world in (w for w in range(1, batch + 1) if batch % w == 0):
            work = np.array([c[rank::world].sum() for rank in range(world)])
            assert work.max() - work.min() <= c.max() - c.min()
            if c.sum():
                skew = (work.max() - work.min()) / (c.sum() / world)
                assert skew <= skews[step] * world / batch + 1e-12
            for micro in (m for m in range(1, batch // world + 1) if batch // world % m == 0):
                taken = np.zeros(batch, np.int64)
                for k in range(batch // (world * micro)):
                    places = [[k * world * micro + j * world + rank for j in range(micro)] for rank in range(world)]
                    share = [c[p].sum() for p in places]
                    assert max(share) - min(share) <= c.max() - c.min()
                    for p in places:
                        taken[p] += 1
                assert (taken == 1).all()


@given(packs())
def test_order_stays_in_its_step_and_is_total(given: tuple) -> None:
    tiles, squares, tokens, keys, batch = given
    order = step_order(tiles, squares, tokens, keys, batch=batch)
    assert (order // batch == np.arange(len(order)) // batch).all()
    columns = [(-tiles[i], -squares[i], -tokens[i], int(keys[i]), i) for i in order.tolist()]
    for step in range(len(order) // batch):
        part = columns[step * batch : (step + 1) * batch]
        assert part == sorted(part)


def test_empty_packs_come_last() -> None:
    tokens = np.array([0, 5, 0, 9])
    order = step_order(tokens * 0, tokens**2, tokens, np.zeros(4, np.uint64), batch=4)
    assert order.tolist() == [3, 1, 0, 2]


def test_a_step_that_is_not_full_is_refused() -> None:
    three = np.zeros(3, np.int64)
    with pytest.raises(ValueError):
        step_order(three, three, three, three.astype(np.uint64), batch=2)


def test_skew_by_hand() -> None:
    assert rank_skews(np.array([6, 3, 0, 0]), batch=2).tolist() == [(6 - 3) / 4.5, 0]


def test_loss_weights() -> None:
    supervised = [1, 4, 9, 0]
    assert loss_weights("token", supervised).tolist() == [1, 1, 1, 0]
    assert loss_weights("square", supervised).tolist() == [1, 0.5, float(np.float32(1 / 3)), 0]
    assert loss_weights("sample", supervised).tolist() == [1, 0.25, float(np.float32(1 / 9)), 0]
    assert loss_weights("sample", supervised).dtype == np.float32


@given(st.lists(st.lists(st.integers(0, 2**20), max_size=20), max_size=8), st.randoms(use_true_random=False))
def test_denominators_are_exact_whatever_the_order(groups: list[list[int]], random: object) -> None:
    for rule in ("token", "sample", "square"):
        supervised = np.array([n for group in groups for n in group], np.uint32)
        weights = loss_weights(rule, supervised)  # type: ignore[arg-type]
        ends = np.cumsum([len(group) for group in groups]).tolist() if groups else []
        sums = denominators(weights, supervised, ends)
        start = 0
        for end, found in zip(ends, sums.tolist(), strict=True):
            terms = [
                Fraction(float(w)) * int(n) for w, n in zip(weights[start:end], supervised[start:end], strict=True)
            ]
            assert found == float(sum(terms, Fraction(0)))  # int / int of a Fraction rounds once
            mixed = list(range(start, end))
            random.shuffle(mixed)  # type: ignore[attr-defined]
            assert denominators(weights[mixed], supervised[mixed], [len(mixed)]).tolist() == [found]
            start = end


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [
        (Fraction(3, 100), 100, 3),
        (Fraction(3, 100), 101, 4),
        (Fraction(0), 5, 0),
        (Fraction(1), 7, 7),
        (5, 100, 5),
        (200, 100, 100),
    ],
)
def test_warmup(warmup: int | Fraction, steps: int, expected: int) -> None:
    assert warmup_steps(warmup, steps) == expected


def test_weight_sum_of_a_sample_rule_counts_samples() -> None:
    weights = loss_weights("sample", [8, 4, 2])  # powers of two: exact in float32
    assert denominators(weights, np.array([8, 4, 2], np.uint32), [3]).tolist() == [3.0]
    assert isclose(float(denominators(loss_weights("sample", [7]), np.array([7], np.uint32), [1])[0]), 1, rel_tol=1e-6)
