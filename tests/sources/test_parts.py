"""A file read in parts gives the rows of the file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.sources.formats import jsonl, parquet
from mixc.sources.parts import LineParts, row_group_parts
from mixc.spec.schema import Source

LINES = [b'{"text": "a"}', b'{"text": "' + b"long " * 40 + b'"}', b"broken", b"", b"  \t", b"\xff", b"[1]", b"\r"]


@settings(max_examples=300)
@given(
    lines=st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r\n"])), max_size=40),
    start=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    end=st.sampled_from([b"", b'{"text": "no line end"}', b"  "]),
    part_bytes=st.integers(1, 400),
    chunk=st.integers(1, 300),
)
def test_lines_in_parts_are_the_lines(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[bytes, bytes]],
    start: bytes,
    end: bytes,
    part_bytes: int,
    chunk: int,
) -> None:
    data = start + b"".join(a + b for a, b in lines) + end
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(data)
    found = LineParts(len(data), part_bytes=part_bytes)
    for at in range(0, len(data), chunk):
        found.feed(data[at : at + chunk])
    parts = found.parts()
    if len(data) < 2 * part_bytes:
        assert not parts
    if not parts:
        return
    assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
    assert parts[-1].last == len(data)
    whole = list(jsonl.rows(str(path), "jsonl"))
    assert [row for part in parts for row in jsonl.rows(str(path), "jsonl", part)] == whole


def test_a_large_file_has_parts_of_like_size() -> None:
    line = b"x" * 99 + b"\n"
    found = LineParts(100_000, part_bytes=1000)
    for _ in range(1000):
        found.feed(line)
    sizes = [part.last - part.first for part in found.parts()]
    assert len(sizes) == 100 and sum(sizes) == 100_000
    assert {size // 100 for size in sizes} <= {9, 10, 11}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 3000))
def test_row_groups_in_parts_are_the_rows(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], part_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("groups") / "a.parquet"
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for number, rows in enumerate(groups):
            writer.write_table(pa.table({"text": [f"{number} {row}" for row in range(rows)]}, schema))
    with pq.ParquetFile(path) as file:
        parts = row_group_parts(file, part_bytes=part_bytes)
    source = Source(path=str(path), kind="text")
    whole = list(parquet.rows(str(path), source))
    assert len(whole) == sum(groups)
    if parts:
        assert [row for part in parts for row in parquet.rows(str(path), source, part)] == whole
    else:
        assert len(groups) == 1 or part_bytes > 30
