"""A user's mistake is a message with a place and a mend, and exit code 2; a bad row is a reject with a reason."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

SPEC = """\
mixture: small
seed: 1
model: sail-vl-tiny
max_reject_rate: 0.9
sources:
  pictures: {path: pictures.jsonl, kind: caption, text: caption}
  prose: {path: "prose/*.jsonl", kind: text}
stages:
  - name: only
    budget: 1 epoch
    mix: [pictures, prose]
    sequence_length: 2048
    train: {lr: {projector: 1e-3}, batch: 2}
"""


def jpeg(width: int = 60, height: int = 40) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(data, "JPEG")
    return data.getvalue()


def png_header_of(width: int, height: int) -> bytes:
    """A PNG that says it is huge: a decompression bomb needs no more."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (ihdr, body, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "img").mkdir()
    (tmp_path / "prose").mkdir()
    rows = []
    for i in range(4):
        (tmp_path / f"img/{i}.jpg").write_bytes(jpeg(60 + i))
        rows.append({"image": f"img/{i}.jpg", "caption": f"A gradient, {60 + i} pixels wide."})
    (tmp_path / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps({"text": f"Number {i}. " * 20, "quality": i / 10}) for i in range(10)]
    (tmp_path / "prose/a.jsonl").write_text("\n".join(lines))
    return tmp_path


