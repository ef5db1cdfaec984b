"""Reading a fragment whole: the same samples whatever the format, row numbers, and missing columns."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixc.errors import SourceError
from mixc.sources import read as read_module
from mixc.sources.read import columns, read
from mixc.sources.sample import Reject, Sample
from mixc.spec.schema import Source


def test_the_same_rows_in_every_format_are_the_same_samples(tmp_path: Path, png, tar, jsonl, rows_of) -> None:
    images = [png(level) for level in (0, 90, 200)]
    rows = [{"image": f"{index}.png", "text": f"Grau {index} ⬛", "level": index / 4} for index in range(3)]
    for index, image in enumerate(images):
        (tmp_path / f"{index}.png").write_bytes(image)
    jsonl(rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "paths.parquet")
    inside = [row | {"image": {"bytes": image, "path": None}} for row, image in zip(rows, images, strict=True)]
    pq.write_table(pa.Table.from_pylist(inside), tmp_path / "bytes.parquet")
    members: list[tuple[str, bytes]] = []
    for index, image in enumerate(images):
        members += [(f"{index}.png", image), (f"{index}.txt", rows[index]["text"].encode())]  # type: ignore[attr-defined]
        members += [(f"{index}.json", json.dumps({"level": index / 4}).encode())]
    tar(members)
    first, *others = [
        rows_of(name, "caption") for name in ("rows.jsonl", "rows.json", "paths.parquet", "bytes.parquet", "rows.tar")
    ]
    assert [row.images for row in first] == [(image,) for image in images]
    assert [row.columns for row in first] == [{"level": index / 4} for index in range(3)]
    assert all(other == first for other in others)


def test_rejects_keep_their_row_numbers(tmp_path: Path, jsonl, rows_of) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "zero.png").write_bytes(b"")
    named = ["a.png", "gone.png", "a.png", "../a.png", "zero.png", 7, None, "a.png"]
    jsonl([{"image": image, "text": str(index)} for index, image in enumerate(named)])
    rows = rows_of("rows.jsonl", "caption")
    assert [row.row for row in rows] == list(range(8))
    assert [row.reason if isinstance(row, Reject) else "" for row in rows] == [
        "",
        "image_missing",
        "",
        "path_escape",
        "image_empty",
        "wrong_type",
        "missing_value",
        "",
    ]


@pytest.mark.parametrize(
    ("kind", "fields", "row", "mend"),
    [
        ("text", {"text": "body"}, {"boddy": "t"}, "set `text: boddy`"),
        ("text", {}, {"q": "t"}, "set `text:` to the column"),
        ("caption", {"image": "img"}, {"text": "t", "image": "a.png"}, "set `image: image`"),
        ("chat", {}, {"conversation": []}, "set `messages: conversation`"),
        ("chat", {"messages": "dialog"}, {"dialogue": []}, "set `messages: dialogue`"),
    ],
)
def test_a_column_that_no_row_has(
    jsonl, rows_of, kind: str, fields: dict[str, Any], row: dict[str, Any], mend: str
) -> None:
    path = jsonl([row, row])
    with pytest.raises(SourceError) as error:
        rows_of("rows.jsonl", kind, **fields)
    assert error.value.where == str(path) and mend in error.value.mend
    assert ", ".join(sorted(row)) in error.value.why


def test_a_column_that_one_row_has_is_enough(jsonl, rows_of, outcome) -> None:
    jsonl([{"x": 1}, {"text": "t"}, {"x": 2}])
    assert outcome(rows_of("rows.jsonl")) == ["missing_value", "t", "missing_value"]


def test_a_file_whose_rows_are_all_broken_is_rejects(tmp_path: Path, rows_of, outcome) -> None:
    (tmp_path / "a.jsonl").write_text("{\n{\n")
    assert outcome(rows_of("a.jsonl")) == ["broken_row", "broken_row"]


def test_too_many_columns(jsonl, rows_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_module, "COLUMNS_LIMIT", 10)
    jsonl([{"text": "t", f"key {index}": 1} for index in range(20)])
    with pytest.raises(SourceError, match="more than 10 different columns"):
        rows_of("rows.jsonl")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, -2, None], "int64"),
        ([1, 1 << 63], "uint64"),
        ([-1, 1 << 63], "double"),
        ([1, 2.5], "double"),
        ([True, False], "bool"),
        ([True, 1], "string"),
        (["a", 1], "string"),
        ([None, None], "null"),
    ],
)
def test_column_types(jsonl, fragments, values: list[Any], kind: str) -> None:
    jsonl([{"text": "t", "v": value, "nested": {}} for value in values] + [{"text": "t"}])
    [fragment] = fragments("rows.jsonl")
    assert columns(fragment, Source(path="x", kind="text")) == {"v": kind}


def test_columns_are_cheap(jsonl, fragments) -> None:
    path = jsonl({"text": "t", "n": index} for index in range(5000))
    [fragment] = fragments("rows.jsonl")
    path.write_bytes(path.read_bytes()[:40_000] + b"\n\xff\xff")  # only rows that are not looked at are broken
    assert columns(fragment, Source(path="x", kind="text")) == {"n": "int64"}


def test_reading_streams(jsonl, fragments) -> None:
    path = jsonl([{"text": "t"}] * 10)
    [fragment] = fragments("rows.jsonl")
    rows = read(fragment, Source(path="x", kind="text"))
    assert isinstance(next(rows), Sample)
    rows.close()  # type: ignore[attr-defined]
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        list(read(fragment, Source(path="x", kind="text")))


def test_an_image_in_base64_is_a_reject_that_does_not_flood(jsonl, fragments, rows_of) -> None:
    jsonl([{"text": "t", "image": base64.b64encode(bytes(100_000)).decode()}])
    [row] = rows_of("rows.jsonl", "caption")
    assert row.reason == "image_missing" and len(row.detail) < 200


def test_hostile_data_in_messages_is_valid_utf8(jsonl, rows_of) -> None:
    jsonl([{"text": "t", "image": "../\ud800\n" + "x" * 500}, {"text": "t", "image": "../\x1b[31m" + "y" * 500}])
    for row in rows_of("rows.jsonl", "caption"):
        assert row.detail.encode() and "\n" not in row.detail and "\x1b" not in row.detail
