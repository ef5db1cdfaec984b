"""Parquet: the columns that are used, every way to hold an image, and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.sources.formats import parquet
from mixc.sources.raw import RawRow
from mixc.sources.read import columns
from mixc.sources.sample import Reject, Sample
from mixc.spec.schema import Source

TEXT = Source(path="x", kind="text")


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    "image",
    [
        pa.array([b"one", b"two"]),
        pa.array([b"one", b"two"], pa.large_binary()),
        pa.array([{"bytes": b"one", "path": "x"}, {"bytes": b"two", "path": None}]),
        pa.array(["one.png", "two.png"]),
        pa.array([{"bytes": None, "path": "one.png"}, {"bytes": b"two", "path": "one.png"}]),
        pa.array([[b"one"], [b"two"]]),
        pa.array([["one.png"], ["two.png"]]),
        pa.array([[{"bytes": b"one", "path": None}], [{"bytes": None, "path": "two.png"}]]),
    ],
    ids=lambda array: str(array.type),
)
def test_every_way_to_hold_an_image(tmp_path: Path, rows_of, image: pa.Array) -> None:
    (tmp_path / "one.png").write_bytes(b"one")
    (tmp_path / "two.png").write_bytes(b"two")
    write(tmp_path / "a.parquet", {"image": image, "text": ["a", "b"]})
    assert [row.images for row in rows_of("a.parquet", "caption")] == [(b"one",), (b"two",)]


def test_several_images_and_none(tmp_path: Path, rows_of, outcome) -> None:
    chat = [[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]] * 4
    image = pa.array([[b"1", b"2"], [], None, [b"1", b""]])
    write(tmp_path / "a.parquet", {"image": image, "conversations": chat})
    rows = rows_of("a.parquet", "chat")
    assert outcome(rows) == ["a", "a", "a", "image_empty"]
    assert [len(row.images) for row in rows[:3]] == [2, 0, 0]
    assert rows[0].turns[0].text == "<image>\n<image>\nq"


def test_a_struct_of_nulls_is_no_image(tmp_path: Path, rows_of, outcome) -> None:
    chat = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]
    write(tmp_path / "a.parquet", {"image": pa.array([{"bytes": None, "path": None}]), "messages": chat})
    assert outcome(rows_of("a.parquet", "chat")) == ["a"]


def test_columns_and_their_types(tmp_path: Path, fragments, rows_of) -> None:
    import datetime

    write(
        tmp_path / "a.parquet",
        {
            "text": ["t"],
            "small": pa.array([3], pa.int8()),
            "big": pa.array([(1 << 64) - 1], pa.uint64()),
            "single": pa.array([0.1], pa.float32()),
            "nan": [float("nan")],
            "flag": [True],
            "category": pa.array(["c"]).dictionary_encode(),
            "none": pa.array([None]),
            "long": ["x" * 5000],
            "when": [datetime.datetime(2024, 1, 1)],
            "nested": [{"a": 1}],
            "raw": [b"bytes"],
            "a.b": [1],
        },
    )
    [fragment] = fragments("a.parquet")
    assert columns(fragment, TEXT) == {
        "a.b": "int64",
        "big": "uint64",
        "category": "string",
        "flag": "bool",
        "long": "string",
        "nan": "double",
        "none": "null",
        "single": "double",
        "small": "int64",
    }
    [row] = rows_of("a.parquet")
    assert row.columns == {
        "a.b": 1,
        "big": (1 << 64) - 1,
        "category": "c",
        "flag": True,
        "nan": None,
        "none": None,
        "single": 0.10000000149011612,
        "small": 3,
    }


def test_rows_are_numbered_over_row_groups_and_batches(tmp_path: Path, rows_of, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 7)
    write(tmp_path / "a.parquet", {"text": [f"t{index}" for index in range(100)]}, row_group_size=30)
    assert [(row.row, row.text) for row in rows_of("a.parquet")] == [(index, f"t{index}") for index in range(100)]


def test_a_damaged_row_group_is_counted_and_the_next_is_read(tmp_path: Path, rows_of) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"text": [f"row {index} " * 9 for index in range(1000)]},
        row_group_size=250,
        write_page_checksum=True,
        compression="none",  # so that nothing but the checksum can tell
        use_dictionary=False,
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(data)
    rows = rows_of("a.parquet")
    assert [row.row for row in rows] == list(range(1000))
    assert {row.row for row in rows if isinstance(row, Reject)} == set(range(250, 500))
    assert rows[250].reason == "broken_row" and "row group 1" in rows[250].detail


def test_text_that_is_not_utf8_is_one_row(tmp_path: Path, rows_of, outcome) -> None:
    raw = pa.array([b"good", b"\xff\xfe", b"fine"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    write(tmp_path / "a.parquet", {"text": text})
    assert outcome(rows_of("a.parquet")) == ["good", "not_utf8", "fine"]


@pytest.mark.parametrize("cut", [0, 2, 7, 100, -1, -4, -9])
def test_cut_or_not_parquet(tmp_path: Path, rows_of, cut: int) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["t"] * 100})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError) as error:
        rows_of("a.parquet")
    assert str(path) in error.value.where and error.value.mend


def test_a_footer_of_rubbish(tmp_path: Path, rows_of) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(range(200)) + (190).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(SourceError, match="not Parquet"):
        rows_of("a.parquet")


@pytest.mark.parametrize("position", range(4, 400, 23))
def test_a_flipped_byte_never_crashes(tmp_path: Path, rows_of, position: int) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["some text"] * 20, "n": list(range(20))})
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 0x55
    path.write_bytes(data)
    try:
        rows = rows_of("a.parquet")
    except SourceError:
        return
    assert all(isinstance(row, Sample | Reject) for row in rows)


def test_a_missing_column_names_the_real_ones(tmp_path: Path, rows_of, fragments) -> None:
    write(tmp_path / "a.parquet", {"captions": ["t"], "image": [b"i"]})
    with pytest.raises(SourceError) as error:
        rows_of("a.parquet", "caption", text="caption")
    assert "captions, image" in error.value.why and "`text: captions`" in error.value.mend
    [fragment] = fragments("a.parquet", "caption", text="caption")
    with pytest.raises(SourceError, match="'caption'"):
        columns(fragment, Source(path="x", kind="caption", text="caption"))


def test_two_columns_of_one_name(tmp_path: Path, rows_of) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="two columns"):
        rows_of("a.parquet")


@pytest.mark.parametrize(
    "wrong",
    [
        pa.array([1]),
        pa.array([1.5]),
        pa.array([True]),
        pa.array([b"bytes"]),
        pa.array([["a"]]),
        pa.array([{"a": "b"}]),
        pa.array([None]),
        pa.array([{"a": 1}]).cast(pa.struct([("a", pa.int64())])),
        pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
        pa.array([2**62], pa.timestamp("ms")),  # beyond what Python's datetime holds
    ],
    ids=lambda array: str(array.type),
)
@pytest.mark.parametrize("kind", ["text", "caption", "chat"])
def test_wrong_types_everywhere_are_rejects(tmp_path: Path, rows_of, kind: str, wrong: pa.Array) -> None:
    good_text, good_image = pa.array(["t"]), pa.array([b"i"])
    good_chat = pa.array([[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]])
    for place in ("text", "image", "messages"):
        table = {"text": good_text, "image": good_image, "messages": good_chat} | {place: wrong}
        write(tmp_path / "a.parquet", table)
        [row] = rows_of("a.parquet", kind)
        used = place in {"text": ("text",), "caption": ("text", "image"), "chat": ("image", "messages")}[kind]
        bytes_are_images = place == "image" and pa.types.is_binary(wrong.type)
        no_image = kind == "chat" and place == "image" and wrong.null_count
        assert isinstance(row, Reject) == (used and not bytes_are_images and not no_image)


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.floats() | st.integers(-9, 9)), max_size=20))
def test_values_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("p") / "a.parquet"
    numbers = [None if number is None else float(number) for _, number in rows]
    texts = [text.encode("utf-8", "replace").decode() for text, _ in rows]
    write(path, {"text": pa.array(texts, pa.string()), "n": pa.array(numbers, pa.float64())})
    got = [row for row in parquet.rows(str(path), TEXT) if isinstance(row, RawRow)]
    assert [row.values["text"] for row in got] == texts
    assert [repr(row.values["n"]) for row in got] == [repr(number) for number in numbers]
