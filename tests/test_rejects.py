"""Unusable rows are named as people look for them, and no more of them are read than are named."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mixc.rejects import EXAMPLES, Rejected, few, few_of, lines, of_head
from mixc.sources.head import head
from mixc.spec.schema import Source


def named(tmp_path: Path, **keys: object) -> list[str]:
    source = Source(**{"kind": "caption", **keys})
    return list(map(str, of_head("s", head("s", source, tmp_path), source, tmp_path)))


def picture(path: Path) -> None:
    Image.new("RGB", (40, 30), (9, 9, 9)).save(path)


def test_a_picture_of_a_folder_is_named_by_its_own_file(tmp_path: Path) -> None:
    folder = tmp_path / "pics/2024"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c", "d"):
        picture(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}")
    assert named(tmp_path, path="pics", format="imagefolder") == []
    (folder / "b.txt").unlink()
    (folder / "c.txt").write_text(" \n")
    (folder / "d.png").write_bytes(b"no image")
    (folder / "e.jpg").write_bytes(b"")
    (folder / "e.txt").write_text("nothing at all")
    assert named(tmp_path, path="pics", format="imagefolder") == [
        "pics/2024/b.png: no caption: b.txt is missing",
        "pics/2024/c.png: no caption: c.txt is empty",
        "pics/2024/d.png: not an image that can be decoded: no known image format",
        "pics/2024/e.jpg: an image of no bytes: 'e.jpg' has zero bytes",
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_row_of_a_file_of_lines_is_named_by_its_line(tmp_path: Path, packed: bool) -> None:
    text = '{"text": "a"}\n\n{"text": null}\n[1]\n{"text"\n{"text": "\xff"}\n'
    data = text.encode("latin-1")
    name = "x.jsonl.gz" if packed else "x.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    assert named(tmp_path, path=name, kind="text") == [
        f"{name} line 3: column 'text' is null",
        f"{name} line 4: it is list, not an object",
        f"{name} line 5: not JSON: Expecting ':' delimiter at character 8",
        f"{name} line 6: text that is not UTF-8: byte 11: invalid start byte",
    ]


def test_a_row_of_a_table_of_text_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('text,n\n"two\nlines",1\n,2\na,b,c\n')
    assert named(tmp_path, path="x.csv", kind="text") == [
        "x.csv line 4: column 'text' is null",
        "x.csv line 5: it has 3 fields, the header 2",
    ]


def test_a_sample_of_a_tar_is_named_by_its_key_and_others_by_their_row(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in (("a/001.txt", b"words"), ("a/002.txt", b" ")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert named(tmp_path, path="x.tar", kind="text") == ["x.tar sample a/002: column 'txt' is empty"]
    (tmp_path / "x.json").write_text('[{"text": "a"}, {"text": 3}]')
    assert named(tmp_path, path="x.json", kind="text") == ["x.json row 2: column 'text' is int, not text"]


def test_what_a_name_holds_is_safe_for_a_terminal(tmp_path: Path) -> None:
    picture(tmp_path / "a\x1b[31m.png")
    assert named(tmp_path, path=".", format="imagefolder") == ["'./a\\x1b[31m.png': no caption: a�[31m.txt is missing"]


rows = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["broken_row", "image_bomb"])), max_size=30)


@given(rows)
def test_a_few_of_each_source_and_reason_and_no_more_are_read(each: list[tuple[str, str]]) -> None:
    found = [
        Rejected(source=source, reason=reason, where=f"x row {n}", why="") for n, (source, reason) in enumerate(each)
    ]
    counts = Counter(each)
    told = few_of(found)
    assert Counter((one.source, one.reason) for one in told.examples) == {
        key: min(count, EXAMPLES) for key, count in counts.items()
    }
    assert told.examples == [one for one in found if one in told.examples]  # in the order in which they came
    assert len(told.examples) + told.more == len(found)
    assert any("more: elsewhere" in line for line in lines(told, "elsewhere")) == bool(told.more)

    def until_enough():
        yield from found[: 1 + max(map(found.index, told.examples), default=-1)]
        raise AssertionError("more was read than is needed")

    assert few(until_enough(), dict(counts)) == told