WRONG = {
    "a misspelt key": (
        ("sequence_length:", "sequense_length:"),
        ["spec.yaml:12:5", "sequense_length", "sequence_length"],
    ),
    "a share for no source": (
        ("mix: [pictures, prose]", "mix: {pictures: 0.5, prosa: 0.5}"),
        ["spec.yaml:11", "prosa", "prose"],
    ),
    "a where over no column": (
        ("kind: text}", "kind: text, where: 'qualty > 0.5'}"),
        ["spec.yaml:7", "qualty", "quality"],
    ),
    "a where that reads a file": (
        ("kind: text}", "kind: text, where: \"read_csv('/etc/passwd') is not null\"}"),
        ["spec.yaml:7", "read_csv"],
    ),
    "a where that reads a file in a subquery": (
        ("kind: text}", "kind: text, where: \"exists (from '/etc/passwd')\"}"),
        ["spec.yaml:7"],
    ),
    "a where of two statements": (("kind: text}", "kind: text, where: 'true; drop table samples'}"), ["spec.yaml:7"]),
    "a where of unbalanced brackets": (("kind: text}", "kind: text, where: 'true) or (true'}"), ["spec.yaml:7"]),
    "a where of the wrong type": (("kind: text}", "kind: text, where: \"quality = 'high'\"}"), ["spec.yaml:7"]),
    "a where that keeps nothing": (("kind: text}", "kind: text, where: quality > 5}"), ["prose"]),
    "an empty glob": (("prose/*.jsonl", "prose/*.json"), ["spec.yaml:7", "prose/*.json"]),
    "an unknown model": (("model: sail-vl-tiny", "model: sail-vl-tyni"), ["spec.yaml:3", "sail-vl-tiny"]),
    "a budget in no unit": (("budget: 1 epoch", "budget: 3 apples"), ["spec.yaml:10", "apples"]),
    "a share beyond max_epochs": (("budget: 1 epoch", "budget: 10M tokens"), ["only", "max_epochs"]),
    "no YAML": (("sources:", "sources: ["), ["spec.yaml:"]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", ["plan", "compile"])
def test_a_mistake_in_the_spec(mixc, folder: Path, name: str, command: str) -> None:
    (old, new), told = WRONG[name]
    assert old in SPEC
    (folder / "spec.yaml").write_text(SPEC.replace(old, new))
    arguments = ["-o", folder / "build"] if command == "compile" else []
    done = mixc(command, folder / "spec.yaml", *arguments, "-j", "1", check=2)
    assert "Traceback" not in done.stderr
    for words in told:
        assert words in done.stderr
    assert not (folder / "build").exists()


def test_a_spec_that_is_not_utf8(mixc, folder: Path) -> None:
    (folder / "spec.yaml").write_bytes(SPEC.encode().replace(b"small", b"sm\xe4ll"))
    done = mixc("compile", folder / "spec.yaml", "-o", folder / "build", check=2)
    assert "spec.yaml:1" in done.stderr and "UTF-8" in done.stderr and "Traceback" not in done.stderr


def test_a_spec_that_is_a_yaml_bomb(mixc, folder: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (folder / "spec.yaml").write_text("\n".join(levels))
    done = mixc("compile", folder / "spec.yaml", "-o", folder / "build", check=2)
    assert "Traceback" not in done.stderr and "spec.yaml" in done.stderr


def test_no_spec_at_all(mixc, folder: Path) -> None:
    done = mixc("compile", folder / "nothing.yaml", "-o", folder / "build", check=2)
    assert "nothing.yaml" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_no_build_is_not_replaced(mixc, folder: Path) -> None:
    done = mixc("compile", folder / "spec.yaml", "-o", folder / "img", check=2)
    assert "not a build" in done.stderr
    assert (folder / "img/0.jpg").exists()


def test_bad_rows_are_counted_and_stop_nothing(mixc, folder: Path) -> None:
    good = (folder / "pictures.jsonl").read_text()
    (folder / "img/cut.jpg").write_bytes(jpeg(300, 300)[:-900])
    (folder / "img/empty.jpg").write_bytes(b"")
    (folder / "img/bomb.png").write_bytes(png_header_of(30_000, 30_000))
    (folder.parent / "outside.jpg").write_bytes(jpeg())
    (folder / "img/link.jpg").symlink_to(folder.parent / "outside.jpg")
    bad = [
        ('{"image": "img/cut.jpg", "caption": "truncated"}', "image_undecodable"),
        ('{"image": "img/empty.jpg", "caption": "zero bytes"}', "image_empty"),
        ('{"image": "img/bomb.png", "caption": "a decompression bomb"}', "image_bomb"),
        ('{"image": "img/0.jpg", "caption": ', "broken_row"),
        ('{"image": "img/0.jpg"}', "missing_value"),
        ('{"image": "../outside.jpg", "caption": "climbs out"}', "path_escape"),
        ('{"image": "img/link.jpg", "caption": "climbs out by a link"}', "path_escape"),
        ('{"image": "/etc/passwd", "caption": "absolute"}', "path_escape"),
        ('{"image": "img/none.jpg", "caption": "not there"}', "image_missing"),
        ('{"image": "img/0.jpg", "caption": 7}', "wrong_type"),
        ('{"image": "img/0.jpg", "caption": "  "}', "empty_text"),
    ]
    (folder / "pictures.jsonl").write_text(good + "\n".join(line for line, _ in bad) + "\n")
    result = mixc.json("compile", folder / "spec.yaml", "-o", folder / "build", "-j", "2")

    expected: dict[str, int] = {}
    for _, reason in bad:
        expected[reason] = expected.get(reason, 0) + 1
    assert result["rejects"]["pictures"] == expected
    rows = pq.read_table(folder / "build/rejects.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in rows] == [(4 + i, reason) for i, (_, reason) in enumerate(bad)]
    assert [row["place"] for row in rows] == [f"line {5 + i}" for i in range(len(bad))]
    named = {each["where"]: each["why"] for each in result["reject_examples"]}
    assert len(named) == len(bad) and "image that can be decoded" in named["pictures.jsonl line 5"]
    assert named["pictures.jsonl line 9"] == "column 'caption' is absent"
    assert result["stages"][0]["images"] == 4
    assert mixc("verify", folder / "build").returncode == 0


def test_too_many_bad_rows_fail_the_compile(mixc, folder: Path) -> None:
    (folder / "spec.yaml").write_text(SPEC.replace("max_reject_rate: 0.9", "max_reject_rate: 0.1"))
    with (folder / "pictures.jsonl").open("a") as file:
        file.write("{\n")
    done = mixc("compile", folder / "spec.yaml", "-o", folder / "build", check=2)
    assert "pictures.jsonl line 5: not JSON: Expecting property name enclosed in double quotes at" in done.stderr
    assert "1 of 5 rows" in done.stderr and "broken_row" in done.stderr and "max_reject_rate" in done.stderr
    assert "    5 | {\n      |  ^\n" in done.stderr
    assert not (folder / "build").exists()


def test_a_column_that_no_row_of_a_large_file_has(mixc, folder: Path) -> None:
    """A part cannot tell that no row of the file has it."""
    lines = [json.dumps({"txt": f"Number {i}. " * 20}).encode() for i in range(10)]
    (folder / "prose/a.jsonl").write_bytes(b"\n".join([*lines, *[b" " * (1 << 20)] * 40, *lines]))
    done = mixc("compile", folder / "spec.yaml", "-o", folder / "build", check=2)
    assert "text" in done.stderr and "txt" in done.stderr and "a.jsonl" in done.stderr
    assert "unusable" not in done.stderr


def test_an_empty_source_is_an_error(mixc, folder: Path) -> None:
    (folder / "prose/a.jsonl").write_text("")
    done = mixc("compile", folder / "spec.yaml", "-o", folder / "build", check=2)
    assert "prose" in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_is_said_plainly(mixc, folder: Path, tmp_path: Path) -> None:
    """A file size limit is the smallest disk there is: every write beyond it fails as on a full one."""
    import subprocess
    import sys

    done = subprocess.run(
        ["bash", "-c", f'ulimit -f 2; trap "" XFSZ; exec {sys.executable} -m mixc compile spec.yaml -o build -j 1'],
        cwd=folder,
        env=mixc.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "build").exists()
    mixc("compile", folder / "spec.yaml", "-o", folder / "build")
    assert mixc("verify", folder / "build").returncode == 0
