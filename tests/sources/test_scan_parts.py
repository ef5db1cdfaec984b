"""Large files are scanned as parts, each a fragment of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixc.sources import files, parts
from mixc.sources.files import Stamp
from mixc.sources.fragment import Fragment
from mixc.sources.read import read
from mixc.sources.sample import Reject, Sample
from mixc.sources.scan import scan, unchanged
from mixc.spec.schema import Source

OLD = time.time() - 3600
ROWS = [{"text": f"row {number} " + "x" * 90, "image": f"{number // 10}.png"} for number in range(100)]
SOURCE = {"text": Source(path="a.*", kind="text"), "caption": Source(path="a.*", kind="caption")}


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], None]] = {
    "a.jsonl": write_jsonl,
    "a.parquet": write_parquet,
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 1500)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(len(ROWS) // 10):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG %d" % number)
        os.utime(tmp_path / f"{number}.png", (OLD, OLD))
    return tmp_path


def scanned(folder: Path, kind: str) -> list[Fragment]:
    return scan("s", SOURCE[kind], folder, folder / "cache")


def write(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    WRITERS[name](folder / name, rows)
    os.utime(folder / name, (OLD, OLD))


def rows_of(fragments: list[Fragment], kind: str) -> list[Sample | Reject]:
    return sorted((row for each in fragments for row in read(each, SOURCE[kind])), key=lambda row: row.row)


@pytest.mark.parametrize("kind", SOURCE)
@pytest.mark.parametrize("name", WRITERS)
def test_the_parts_of_a_file_have_its_rows(folder: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, name, ROWS)
    found = scanned(folder, kind)
    assert len(found) > 4
    assert len({each.digest for each in found}) == len(found)
    size = (folder / name).stat().st_size
    if kind == "text":
        assert 0.4 * size < sum(each.bytes for each in found) <= size
    monkeypatch.setattr(parts, "PART_BYTES", 1 << 20)
    [whole] = scan("s", SOURCE[kind], folder, folder / "other cache")
    assert whole.part is None
    assert rows_of(found, kind) == list(read(whole, SOURCE[kind]))


@pytest.mark.parametrize("kind", SOURCE)
@pytest.mark.parametrize("name", WRITERS)
def test_unchanged_parts_are_not_read_again(
    folder: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, name, ROWS)
    found = scanned(folder, kind)

    def refuse(path: str) -> Any:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(files, "open_regular", refuse)
    assert scanned(folder, kind) == found
    assert all(unchanged(each, SOURCE[kind], folder / "cache") for each in found)


def test_lines_that_are_appended_leave_the_parts_before_as_they_are(folder: Path) -> None:
    write(folder, "a.jsonl", ROWS)
    before = scanned(folder, "caption")
    write(folder, "a.jsonl", [*ROWS, *ROWS[:7]])
    after = scanned(folder, "caption")
    assert len({each.digest for each in before} - {each.digest for each in after}) == 1
    kept = [each for each in before if unchanged(each, SOURCE["caption"], folder / "cache")]
    assert len(kept) == len(before) - 1


@pytest.mark.parametrize("name", WRITERS)
def test_a_changed_image_changes_the_parts_that_name_it(folder: Path, name: str) -> None:
    write(folder, name, ROWS)
    before = scanned(folder, "caption")
    (folder / "4.png").write_bytes(b"\x89PNG other")
    after = scanned(folder, "caption")
    changed = {each.part for each in before} - {each.part for each in before if each in after}
    naming = {each.part for each in before for row in read(each, SOURCE["caption"]) if 40 <= row.row < 50}
    assert changed == naming and 0 < len(changed) < len(before) / 2
    for each in before:
        assert unchanged(each, SOURCE["caption"], folder / "cache") == (each.part not in changed)


def test_a_changed_line_is_noticed_in_its_part_alone(folder: Path) -> None:
    write(folder, "a.jsonl", ROWS)
    before = scanned(folder, "text")
    rows = [dict(row) for row in ROWS]
    rows[50]["text"] = rows[50]["text"].replace("x", "y")
    write(folder, "a.jsonl", rows)
    gone = [each for each in before if not unchanged(each, SOURCE["text"], folder / "cache")]
    assert len(gone) == 1
    assert 50 in [row.row for row in read(gone[0], SOURCE["text"])]


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_told_to_be_unchanged_stays_whole(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, name, ROWS)
    stamp = files.stamp
    monkeypatch.setattr(files, "stamp", lambda path: Stamp(stamp(path).size, "", 0))
    [whole] = scanned(folder, "caption")
    assert whole.part is None and len(list(read(whole, SOURCE["caption"]))) == len(ROWS)


def test_names_and_chunks_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "a.jsonl", ROWS)
    before = {each.digest for each in scanned(folder, "text")}
    monkeypatch.setattr(files, "CHUNK", 37)
    (folder / "a.jsonl").rename(folder / "a.b.jsonl")
    assert {each.digest for each in scanned(folder, "text")} == before
