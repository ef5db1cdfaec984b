"""Classes evened out: exact totals, caps kept, and the same as the stage's own arithmetic."""

from __future__ import annotations

import random
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.plan.allocate import Demand, allocate
from mixc.plan.balance import balanced_targets
from mixc.plan.groups import tempered

NAMES = st.one_of(st.none(), st.text(max_size=3))
SIZES = st.dictionaries(NAMES, st.integers(0, 10**6), min_size=1, max_size=12)
EPOCHS = st.fractions(Fraction(1, 10), 4, max_denominator=12)
TEMPERATURES = st.one_of(st.none(), st.fractions(1, 8, max_denominator=10))


def test_equal_shares_and_what_is_left_over() -> None:
    sizes: dict[str | None, int] = {"a": 10, "b": 1000, "c": 1000}
    assert balanced_targets(sizes, total=300, temperature=None, max_epochs=Fraction(1)) == {"a": 10, "b": 145, "c": 145}
    assert balanced_targets(sizes, total=9, temperature=None, max_epochs=Fraction(1)) == {"a": 3, "b": 3, "c": 3}


def test_temperature_two_is_the_square_root() -> None:
    sizes: dict[str | None, int] = {"a": 100, "b": 10_000}
    assert balanced_targets(sizes, total=110, temperature=Fraction(2), max_epochs=Fraction(1)) == {"a": 10, "b": 100}


def test_ties_go_by_text_and_null_first() -> None:
    sizes: dict[str | None, int] = {"b": 5, None: 5, "a": 5}
    assert balanced_targets(sizes, total=4, temperature=None, max_epochs=Fraction(1)) == {None: 2, "a": 1, "b": 1}


def test_nothing_to_take() -> None:
    assert balanced_targets({}, total=5, temperature=None, max_epochs=Fraction(1)) == {}
    assert balanced_targets({"a": 0}, total=5, temperature=Fraction(2), max_epochs=Fraction(1)) == {"a": 0}
    assert balanced_targets({"a": 3}, total=0, temperature=None, max_epochs=Fraction(1)) == {"a": 0}


@given(SIZES, st.integers(0, 10**7), TEMPERATURES, EPOCHS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_totals_and_caps(
    sizes: dict[str | None, int], total: int, temperature: Fraction | None, epochs: Fraction, dice: random.Random
) -> None:
    found = balanced_targets(sizes, total=total, temperature=temperature, max_epochs=epochs)
    assert found.keys() == sizes.keys()
    assert sum(found.values()) == min(total, floor(epochs * sum(sizes.values())))
    assert all(0 <= found[value] <= ceil(epochs * size) for value, size in sizes.items())
    pairs = list(sizes.items())
    dice.shuffle(pairs)
    assert balanced_targets(dict(pairs), total=total, temperature=temperature, max_epochs=epochs) == found
    below = [value for value, size in sizes.items() if found[value] < floor(epochs * size)]
    for a in below:  # of two classes below their caps the larger gets no less, but for one unit of rounding
        for b in below:
            if sizes[a] <= sizes[b]:
                assert found[a] <= found[b] + 1


@given(SIZES, st.integers(1, 10**7), TEMPERATURES, EPOCHS)
@settings(max_examples=200, deadline=None)
def test_the_same_as_of_a_stages_sources(
    sizes: dict[str | None, int], total: int, temperature: Fraction | None, epochs: Fraction
) -> None:
    """allocate.py's renormalise on Fractions; with a temperature to one unit, as the weights are rounded."""
    held = {value: size for value, size in sizes.items() if size}
    if not held:
        return
    order = sorted(held, key=lambda value: (value is not None, value or ""))
    names = {value: f"{i:04d}" for i, value in enumerate(order)}
    weights = dict.fromkeys(names.values(), Fraction(1))
    if temperature is not None:
        weights = tempered({names[value]: Fraction(size) for value, size in held.items()}, temperature)
    demands = [
        Demand(name=names[v], weight=weights[names[v]], size=held[v], budget_size=held[v], max_epochs=epochs)
        for v in held
    ]
    total = min(total, floor(epochs * sum(held.values())))
    if not total:
        return
    wanted = allocate(demands, budget=total, policy="renormalise").targets
    found = balanced_targets(sizes, total=total, temperature=temperature, max_epochs=epochs)
    loose = 0 if temperature in (None, 1) else 1
    assert all(abs(found[value] - wanted[name]) <= loose for value, name in names.items())


@pytest.mark.parametrize("temperature", [None, Fraction(1), Fraction(2)])
def test_one_class_is_as_if_there_were_none(temperature: Fraction | None) -> None:
    assert balanced_targets({None: 7}, total=5, temperature=temperature, max_epochs=Fraction(1)) == {None: 5}


@given(st.dictionaries(NAMES, st.integers(1, 1000), min_size=1, max_size=8), EPOCHS)
def test_temperature_one_takes_the_same_part_of_each(sizes: dict[str | None, int], part: Fraction) -> None:
    whole = sum(sizes.values())
    total = floor(min(part, 1) * whole)
    found = balanced_targets(sizes, total=total, temperature=Fraction(1), max_epochs=Fraction(1))
    assert all(abs(found[value] - Fraction(size * total, whole)) < 1 for value, size in sizes.items())
