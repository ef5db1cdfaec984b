"""Tables whose columns only their rows tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixc.measure.columns import ColumnTable, as_text
from mixc.sources.sample import Scalar

SCHEMA = pa.schema([("row", pa.uint64())])


def write(folder: Path, rows: list[dict[str, Scalar]], row_group: int) -> tuple[pa.Table, dict[str, str]]:
    table = ColumnTable(folder / "t.parquet", SCHEMA, row_group=row_group)
    for number, row in enumerate(rows):
        table.add({"row": [number]}, [row])
    types = table.close()
    assert [path.name for path in folder.iterdir()] == ["t.parquet"]  # no parts are left
    return pq.read_table(folder / "t.parquet"), types


@pytest.mark.parametrize(
    ("values", "type", "stored"),
    [
        ([None, None], "null", [None, None]),
        ([True, None, False], "bool", [True, None, False]),
        ([1, -2, 2**63 - 1], "int64", [1, -2, 2**63 - 1]),
        ([1, 2**64 - 1], "uint64", [1, 2**64 - 1]),
        ([1, 0.5], "double", [1.0, 0.5]),
        ([-1, 2**63], "double", [-1.0, 2.0**63]),
        ([10**400, -(10**400)], "double", [float("inf"), float("-inf")]),
        ([1, 2.0, 0.5, True, "é", None], "string", ["1", "2", "0.5", "true", "é", None]),
        ([True, 1], "string", ["true", "1"]),
    ],
)
@pytest.mark.parametrize("row_group", [1, 100])
def test_the_narrowest_type(
    tmp_path: Path, values: list[Scalar], type: str, stored: list[Scalar], row_group: int
) -> None:
    table, types = write(tmp_path, [{"x": value} for value in values], row_group)
    assert types == {"x": type}
    assert table["col:x"].to_pylist() == stored
    assert table["row"].to_pylist() == list(range(len(values)))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, width=32),
    st.text(max_size=3),
)


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), scalars), max_size=12),
    st.integers(1, 5),
)
def test_the_size_of_row_groups_shows_in_no_value(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Scalar]], row_group: int
) -> None:
    whole, types = write(tmp_path_factory.mktemp("whole"), rows, 1000)
    parts, same = write(tmp_path_factory.mktemp("parts"), rows, row_group)
    assert types == same
    assert whole.equals(parts)
    assert whole.schema.names == ["row", *(f"col:{name}" for name in sorted(types))]


def test_a_table_of_no_rows_has_its_columns(tmp_path: Path) -> None:
    table, types = write(tmp_path, [], 10)
    assert (len(table), table.schema.names, types) == (0, ["row"], {})


def test_steady_types_are_written_as_they_come(tmp_path: Path) -> None:
    write(tmp_path, [{"x": number} for number in range(10)], 3)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 4


@given(st.integers(-(1 << 63), (1 << 64) - 1))
@example(1 << 53)
@example((1 << 53) + 1)
@example(-(1 << 53))
def test_the_text_of_a_number_does_not_tell_which_column_held_it(number: int) -> None:
    assert as_text(number) == as_text(float(number))
    if abs(number) <= 1 << 53:
        assert as_text(number) == str(number)


def test_fixed_columns_hold_what_they_are_given_or_refuse(tmp_path: Path) -> None:
    for values in ([5, 2**64 - 1], [2**63 + 1, 0], np.array([5, 7])):
        table = ColumnTable(tmp_path / "t.parquet", SCHEMA, row_group=10)
        table.add({"row": values})
        table.close()
        assert pq.read_table(tmp_path / "t.parquet")["row"].to_pylist() == list(values)
    for values in ([-1], [2**64], np.array([-1])):
        with pytest.raises(OverflowError):
            ColumnTable(tmp_path / "u.parquet", SCHEMA, row_group=10).add({"row": values})
