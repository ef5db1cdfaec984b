"""Differences between nested values."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mixc.spec.changes import Change, changes

leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2)
values = st.recursive(
    leaves, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=3)
)
mappings = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(mappings)
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert changes(value, value) == []


@given(mappings, mappings)
def test_differences_are_the_same_from_the_other_side(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert changes(b, a) == [Change(path=c.path, a=c.b, b=c.a) for c in changes(a, b)]


def put(value: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        value = value[parent]
    value[last] = leaf


@given(mappings.filter(bool), st.data())
def test_one_changed_leaf_is_one_change_with_its_path(value: dict[str, Any], data: st.DataObject) -> None:
    paths: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key in node:
                walk(node[key], f"{path}.{key}" if path else key)
        else:
            paths.append(path)

    walk(value, "")
    path = data.draw(st.sampled_from(paths))
    other = copy.deepcopy(value)
    put(other, path, "changed")
    assert [(c.path, c.b) for c in changes(value, other)] == [(path, "changed")]


def test_lists_of_named_things_are_compared_by_name() -> None:
    a = [{"name": "x", "n": 1}, {"name": "y", "n": 2}]
    b = [{"name": "y", "n": 2}, {"name": "x", "n": 3}, {"name": "z", "n": 4}]
    assert [(c.path, c.a, c.b) for c in changes({"s": a}, {"s": b})] == [
        ("s.x.n", 1, 3),
        ("s.z", None, {"name": "z", "n": 4}),
        ("s (order)", ["x", "y"], ["y", "x", "z"]),
    ]


def test_one_and_true_are_not_the_same() -> None:
    assert changes({"a": 1}, {"a": True}) == [Change(path="a", a=1, b=True)]
