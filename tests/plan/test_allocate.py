from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mixc.plan.allocate import Demand, Policy, allocate, epoch_budget, largest_remainder, normalise


def demand(name: str, weight: str | int, size: int, budget_size: int | None = None, epochs: str = "1") -> Demand:
    return Demand(
        name=name,
        weight=Fraction(weight),
        size=size,
        budget_size=size if budget_size is None else budget_size,
        max_epochs=Fraction(epochs),
    )


@st.composite
def demands(draw: st.DrawFn) -> list[Demand]:
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    return [
        Demand(
            name=name,
            weight=draw(st.fractions("0.001", 100, max_denominator=1000)),
            size=draw(st.integers(1, 10**6)),
            budget_size=draw(st.integers(1, 10**6)),
            max_epochs=draw(st.fractions("0.1", 5, max_denominator=10)),
        )
        for name in names
    ]


BUDGETS = st.integers(1, 10**7)


def met(targets: dict[str, int], given: list[Demand]) -> Fraction:
    """What the targets come to in the budget's unit."""
    return sum((Fraction(targets[d.name] * d.budget_size, d.size) for d in given), Fraction(0))


def test_largest_remainder_by_hand() -> None:
    thirds = {name: Fraction(10, 3) for name in "cab"}
    assert largest_remainder(thirds) == {"a": 4, "b": 3, "c": 3}  # a tie goes to the first name
    assert largest_remainder({"a": Fraction(1, 2), "b": Fraction(3, 4)}) == {"a": 0, "b": 1}
    assert largest_remainder({"a": Fraction(7), "b": Fraction(3)}) == {"a": 7, "b": 3}


@given(st.dictionaries(st.sampled_from("abcdefg"), st.fractions(0, 10**9), min_size=1))
def test_largest_remainder_is_whole_exact_and_near(ideal: dict[str, Fraction]) -> None:
    whole = largest_remainder(ideal)
    assert sum(whole.values()) == floor(sum(ideal.values()))
    assert all(abs(whole[name] - ideal[name]) < 1 for name in ideal)
    assert whole == largest_remainder(dict(reversed(ideal.items())))


@given(demands(), BUDGETS, st.sampled_from(["fail", "repeat", "renormalise", "shorten"]))
def test_no_source_strays_a_unit_from_its_ideal(given: list[Demand], budget: int, policy: Policy) -> None:
    allocation = allocate(given, budget=budget, policy=policy)
    assert allocation == allocate(given[::-1], budget=budget, policy=policy)
    assert sum(allocation.shares.values()) == 1
    if policy in ("renormalise", "shorten"):
        for d in given:
            assert allocation.targets[d.name] < d.max_epochs * d.size + 1
    # The budget is met up to what rounding to whole units of the shares costs: less than a unit a source.
    slack = sum(Fraction(d.budget_size, d.size) for d in given)
    assert abs(budget - allocation.unmet - met(allocation.targets, given)) <= slack
    if policy in ("fail", "repeat"):
        assert allocation.unmet == 0


@given(demands(), BUDGETS)
def test_same_unit_meets_the_budget_to_the_unit(given: list[Demand], budget: int) -> None:
    same = [demand(d.name, str(d.weight), d.size, epochs=str(d.max_epochs)) for d in given]
    allocation = allocate(same, budget=budget, policy="repeat")
    assert sum(allocation.targets.values()) == budget
    for d in same:
        assert abs(allocation.targets[d.name] - allocation.shares[d.name] * budget) < 1


@given(demands(), BUDGETS)
def test_renormalise_keeps_the_proportions_of_those_below_their_caps(given: list[Demand], budget: int) -> None:
    allocation = allocate(given, budget=budget, policy="renormalise")
    caps = {d.name: d.max_epochs * d.size for d in given}
    free = [d.name for d in given if allocation.targets[d.name] + 1 < caps[d.name]]
    if free:
        assert allocation.unmet == 0  # as long as one has room the budget is met
        levels = [allocation.targets[name] / allocation.shares[name] for name in free]
        spread = sum(1 / allocation.shares[name] for name in free)
        assert max(levels) - min(levels) <= spread
        for name in set(caps) - set(free):  # who is at the cap would have had at least as much at this level
            assert caps[name] <= (min(levels) + spread) * allocation.shares[name] + 2


