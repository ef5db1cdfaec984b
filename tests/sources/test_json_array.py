"""JSON lists, read an object at a time."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.sources.formats import json_array
from mixc.sources.raw import RawRow
from mixc.sources.sample import Reject

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def read(path: Path) -> list[RawRow | Reject]:
    return list(json_array.rows(str(path)))


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=12),
    indent=st.sampled_from([None, 0, 3]),
    ascii=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_it_is_what_json_says_whatever_the_window(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], indent: int | None, ascii: bool, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK", chunk)
        got = read(path)
    assert [row.values for row in got if isinstance(row, RawRow)] == rows or not text.isascii()
    assert [row.row for row in got] == list(range(len(rows)))


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=1, max_size=8), st.data())
def test_cut_anywhere_it_keeps_whole_rows_and_adds_one_reject(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], data: st.DataObject
) -> None:
    text = json.dumps(rows)
    cut = data.draw(st.integers(1, len(text) - 1))
    path = tmp_path_factory.mktemp("j") / "a.json"
    path.write_text(text[:cut])
    *kept, last = read(path)
    assert [row.values for row in kept] == rows[: len(kept)]  # type: ignore[union-attr]
    assert isinstance(last, Reject) and last.reason == "broken_row" and "truncated" in last.detail


def test_a_broken_object_is_named_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n  {"a": 1},\n  {"a" 2},\n  {"a": 3}\n]')
    with pytest.raises(SourceError) as error:
        read(path)
    assert error.value.where == f"{path}:3:8"
    assert "row 1" in error.value.what and "':'" in error.value.why


def test_a_broken_object_far_into_a_large_file_is_placed_exactly(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 64)
    path = tmp_path / "a.json"
    path.write_text("[\n" + '{"text": "abcdefghij"},\n' * 500 + '{"text": oops}\n]')
    with pytest.raises(SourceError) as error:
        read(path)
    assert error.value.where == f"{path}:502:10"


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        ('{"a": 1}\n{"a": 2}\n', "format: jsonl"),
        ('{"data": [{"a": 1}]}', "keep the list alone"),
        ('"text"', "list of objects"),
        ("\ufeff  \n", "empty"),
    ],
)
def test_not_a_list(tmp_path: Path, content: str, mend: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(SourceError) as error:
        read(tmp_path / "a.json")
    assert mend in error.value.mend


@pytest.mark.parametrize("tail", [" x", "[1]", ",{}"])
def test_text_after_the_list(tmp_path: Path, tail: str) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}]' + tail)
    with pytest.raises(SourceError, match="after the list"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content", ['[{"a": 1} {"a": 2}]', '[{"a": 1},]', "[,]", '[{"a": 1}}', '[{"a": 1' + "0" * 5000 + "}]"]
)
def test_other_broken_lists(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SourceError):
        read(tmp_path / "a.json")


def test_bom_bad_utf8_and_elements_that_are_no_objects(tmp_path: Path, rows_of, outcome) -> None:
    (tmp_path / "a.json").write_bytes(
        b'\xef\xbb\xbf[{"text": "a"}, 3, {"text": "\xff"}, {"text": "\\udc00"}, {"text": "b"}]\r\n'
    )
    assert outcome(rows_of("a.json")) == ["a", "wrong_type", "not_utf8", "not_utf8", "b"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[" + ",".join(['{"text": "%s"}' % ("x" * 1000)] * 30_000) + "]")  # 30 MB
    tracemalloc.start()
    count = sum(1 for _ in json_array.rows(str(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000
    assert peak < 12 << 20
