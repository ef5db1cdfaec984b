from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mixc.errors import SourceError
from mixc.sources.sample import Reject


def save(folder: Path, table: pa.Table) -> Path:
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder / "data-00000-of-00001.arrow"


def test_what_datasets_itself_saves(tmp_path: Path, rows_of, outcome, png) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "n": datasets.Value("int32")}
    )
    data = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": png(i), "path": None} for i in range(6)],
            "text": [f"t{i}" for i in range(6)],
            "n": list(range(6)),
        },
        features=features,
    )
    data.save_to_disk(str(tmp_path / "hf"), num_shards=2)
    rows = rows_of("hf", "caption", format="huggingface")
    assert sorted(outcome(rows)) == [f"t{i}" for i in range(6)]
    assert {row.turns[-1].text: (row.images, row.columns) for row in rows}["t3"] == ((png(3),), {"n": 3})
    datasets.DatasetDict(train=data).save_to_disk(str(tmp_path / "one"))
    assert len(rows_of("one", "caption", format="huggingface")) == 6
    datasets.DatasetDict(test=data, train=data).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(SourceError) as error:
        rows_of("two", "caption", format="huggingface")
    assert error.value.why == "test, train" and error.value.mend.endswith("two/train")


def test_a_stream_cut_anywhere_keeps_whole_batches(tmp_path: Path, rows_of, outcome) -> None:
    path = save(tmp_path / "hf", pa.table({"text": [f"t{i}" for i in range(6)]}))
    whole = path.read_bytes()
    for size in range(500, len(whole) - 9, 7):
        path.write_bytes(whole[:size])
        try:
            got = outcome(rows_of("hf", format="huggingface"))
        except SourceError as error:
            assert "Arrow" in error.what
        else:
            assert got[:-1] == [f"t{i}" for i in range(len(got) - 1)] and got[-1] in ("broken_row", "t5", "t1", "t3")


def test_damaged_offsets_and_bytes_that_are_not_utf8(tmp_path: Path, rows_of, outcome) -> None:
    text = pa.array([b"good", b"\xff"], pa.binary()).view(pa.string())
    save(tmp_path / "a", pa.table({"text": text}))
    assert outcome(rows_of("a", format="huggingface")) == ["good", "not_utf8"]
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1 << 30, 4)))
    wild = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcd")])
    save(tmp_path / "b", pa.table({"text": wild}))
    assert outcome(rows_of("b", format="huggingface")) == ["broken_row"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"_data_files": [{"filename": "../x.arrow"}]}, "no file of this folder"),
        ({"_data_files": [{"filename": "/etc/passwd"}]}, "no file of this folder"),
        ({"_data_files": []}, "has no files"),
        ({"_data_files": 3}, "not what `save_to_disk` writes"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "cannot be read"),
        ({"_data_files": [{"filename": "a"}], "_indices_files": [{"filename": "i"}]}, "selection by indices"),
    ],
)
def test_a_state_that_is_wrong(state: object, words: str, tmp_path: Path, rows_of) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/state.json").write_text(json.dumps(state))
    with pytest.raises(SourceError, match=words):
        rows_of("hf", format="huggingface")


def test_a_folder_of_parquet_says_how_it_is_read(tmp_path: Path, rows_of) -> None:
    (tmp_path / "hub").mkdir()
    with pytest.raises(SourceError) as error:
        rows_of("hub", format="huggingface")
    assert "*.parquet" in error.value.mend


def test_images_with_texts_beside_them(tmp_path: Path, rows_of, outcome, fragments, png) -> None:
    cats = tmp_path / "pets/cats"
    cats.mkdir(parents=True)
    for i in range(3):
        (cats / f"{i}.png").write_bytes(png(i))
    (cats / "0.txt").write_text("zero")
    (cats / "1.txt").write_bytes(b"\xff")
    (cats / "notes.md").write_text("not ours")
    (tmp_path / "secret.png").write_bytes(png(9))
    rows = rows_of("pets", "caption", format="imagefolder")
    assert outcome(rows) == ["zero", "not_utf8", "missing_value"]
    assert rows[0].images == (png(0),) and rows[0].columns == {"file_name": "0.png", "label": "cats"}
    assert outcome(rows_of("pets", "caption", format="imagefolder", text="label")) == ["cats", "not_utf8", "cats"]
    before = fragments("pets", "caption", format="imagefolder")[0].digest
    (cats / "0.txt").write_text("other")
    after = fragments("pets", "caption", format="imagefolder")[0].digest
    (cats / "1.png").write_bytes(png(7))
    assert len({before, after, fragments("pets", "caption", format="imagefolder")[0].digest}) == 3
    (cats / "4.png").symlink_to(tmp_path / "secret.png")
    rows = rows_of("pets", "caption", format="imagefolder", text="label")
    assert [row.reason for row in rows if isinstance(row, Reject)] == ["not_utf8", "path_escape"]


def test_a_folder_without_images_and_a_file_are_errors(tmp_path: Path, rows_of, jsonl) -> None:
    (tmp_path / "empty").mkdir()
    jsonl([{"text": "x"}])
    for path in ("empty", "rows.jsonl", "nowhere"):
        with pytest.raises(SourceError):
            rows_of(path, "caption", format="imagefolder")
