"""Shares through groups and temperatures, exactly."""

from __future__ import annotations

import decimal
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.errors import PlanError
from mixc.plan.groups import flatten, tempered
from mixc.spec.groups import stage_sources
from mixc.spec.schema import Balance, MixEntry

GROUPS: dict[str, dict[str, float] | list[str]] = {
    "images": {"web": 3, "pages": 1},
    "web": ["captions", "alt"],
}
SIZES = {"captions": 300, "alt": 100, "pages": 50, "prose": 1000}


def mix(**weights: float | None) -> dict[str, MixEntry]:
    return {name: MixEntry(weight=weight) for name, weight in weights.items()}


def shares(found: dict[str, object]) -> dict[str, Fraction]:
    return {name: part.start for name, part in found.items()}  # type: ignore[attr-defined]


def test_a_groups_share_is_divided() -> None:
    found = flatten(mix(images=0.8, prose=0.2), GROUPS, SIZES)
    assert shares(found) == {
        "captions": Fraction(8, 10) * Fraction(3, 4) * Fraction(3, 4),
        "alt": Fraction(8, 10) * Fraction(3, 4) * Fraction(1, 4),
        "pages": Fraction(8, 10) * Fraction(1, 4),
        "prose": Fraction(2, 10),
    }
    assert list(found) == sorted(found)
    assert found["alt"].route == ("images", "web", "alt")
    assert stage_sources(["prose", "images"], GROUPS) == ("alt", "captions", "pages", "prose")


def test_without_weights_a_group_is_as_large_as_its_sources() -> None:
    found = flatten(mix(web=None, prose=None), GROUPS, SIZES)
    assert shares(found) == {
        "captions": Fraction(300, 1400),
        "alt": Fraction(100, 1400),
        "prose": Fraction(1000, 1400),
    }


def test_sizes_are_needed_only_where_shares_follow_them() -> None:
    groups = {"images": {"captions": 1.0, "pages": 2.0}}
    assert shares(flatten(mix(images=1, prose=1), groups)) == {
        "captions": Fraction(1, 6),
        "pages": Fraction(1, 3),
        "prose": Fraction(1, 2),
    }
    with pytest.raises(ValueError, match="not given"):
        flatten(mix(web=1), GROUPS)


def test_numbers_are_what_was_written() -> None:
    found = flatten(mix(a=0.7, b=0.2, c=0.1), {})
    assert found["a"].start == Fraction(7, 10)


def test_the_entry_holds_for_each_source() -> None:
    entry = MixEntry(weight=1, where="x > 1", max_epochs=2, balance=Balance(by="y"))
    found = flatten({"web": entry, "prose": MixEntry(weight=1)}, GROUPS, SIZES)
    assert found["captions"].entry == found["alt"].entry == entry


def test_shares_at_both_ends() -> None:
    found = flatten(mix(web=1, prose=0), GROUPS, SIZES, end={"web": 0.25, "prose": 0.75})
    assert (found["prose"].start, found["prose"].end, found["prose"].share) == (0, Fraction(3, 4), Fraction(3, 8))
    assert found["captions"].end == Fraction(1, 4) * Fraction(3, 4)
    assert sum(part.share for part in found.values()) == 1


def test_a_group_of_nothing() -> None:
    with pytest.raises(PlanError, match="group `web`"):
        flatten(mix(web=1, prose=1), GROUPS, {**SIZES, "captions": 0, "alt": 0})
    with pytest.raises(PlanError, match="the mix"):
        flatten(mix(web=None, prose=None), GROUPS, dict.fromkeys(SIZES, 0))


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["web", "captions"], GROUPS),
        (["images", "web"], GROUPS),
        (["a"], {"a": ["b"], "b": ["a"]}),
        (["a"], {"a": ["a"]}),
        (["a"], {f"{'a' * i}": ["a" * (i + 1)] for i in range(1, 60)}),
    ],
)
def test_what_check_refuses(names: list[str], groups: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="several places"):
        flatten(mix(**dict.fromkeys(names, 1.0)), groups, SIZES)


@st.composite
def nested(draw: st.DrawFn) -> tuple[dict[str, MixEntry], dict[str, dict[str, float] | list[str]], dict[str, int]]:
    """A tree of groups over some sources."""
    sources = [f"s{i}" for i in range(draw(st.integers(1, 8)))]
    level: list[str] = list(sources)
    groups: dict[str, dict[str, float] | list[str]] = {}
    for number in range(draw(st.integers(0, 4))):
        taken = level[: draw(st.integers(1, len(level)))]
        name = f"g{number}"
        weights = st.floats(0.01, 100, allow_subnormal=False)
        groups[name] = taken if draw(st.booleans()) else {member: draw(weights) for member in taken}
        level = [*level[len(taken) :], name]
    entries = {name: MixEntry(weight=draw(st.integers(1, 9))) for name in level}
    return entries, groups, {source: draw(st.integers(1, 10**6)) for source in sources}


