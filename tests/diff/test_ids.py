"""Sorting and matching ids, against plain Python, with first halves that collide."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixc.diff.ids import find, first_of_each, run_starts, sort_ids

halves = st.sampled_from([0, 1, 2, 1 << 40, (1 << 40) + 1, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
ids = st.lists(st.tuples(halves, halves), max_size=40)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array([pair[half] for pair in pairs], np.uint64) for half in (0, 1))


@given(ids)
def test_ids_are_sorted_as_they_came_when_equal(pairs: list[tuple[int, int]]) -> None:
    order, hi, lo = sort_ids(*arrays(pairs))
    assert order.tolist() == sorted(range(len(pairs)), key=lambda n: (pairs[n], n))
    assert list(zip(hi.tolist(), lo.tolist(), strict=True)) == sorted(pairs)
    starts = run_starts(hi, lo)
    assert [(int(hi[n]), int(lo[n])) for n in starts] == sorted(set(pairs))


@given(ids, ids)
def test_ids_are_found_where_they_are(pairs: list[tuple[int, int]], among: list[tuple[int, int]]) -> None:
    among = sorted(set(among))
    found = find(*arrays(pairs), *arrays(among))
    assert found.tolist() == [among.index(pair) if pair in among else -1 for pair in pairs]


@given(st.lists(st.tuples(st.integers(0, 3), halves, halves), max_size=30), st.integers(1, 3))
def test_the_least_of_each_group(rows: list[tuple[int, int, int]], count: int) -> None:
    groups = np.array([row[0] for row in rows], np.int64)
    chosen = first_of_each(groups, *arrays([row[1:] for row in rows]), count)
    wanted = [row for group in range(4) for row in sorted(each for each in rows if each[0] == group)[:count]]
    assert [rows[n] for n in chosen.tolist()] == wanted
