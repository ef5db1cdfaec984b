"""A file read in parts gives the rows of the file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.sources.formats import jsonl, parquet
from mixc.sources.parts import LineParts, Piece, row_group_pieces
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
    found = LineParts(part_bytes=part_bytes)
    for at in range(0, len(data), chunk):
        found.update(data[at : at + chunk])
    pieces = found.pieces()
    assert sum(piece.bytes for piece in pieces) == len(data)
    if len(pieces) == 1:
        assert pieces == [Piece(None, blake3(data).hexdigest(), len(data))]
        assert data.find(b"\n", part_bytes - 1) in (-1, len(data) - 1)
        return
    parts = [piece.part for piece in pieces]
    assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
    for part in parts[1:]:
        # no line end lies between the multiple at or before it and it
        multiple = part.first // part_bytes * part_bytes
        assert data.find(b"\n", multiple - 1) + 1 == part.first
    whole = list(jsonl.rows(str(path), "jsonl"))
    assert [row for part in parts for row in jsonl.rows(str(path), "jsonl", part)] == whole
    for row in whole:
        number = found.number(row.row)
        assert row in list(jsonl.rows(str(path), "jsonl", parts[number]))


def test_a_part_is_known_by_what_it_holds_and_where_its_rows_begin() -> None:
    line = b"x" * 99 + b"\n"

    def digests(data: bytes) -> list[str]:
        found = LineParts(part_bytes=1000)
        found.update(data)
        return [piece.digest for piece in found.pieces()]

    before = digests(line * 1005)
    assert len(set(before)) == 101
    assert digests(line * 1006)[:100] == before[:100]  # appended to
    assert digests(b"\n" + line * 1005)[0] != before[0]
    assert not set(digests(b"y" * 99 + b"\n" + line * 1004)[1:]) ^ set(before[1:])
    assert not set(digests(b" " * 99 + b"\n" + line * 1004)) & set(before)  # each row has another number
    first = blake3(b"mixc part 1\0" + (0).to_bytes(8, "little") + (1).to_bytes(8, "little"))
    first.update(blake3(line * 10).digest())
    assert before[0] == first.hexdigest()


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
        pieces = row_group_pieces(file, blake3(path.read_bytes()).hexdigest(), 7, part_bytes=part_bytes)
    source = Source(path=str(path), kind="text")
    whole = list(parquet.rows(str(path), source))
    assert len(whole) == sum(groups)
    assert len({piece.digest for piece in pieces}) == len(pieces)
    if len(pieces) > 1:
        assert [row for piece in pieces for row in parquet.rows(str(path), source, piece.part)] == whole
    else:
        assert pieces == [Piece(None, blake3(path.read_bytes()).hexdigest(), 7)]
        assert len(groups) == 1 or part_bytes > 30