@given(nested(), st.randoms(use_true_random=False))
def test_shares_add_up_and_no_order_matters(
    given_: tuple[dict[str, MixEntry], dict[str, dict[str, float] | list[str]], dict[str, int]], dice: random.Random
) -> None:
    entries, groups, sizes = given_
    found = flatten(entries, groups, sizes, temperature=Fraction(3, 2))
    assert sum(part.start for part in found.values()) == 1
    assert set(found) == set(sizes)

    def shuffled(items: dict[str, object]) -> dict[str, object]:
        pairs = list(items.items())
        dice.shuffle(pairs)
        return dict(pairs)

    mixed = {
        name: shuffled(m) if isinstance(m, dict) else dice.sample(m, len(m))  # type: ignore[arg-type]
        for name, m in shuffled(groups).items()  # type: ignore[arg-type]
    }
    assert flatten(shuffled(entries), mixed, shuffled(sizes), temperature=Fraction(3, 2)) == found  # type: ignore[arg-type]
    for part in found.values():  # a group's total is what its entry was given
        assert part.route[0] in entries
    plain = flatten(entries, groups, sizes)
    weight = sum(entry.weight or 0 for entry in entries.values())
    for name, entry in entries.items():
        assert sum(p.start for p in plain.values() if p.route[0] == name) == Fraction(
            int(entry.weight or 0), int(weight)
        )


TEMPERATURES = st.fractions(1, 10, max_denominator=1000)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.fractions(Fraction(1, 10**9), 10**12), min_size=1)


@given(WEIGHTS, TEMPERATURES, st.fractions(Fraction(1, 1000), 1000))
def test_tempered(weights: dict[str, Fraction], temperature: Fraction, factor: Fraction) -> None:
    found = tempered(weights, temperature)
    if temperature == 1:
        assert found == weights
    else:  # only the ratios of weights count
        assert tempered({name: weight * factor for name, weight in weights.items()}, temperature) == found
    for a in weights:
        for b in weights:
            assert (weights[a] < weights[b]) <= (found[a] <= found[b])
            assert (weights[a] == weights[b]) <= (found[a] == found[b])
            ratio, wanted = found[a] / found[b], weights[a] / weights[b]
            if wanted >= 1:  # more even, and in the same order
                assert 1 - Fraction(1, 10**38) <= ratio <= wanted * (1 + Fraction(1, 10**38))


@given(WEIGHTS, st.integers(1, 4), st.integers(1, 4))
def test_tempered_to_38_digits(weights: dict[str, Fraction], p: int, q: int) -> None:
    """ratio^p = wanted^q for the temperature p / q."""
    p, q = max(p, q), min(p, q)
    found = tempered(weights, Fraction(p, q))
    for a in weights:
        for b in weights:
            ratio, wanted = found[a] / found[b], weights[a] / weights[b]
            assert abs(ratio**p / wanted**q - 1) < Fraction(1, 10**38)


def test_roots_that_are_exact_come_out_so() -> None:
    assert tempered({"a": Fraction(1, 4), "b": Fraction(9, 16), "c": Fraction(3, 16)}, Fraction(2))["b"] == Fraction(
        3, 4
    )
    assert tempered({"a": Fraction(1), "b": Fraction(0)}, Fraction(3))["b"] == 0


def test_nothing_outside_changes_a_tempered_weight() -> None:
    """Neither the thread's decimal context nor its traps."""
    weights = {"a": Fraction(1, 3), "b": Fraction(10**15)}
    plain = tempered(weights, Fraction("1.7"))
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP, traps=[decimal.Inexact])):
        assert tempered(weights, Fraction("1.7")) == plain


def test_a_golden_value() -> None:
    """The definition, digit for digit: a plan hangs on it."""
    found = tempered({"a": Fraction(3), "b": Fraction(4)}, Fraction("3.3"))
    assert found == {  # (3/7)^(1/3.3) and (4/7)^(1/3.3); mpmath at 60 digits says the same
        "a": Fraction("0.7735562212444209939377689862565212733715"),
        "b": Fraction("0.8440187729526852979247260223411660167676"),
    }


@pytest.mark.parametrize("weights", [{}, {"a": Fraction(0)}, {"a": Fraction(-1), "b": Fraction(2)}])
def test_weights_that_are_none(weights: dict[str, Fraction]) -> None:
    with pytest.raises(ValueError, match="weights"):
        tempered(weights, Fraction(2))


def test_a_temperature_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        tempered({"a": Fraction(1)}, Fraction(1, 2))
