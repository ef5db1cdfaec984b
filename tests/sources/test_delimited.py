from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.sources.formats.delimited import rows
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow
from mixc.sources.sample import Reject

VALUES = st.text(st.characters(codec="utf-8"), max_size=12)


def write(folder: Path, data: bytes, name: str = "a.csv") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def told(path: str, format: str = "csv") -> list[object]:
    return [dict(row.values) if isinstance(row, RawRow) else row.reason for row in rows(path, format)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    table=st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=8),
    delimiter=st.sampled_from(",\t"),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_comes_back_and_empty_is_null(table, delimiter: str, ends: str, tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b, é"], *table])
    format = "csv" if delimiter == "," else "tsv"
    path = write(tmp_path, text.getvalue().encode(), f"a.{format}")
    assert told(path, format) == [{"a": a or None, "b, é": b or None} for a, b in table]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=8), at=st.integers(0, 8))
def test_a_row_reads_the_same_however_files_are_split(table, at: int, tmp_path: Path) -> None:
    def written(rows: list[list[str]]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
        return write(tmp_path, text.getvalue().encode())

    assert told(written(table)) == told(written(table[:at])) + told(written(table[at:]))


def test_compressed_and_cut_streams(tmp_path: Path) -> None:
    data = b"text\n" + b"".join(b"row %d\n" % i for i in range(20_000))
    assert told(write(tmp_path, gzip.compress(data)), "csv.gz") == told(write(tmp_path, data))
    packed = zstandard.compress(data)
    assert len(told(write(tmp_path, packed), "csv.zst")) == 20_000
    cut = told(write(tmp_path, gzip.compress(data)[:-2000]), "csv.gz")
    assert (
        0 < len(cut) < 20_000
        and cut[-1] == "broken_row"
        and cut[:-1] == [{"text": f"row {i}"} for i in range(len(cut) - 1)]
    )


def test_broken_rows_are_rejects_and_the_next_line_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbfa,b\n1,2\n1\n1,2,3\n"x"y,2\n\n"two\nlines",4\n5,"open\n')
    assert told(path) == [
        {"a": "1", "b": "2"},
        *["broken_row"] * 3,
        {"a": "two\nlines", "b": "4"},
        "broken_row",
    ]
    details = [row.detail for row in rows(path, "csv") if isinstance(row, Reject)]
    assert details[:2] == ["line 3 has 1 fields, the header 2", "line 4 has 3 fields, the header 2"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    table=st.lists(st.tuples(st.text("xyé ", min_size=1, max_size=6), st.text("12", max_size=3)), max_size=12),
    at=st.integers(0, 12),
    broken=st.sampled_from(['"stray', 'a,"open', '"x"y,b', "one", "1,2,3", 'a,"b" c']),
)
def test_a_broken_line_costs_no_other_row(table, at: int, broken: str, tmp_path: Path) -> None:
    """Where the others have no quotes; one that has may close the open one, which nobody can tell."""
    lines = [f"{a},{b}" for a, b in table]
    lines.insert(min(at, len(lines)), broken)
    found = told(write(tmp_path, "\n".join(["a,b", *lines, ""]).encode()))
    assert [row for row in found if row != "broken_row"] == [{"a": a, "b": b or None} for a, b in table]
    assert found.count("broken_row") == 1


def test_an_open_quote_costs_one_row_however_long_the_file(tmp_path: Path) -> None:
    good = b"".join(b"text %d,1\n" % i for i in range(50_000))
    found = told(write(tmp_path, b"a,b\n" + good + b'"stray,1\n' + good + b'late,"quoted"\n'))
    assert len(found) == 100_002 and found.count("broken_row") == 1
    assert found[-1] == {"a": "late", "b": "quoted"}


def test_what_is_read_twice_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixc.sources.formats.delimited.RETRY_LIMIT", 1000)
    path = write(tmp_path, b'a\n"open\n' + b"".join(b"row %d\n" % i for i in range(1000)))
    (broken,) = rows(path, "csv")
    assert isinstance(broken, Reject) and "nothing after it can be read" in broken.detail


def test_a_field_may_be_long_but_not_endless(tmp_path: Path) -> None:
    long = b"x" * 1_000_000
    assert told(write(tmp_path, b"a\n" + long + b"\n")) == [{"a": long.decode()}]
    endless = b'a,b\n"' + (b"x" * 1023 + b"\n") * (ROW_BYTES_LIMIT // 1024 + 10)
    first = next(iter(rows(write(tmp_path, endless), "csv")))
    assert isinstance(first, Reject) and "longer than 32 MiB" in first.detail


def test_bytes_that_are_not_utf8_and_nul_are_the_rows_own(tmp_path: Path, rows_of, outcome) -> None:
    write(tmp_path, b"text\ngood\n\xff\nnu\x00l\n", "rows.csv")
    assert outcome(rows_of("rows.csv")) == ["good", "not_utf8", "nu\0l"]


@pytest.mark.parametrize("data", [b"a,a\n1,2\n", b"\n\n", b'"a\n', b"a\rb\r"])
def test_a_header_that_cannot_be_used(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        list(rows(write(tmp_path, data), "csv"))


def test_a_column_that_is_absent_names_those_that_are_there(tmp_path: Path, rows_of) -> None:
    write(tmp_path, b"txt\nx\n", "rows.csv")
    with pytest.raises(SourceError) as error:
        rows_of("rows.csv")
    assert "txt" in error.value.why and error.value.mend == "set `text: txt`"
