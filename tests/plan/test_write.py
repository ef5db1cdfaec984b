from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.plan import write
from mixc.plan.keys import join_ids
from mixc.plan.tables import PLACEMENTS_SCHEMA
from mixc.plan.write import TableWriter, uuids

NAMES = ["a", "größe", "c d"]


def columns(rows: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for field in PLACEMENTS_SCHEMA:
        if field.type == pa.uuid():
            found[field.name] = random.integers(0, 2**64, (2, rows), dtype=np.uint64)
        elif pa.types.is_string(field.type):
            found[field.name] = random.integers(0, 3, rows, dtype=np.int32)
        elif pa.types.is_floating(field.type):
            found[field.name] = random.random(rows).astype(np.float32)
        else:
            kind = field.type.to_pandas_dtype()
            found[field.name] = random.integers(0, np.iinfo(kind).max, rows, dtype=kind, endpoint=True)
    return found


def arrays(found: dict[str, Any], part: slice = slice(None)) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in PLACEMENTS_SCHEMA:
        values = found[field.name]
        if field.type == pa.uuid():
            made[field.name] = uuids(values[0, part], values[1, part])
        elif pa.types.is_string(field.type):
            made[field.name] = pa.DictionaryArray.from_arrays(values[part], NAMES)
        else:
            made[field.name] = values[part]
    return made


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """By Arrow and by DuckDB, which knows less of Parquet."""
    found = columns(1000)
    path = tmp_path / "t.parquet"
    with TableWriter(path, PLACEMENTS_SCHEMA, sorted_by=["pack"]) as writer:
        writer.write(arrays(found))
    table = pq.read_table(path)
    assert table.schema.equals(PLACEMENTS_SCHEMA)
    with duckdb.connect() as db:
        read = {"arrow": table, "duckdb": db.read_parquet(str(path)).to_arrow_table()}
    for name, other in read.items():
        assert other["source"].cast(pa.string()).to_pylist() == [NAMES[i] for i in found["source"]]
        for column in ("id", "content"):
            expected = [int(hi) << 64 | int(lo) for hi, lo in found[column].T]
            assert [UUID(str(value)).int for value in other[column].to_pylist()] == expected, name
        for column in set(table.column_names) - {"source", "id", "content"}:
            assert (other[column].to_numpy() == found[column]).all(), (name, column)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 150), max_size=8), st.booleans())
def test_pieces_leave_no_trace(cuts: list[int], names_first: bool) -> None:
    found = columns(150)

    def written(bounds: list[int]) -> bytes:
        sink = pa.BufferOutputStream()
        with TableWriter(sink, PLACEMENTS_SCHEMA, sorted_by=["pack"]) as writer:  # type: ignore[arg-type]
            for start, end in pairwise(bounds):
                writer.write(arrays(found, slice(start, end)))
        return bytes(sink.getvalue())

    rows = write.ROW_GROUP
    try:
        write.ROW_GROUP = 32
        assert written([0, *sorted(cuts), 150]) == written([0, 150])
    finally:
        write.ROW_GROUP = rows


def test_ids_by_halves() -> None:
    hi, lo = np.array([1, 2**64 - 1], np.uint64), np.array([5, 0], np.uint64)
    assert [value.bytes for value in uuids(hi, lo).to_pylist()] == [join_ids(hi, lo)[:16], join_ids(hi, lo)[16:]]
    assert len(uuids(hi[:0], lo[:0])) == 0


def test_a_failure_leaves_a_closed_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        TableWriter(tmp_path / "t.parquet", pa.schema([("n", pa.uint32())])) as writer,
    ):
        writer.write({"n": np.arange(3, dtype=np.uint32)})
        raise ZeroDivisionError
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 0
