"""Distances between mixtures."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.diff.composition import distance

mixtures = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 10**12), max_size=5)


@given(mixtures, mixtures)
def test_a_distance_is_one(a: dict[str, int], b: dict[str, int]) -> None:
    there, back = distance(a, b), distance(b, a)
    assert there == back
    assert 0 <= there.total_variation <= 1 and 0 <= there.jensen_shannon <= 1
    assert distance(a, a).total_variation == 0 == distance(a, a).jensen_shannon
    doubled = {name: 2 * tokens for name, tokens in b.items()}
    assert distance(a, doubled).total_variation == pytest.approx(there.total_variation)


def test_distances_of_known_mixtures() -> None:
    apart = distance({"a": 3}, {"b": 5})
    assert (apart.total_variation, apart.jensen_shannon) == (1, 1)
    near = distance({"a": 1, "b": 1}, {"a": 1})
    assert near.total_variation == 0.5
    assert near.jensen_shannon == pytest.approx(-(3 / 4 * log2(3 / 4) + 1 / 4 * log2(1 / 4)) - 1 / 2)
    assert distance({}, {}).total_variation == 0 and distance({}, {"a": 1}).total_variation == 1
