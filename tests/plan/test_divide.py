from __future__ import annotations

from fractions import Fraction
from math import fsum, isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.plan.balance_ranks import rank_skews
from mixc.plan.divide import MOST_SUPERVISED, denominators, loss_weights, step_order, sums, warmup_steps


@st.composite
def packs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    batch = draw(st.sampled_from([1, 2, 6, 12, 24, 30, 48]))
    number = batch * draw(st.integers(1, 3))
    most = draw(st.sampled_from([0, 3, 10**9]))
    costs = draw(st.lists(st.integers(0, most), min_size=number, max_size=number))
    keys = draw(st.lists(st.integers(0, 2**64 - 1), min_size=number, max_size=number))
    return np.array(costs, np.int64), np.array(keys, np.uint64), batch


@given(packs(), st.randoms(use_true_random=False))
def test_order_stays_in_its_step_and_is_a_function_of_its_packs(
    given: tuple[np.ndarray, np.ndarray, int], random: object
) -> None:
    costs, keys, batch = given
    order = step_order(costs, keys, batch=batch)
    for step in range(0, len(costs), batch):
        assert sorted(order[step : step + batch].tolist()) == list(range(step, step + batch))
    shuffled = np.arange(len(costs)).reshape(-1, batch)
    for row in shuffled:
        random.shuffle(row)  # type: ignore[attr-defined]
    shuffled = shuffled.reshape(-1)
    again = shuffled[step_order(costs[shuffled], keys[shuffled], batch=batch)]
    assert (costs[again] == costs[order]).all()
    assert (keys[again] == keys[order]).all()


@given(packs())
def test_each_pack_is_trained_once_for_every_division(given: tuple[np.ndarray, np.ndarray, int]) -> None:
    """What the runtime does: micro-step k of rank r takes packs s*B + k*W*m + j*W + r for j below m."""
    costs, keys, batch = given
    ordered = costs[step_order(costs, keys, batch=batch)]
    skews = rank_skews(ordered, batch=batch)
    for step in range(len(costs) // batch):
        worst = Fraction(0)
        for world in (w for w in range(2, batch + 1) if batch % w == 0):
            work = [0] * world
            for micro in (m for m in range(1, batch // world + 1) if batch // world % m == 0):
                work = [0] * world
                for rank in range(world):
                    for k in range(batch // (world * micro)):
                        first = step * batch + k * world * micro + rank
                        work[rank] += int(ordered[first : first + world * micro : world].sum())
                assert sum(work) == costs[step * batch : (step + 1) * batch].sum()
            if sum(work):
                worst = max(worst, Fraction((max(work) - min(work)) * world, sum(work)))
        assert isclose(skews[step], worst, rel_tol=1e-12)


def test_equal_packs_stand_by_key() -> None:
    keys = np.array([3, 1, 2, 0], np.uint64)
    assert step_order(np.ones(4, np.int64), keys, batch=4).tolist() == [3, 1, 2, 0]


def test_a_step_that_is_not_full_is_refused() -> None:
    with pytest.raises(ValueError):
        step_order(np.zeros(3, np.int64), np.zeros(3, np.uint64), batch=2)


def test_skew_by_hand() -> None:
    assert rank_skews(np.array([6, 3, 0, 0]), batch=2).tolist() == [(6 - 3) / 4.5, 0]
    assert rank_skews(np.array([6, 3, 4, 5]), batch=4).tolist() == [
        (6 - 3) / 4.5
    ]  # 2 ranks: 10 and 8; 4 ranks: 6 and 3
    assert rank_skews(np.array([6, 3, 4]), batch=1).tolist() == [0, 0, 0]


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


@given(st.lists(st.integers(0, 2**20), max_size=200), st.sampled_from(["token", "sample", "square"]))
def test_denominators_are_those_of_fsum(supervised: list[int], rule: str) -> None:
    n = np.array(supervised, np.uint32)
    weights = loss_weights(rule, n)  # type: ignore[arg-type]
    assert denominators(weights, n, [len(n)])[0] == fsum((weights.astype(np.float64) * n).tolist())


@pytest.mark.parametrize("rule", ["token", "sample", "square"])
def test_denominators_at_their_limits(rule: str) -> None:
    """As many segments as the longest sequence holds, the longest segment, and every length there is."""
    for n in (np.ones(1 << 19, np.uint32), np.array([MOST_SUPERVISED] * 3), np.arange(1 << 20, dtype=np.uint32)):
        weights = loss_weights(rule, n)  # type: ignore[arg-type]
        ends = [0, len(n) // 3, len(n)]
        terms = (weights.astype(np.float64) * n).tolist()
        expected = [0.0, fsum(terms[: ends[1]]), fsum(terms[ends[1] :])]
        assert denominators(weights, n, ends).tolist() == expected
    with pytest.raises(ValueError):
        loss_weights(rule, [MOST_SUPERVISED + 1])  # type: ignore[arg-type]


def test_sums_of_runs() -> None:
    values = np.array([2**62, 2**62, 2**62, 5], np.int64)  # the sum over all does not fit
    assert sums(values, [0, 1, 1, 3, 4][:3]).tolist() == [0, 2**62, 0]
    assert sums(values, np.array([1, 2, 3, 4])).tolist() == [2**62, 2**62, 2**62, 5]


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
