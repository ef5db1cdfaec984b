"""Shares that change over a stage: positions are exact, and every window has its shares."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.plan.schedule import BITS, GRID_ERROR, KNOTS, Kind, Ramp, total_shares

ONE = 1 << BITS
SHARES = st.fractions(0, 1, max_denominator=1000)
RAMPS = st.tuples(SHARES, SHARES).filter(lambda pair: sum(pair) > 0)
KINDS = st.sampled_from(["linear", "cosine"])
PARTS = st.lists(st.integers(0, ONE), min_size=1, max_size=50)


def taken(start: Fraction, end: Fraction, kind: Kind, t: float) -> float:
    """F(t), in floats: good to 1e-15, which is nothing beside GRID_ERROR."""
    g = t * t / 2 if kind == "linear" else t / 2 - math.sin(math.pi * t) / (2 * math.pi)
    return (float(start) * t + float(end - start) * g) / (float(start + end) / 2)


@given(RAMPS, KINDS)
@settings(max_examples=40, deadline=None)
def test_knots(ramp: tuple[Fraction, Fraction], kind: Kind) -> None:
    knots = Ramp.of(*ramp, kind).knots
    assert (int(knots[0]), int(knots[-1])) == (0, ONE)
    assert (knots[1:] > knots[:-1]).all()
    for k in (1, 2, KNOTS // 3, KNOTS // 2, KNOTS - 1):
        assert int(knots[k]) / ONE == pytest.approx(taken(*ramp, kind, k / KNOTS), abs=1e-14)


def test_the_sine_is_right_to_the_last_bit() -> None:
    """A quarter of the way: sin(pi / 4) = sqrt(1/2), and at 1/6 sin = 1/2, from integers alone."""
    pi = 3141592653589793238462643383279502884197  # to 40 digits
    for turn, sine in ((4, Fraction(math.isqrt(10**80 // 2), 10**40)), (2, Fraction(1))):
        t = Fraction(1, turn)
        wanted = 2 * (t / 2 - sine / (2 * Fraction(pi, 10**39)))  # from 0 to 1: F = G / (1/2)
        assert int(Ramp.of(Fraction(0), Fraction(1), "cosine").knots[KNOTS // turn]) == round(wanted * ONE)


@given(RAMPS, KINDS, PARTS)
@settings(max_examples=60, deadline=None)
def test_position_is_the_exact_inverse_of_the_table(
    pair: tuple[Fraction, Fraction], kind: Kind, parts: list[int]
) -> None:
    ramp = Ramp.of(*pair, kind)
    knots = [int(k) for k in ramp.knots]
    parts = sorted([*parts, 0, ONE, knots[1], knots[1] - 1, knots[-2]])
    found = [int(p) for p in ramp.position(np.array(parts, np.uint64))]
    assert found[0] == 0
    assert found[-1] == ONE
    assert all(a <= b for a, b in pairwise(found))
    for part, position in zip(parts[:-1], found[:-1], strict=True):
        if part == ONE:
            continue
        k = (
            max(i for i in range(KNOTS) if knots[i] <= part)
            if part < 1000
            else int(np.searchsorted(ramp.knots, np.uint64(part), "right")) - 1
        )
        exact = (k + Fraction(part - knots[k], knots[k + 1] - knots[k])) * Fraction(ONE, KNOTS)
        assert position == math.floor(exact)


@given(SHARES.filter(bool), KINDS, PARTS)
@settings(max_examples=40, deadline=None)
def test_equal_shares_change_nothing(share: Fraction, kind: Kind, parts: list[int]) -> None:
    found = Ramp.of(share, share, kind).position(np.array(parts, np.uint64))
    assert found.tolist() == parts


@given(RAMPS, KINDS, st.fractions(Fraction(1, 100), 100))
@settings(max_examples=30, deadline=None)
def test_only_the_ratio_of_the_shares_counts(pair: tuple[Fraction, Fraction], kind: Kind, factor: Fraction) -> None:
    start, end = pair
    assert (Ramp.of(start, end, kind).knots == Ramp.of(start * factor, end * factor, kind).knots).all()


@given(
    st.lists(st.tuples(SHARES, SHARES).filter(lambda p: sum(p) > 0), min_size=1, max_size=4),
    KINDS,
    st.data(),
)
@settings(max_examples=50, deadline=None)
def test_every_window_has_its_shares(ramps: list[tuple[Fraction, Fraction]], kind: Kind, data: st.DataObject) -> None:
    """The promise of the module's text, for samples of any size and windows anywhere."""
    a, b = sorted(data.draw(st.tuples(st.integers(0, ONE), st.integers(0, ONE))))
    for pair in ramps:
        units = np.array(data.draw(st.lists(st.integers(1, 1000), min_size=1, max_size=200)), dtype=object)
        total = int(units.sum())
        before = np.concatenate([[0], np.cumsum(units)[:-1]])
        positions = Ramp.of(*pair, kind).position(np.array([int(x) * ONE // total for x in before], np.uint64))
        inside = sum(u for u, p in zip(units, positions.tolist(), strict=True) if a <= p < b)
        wished = total * (taken(*pair, kind, b / ONE) - taken(*pair, kind, a / ONE))
        assert abs(inside - wished) <= max(units) + total * (2 * float(GRID_ERROR) + 1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_straight_lines_are_as_near_as_they_say(kind: Kind) -> None:
    knots = Ramp.of(Fraction(0), Fraction(1), kind).knots.astype(np.float64) / ONE
    t = np.linspace(0, 1, 100_003)
    exact = np.array([taken(Fraction(0), Fraction(1), kind, x) for x in t.tolist()])
    worst = np.abs(np.interp(t, np.arange(KNOTS + 1) / KNOTS, knots) - exact).max()
    assert float(GRID_ERROR) / 3 < worst < float(GRID_ERROR)


def test_total_shares() -> None:
    start = {"a": Fraction(1), "b": Fraction(0)}
    assert total_shares(start, {"a": Fraction(1, 2), "b": Fraction(1, 2)}) == {"a": Fraction(3, 4), "b": Fraction(1, 4)}
    with pytest.raises(ValueError, match="other names"):
        total_shares(start, {"a": Fraction(1)})


@pytest.mark.parametrize("pair", [(Fraction(0), Fraction(0)), (Fraction(-1), Fraction(2))])
def test_shares_that_are_none(pair: tuple[Fraction, Fraction]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Ramp.of(*pair, "linear")


def test_a_part_beyond_its_whole() -> None:
    ramp = Ramp.of(Fraction(1), Fraction(1), "linear")
    with pytest.raises(ValueError, match="beyond"):
        ramp.position(np.array([ONE + 1], np.uint64))
    assert ramp.position(np.zeros(0, np.uint64)).tolist() == []
