"""Total orders and exact quotients, against Python's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.sorting import equal_runs, scaled_quotient, total_order

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1) | st.integers(0, 2), st.integers(0, 1)), max_size=80
)


@given(ROWS)
def test_rows_sort_by_all_keys_and_equal_ones_stay(rows: list[tuple[int, int, int]]) -> None:
    keys = [np.array([row[i] for row in rows], np.uint64) for i in range(3)]
    assert total_order(keys).tolist() == sorted(range(len(rows)), key=lambda i: (rows[i], i))


@given(ROWS)
def test_runs_are_of_equal_neighbours(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows)
    keys = [np.array([row[i] for row in rows], np.uint64) for i in range(3)]
    starts, ends = equal_runs(*keys)
    expected = []
    for i, row in enumerate(rows):
        if i and rows[i - 1] == row:
            continue
        end = max(j for j in range(i, len(rows)) if rows[j] == row) + 1
        if end - i > 1:
            expected.append((i, end))
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


@given(st.integers(1, 2**63 - 1), st.lists(st.floats(0, 1), min_size=1), st.integers(0, 63))
def test_quotients_are_exact(denominator: int, parts: list[float], bits: int) -> None:
    numerators = [min(denominator, int(part * denominator)) for part in parts]
    found = scaled_quotient(np.array(numerators, np.uint64), denominator, bits)
    assert found.tolist() == [n * 2**bits // denominator for n in numerators]


def test_a_denominator_must_leave_room() -> None:
    for denominator in (0, -1, 2**63):
        with pytest.raises(ValueError, match="denominator"):
            scaled_quotient(np.array([0], np.uint64), denominator, 62)