@given(demands(), BUDGETS)
def test_shorten_keeps_the_shares(given: list[Demand], budget: int) -> None:
    allocation = allocate(given, budget=budget, policy="shorten")
    total = sum(allocation.targets.values())
    for d in given:
        assert abs(allocation.targets[d.name] - allocation.shares[d.name] * total) < 2
    if not allocation.shortfalls:
        assert allocation.unmet == 0
    else:  # as long as it can be: some source is at its cap
        assert any(allocation.targets[d.name] + 1 > d.max_epochs * d.size for d in given)


@given(demands(), st.fractions("0.1", 4, max_denominator=10))
def test_an_epoch_of_everything_takes_each_source_whole(given: list[Demand], epochs: Fraction) -> None:
    by_size = [demand(d.name, d.size, d.size, epochs=str(max(epochs, 1))) for d in given]
    budget = epoch_budget(epochs, by_size)
    assume(budget > 0)
    allocation = allocate(by_size, budget=budget, policy="fail")
    assert not allocation.shortfalls
    for d in by_size:  # rounding the budget down takes less than 1 unit, rounding the amounts moves less than 1
        assert abs(allocation.targets[d.name] - epochs * d.size) < 2
    if epochs.denominator == 1:
        assert allocation.targets == {d.name: epochs * d.size for d in by_size}


def test_exhausted_by_hand() -> None:
    given = [demand("big", "0.5", 1000), demand("small", "0.5", 100)]
    short = allocate(given, budget=400, policy="fail").shortfalls
    assert [(s.name, s.wanted, s.available, s.epochs) for s in short] == [("small", 200, 100, 2)]
    assert allocate(given, budget=400, policy="repeat").targets == {"big": 200, "small": 200}
    assert allocate(given, budget=400, policy="renormalise").targets == {"big": 300, "small": 100}
    assert allocate(given, budget=400, policy="shorten").targets == {"big": 100, "small": 100}
    beyond = allocate(given, budget=5000, policy="renormalise")
    assert (beyond.targets, beyond.unmet) == ({"big": 1000, "small": 100}, 3900)


def test_budget_in_another_unit_by_hand() -> None:
    """Shares in tokens, budget in samples: a sample of `long` has 100 tokens, one of `short` 10."""
    given = [demand("long", "0.5", 10_000, 100), demand("short", "0.5", 10_000, 1000)]
    allocation = allocate(given, budget=110, policy="fail")
    assert allocation.targets == {"long": 1000, "short": 1000}  # 10 samples and 100
    assert met(allocation.targets, given) == 110


def test_renormalise_in_another_unit_still_meets_the_budget() -> None:
    given = [demand("long", "0.5", 500, 5), demand("short", "0.5", 10_000, 1000)]
    allocation = allocate(given, budget=110, policy="renormalise")
    assert allocation.targets == {"long": 500, "short": 1050}  # 5 samples, and so 105 of the other
    assert met(allocation.targets, given) == 110


@pytest.mark.parametrize(
    "given",
    [
        [demand("a", 0, 10)],
        [demand("a", 1, 10), demand("a", 1, 10)],
        [demand("a", 1, 0)],
        [demand("a", 1, 10, 0)],
        [],
    ],
)
def test_what_cannot_be_divided_is_refused(given: list[Demand]) -> None:
    with pytest.raises(ValueError):
        allocate(given, budget=10, policy="fail")


def test_normalise_refuses_negative_weights() -> None:
    with pytest.raises(ValueError):
        normalise({"a": Fraction(-1), "b": Fraction(2)})


def test_a_source_of_no_weight_gets_nothing() -> None:
    given = [demand("a", 1, 10), demand("b", 0, 0)]
    assert allocate(given, budget=7, policy="fail").targets == {"a": 7, "b": 0}
