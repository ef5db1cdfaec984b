from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixc.check import Checked, check_spec
from mixc.errors import SpecError

HEAD = """mixture: m
seed: 1
model: sail-vl-tiny
"""
STAGE = """stages:
  - {name: s, budget: 1 epoch, mix: {%s: 1}, sequence_length: 4096, train: {lr: {projector: 1e-4}, batch: 1}%s}
"""


@pytest.fixture
def check(tmp_path: Path):
    def run(sources: str, stage: str = "", mix: str = "a") -> Checked:
        (tmp_path / "spec.yaml").write_text(f"{HEAD}sources:\n{sources}\n" + STAGE % (mix, stage))
        return check_spec(tmp_path / "spec.yaml")

    (tmp_path / "good.jsonl").write_text("".join(json.dumps({"text": f"t{i}", "score": i}) + "\n" for i in range(200)))
    (tmp_path / "rows.csv").write_text("txt,score\nhello,1\n")
    return run


def problems(checked: Checked) -> list[str]:
    assert checked.ok == (not checked.problems)
    return [problem.what for problem in checked.problems]


def test_what_is_well(check) -> None:
    checked = check("  a: {path: good.jsonl, kind: text, where: score > 3}")
    assert checked.ok and checked.warnings == []
    [source] = checked.sources
    assert (source.files, source.rows, source.rejects, source.columns) == (1, 64, {}, {"score": "int64"})


def test_a_source_that_a_compile_would_refuse(check, tmp_path: Path) -> None:
    """Read whole, with more rejects than max_reject_rate: a problem. With rows left unread: a warning."""
    rows = [json.dumps({"text": "good" if i % 8 == 0 else None}) + "\n" for i in range(200)]
    (tmp_path / "bad.jsonl").write_text("".join(rows[:8]))
    checked = check("  a: {path: bad.jsonl, kind: text}")
    assert problems(checked) == ["7 of the first 8 rows would be rejected: 7 missing_value"]
    (tmp_path / "bad.jsonl").write_text("".join(rows))
    checked = check("  a: {path: bad.jsonl, kind: text}")
    assert problems(checked) == [] and "56 of the first 64 rows" in checked.warnings[0]
    assert (
        "\n  bad.jsonl line 2: column 'text' is null\n    2 | " in checked.warnings[0]
        and "and 53 more" in checked.warnings[0]
    )
    [source] = checked.sources
    assert [each.where for each in source.reject_examples] == [f"bad.jsonl line {n}" for n in (2, 3, 4)]


def test_a_mistyped_path_of_a_column_is_told_at_its_place(check) -> None:
    checked = check("  a: {path: good.jsonl, kind: text, columns: {text: txet.long}}")
    assert problems(checked) == ["no row has the column 'txet.long'"]
    assert "columns.text" in checked.problems[0].where + checked.problems[0].why + checked.problems[0].mend


@pytest.mark.parametrize(
    ("source", "stage", "words", "mend"),
    [
        ("path: good.jsonl, kind: text, text: txet", "", "no row has the column 'txet'", "text"),
        ("path: rows.csv, kind: text", "", "no row has the column 'text'", "txt"),
        ("path: good.jsonl, kind: text, where: scores > 3", "", "scores", "score"),
        ("path: good.jsonl, kind: text", ", order: {by: scroe}", "scroe", "score"),
        (
            "path: good.jsonl, kind: text, text: score",
            "",
            "64 of the first 64 rows would be rejected: 64 wrong_type",
            "mend",
        ),
        ("path: good.jsonl, kind: chat, image: pic", "", "no row has the column", ""),
        ("path: good.jsonl, kind: text, columns: {t: tetx}", "", "no row has the column 'tetx'", "text"),
        ("path: none/*.jsonl, kind: text", "", "no file matches", "relative"),
        ("path: empty.jsonl, kind: text", "", "a file is empty", "leave it out"),
        ("path: good.jsonl, kind: chat, template: chatlm", "", "no chat template is called 'chatlm'", "chatml"),
        ("path: hf, kind: text, format: huggingface", "", "was not written by `save_to_disk`", "parquet"),
    ],
)
def test_what_is_wrong(source: str, stage: str, words: str, mend: str, check, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "hf").mkdir()
    checked = check(f"  a: {{{source}}}", stage)
    assert any(words in problem.what and mend in problem.mend for problem in checked.problems), checked.problems


def test_rows_that_would_be_rejected_are_told_with_the_reason(check, tmp_path: Path, png: bytes = b"") -> None:
    rows = [{"text": "t" if i % 10 else "", "image": "x.png" if i % 2 else "gone.png"} for i in range(100)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.png").write_bytes(b"not an image")
    checked = check("  a: {path: rows.jsonl, kind: caption}")
    assert problems(checked) == ["64 of the first 64 rows would be rejected: 32 image_missing, 32 image_undecodable"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    checked = check("  a: {path: rows.jsonl, kind: text}")
    assert (
        checked.ok
        and len(checked.warnings) == 1
        and "7 of the first 64 rows would be rejected: 7 empty_text" in checked.warnings[0]
    )
    assert checked.warnings[0].split("\n")[1:] == [
        "  rows.jsonl line 1: column 'text' is empty",
        '    1 | {"text": ""}',
        "      |          ^^",
        "  rows.jsonl line 11: column 'text' is empty",
        "  rows.jsonl line 21: column 'text' is empty",
        "  and 4 more: `mixc plan` reads all rows",
    ]


def test_sources_that_overlap_and_one_that_no_stage_uses(check, tmp_path: Path) -> None:
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "good.jsonl").read_bytes())
    checked = check("  a: {path: good.jsonl, kind: text}\n  b: {path: '*.jsonl', kind: text}")
    assert checked.ok
    assert sum("is the same file as" in warning for warning in checked.warnings) == 1
    assert sum("is the same content, it seems, as" in warning for warning in checked.warnings) == 1
    assert any("no stage uses" in warning for warning in checked.warnings)


def test_every_source_is_told_not_only_the_first(check) -> None:
    checked = check("  a: {path: none.jsonl, kind: text}\n  b: {path: good.jsonl, kind: text, text: x}")
    assert {problem.source for problem in checked.problems} == {"a", "b"}


def test_the_work_is_bounded(check, tmp_path: Path, monkeypatch) -> None:
    for number in range(20):
        (tmp_path / f"many{number}.jsonl").write_text('{"text": "x"}\n' * 50_000)
    from mixc.sources import files

    read = 0
    real = files.chunks

    def counted(file, size=files.CHUNK):
        nonlocal read
        for chunk in real(file, size):
            read += len(chunk)
            yield chunk

    monkeypatch.setattr("mixc.sources.formats.inflate.chunks", counted)
    [source] = check("  a: {path: 'many*.jsonl', kind: text}").sources
    # four files, each opened three times, a chunk of 1 MiB at most
    assert source.files == 20 and source.rows == 256 and read <= 12 << 20


def test_exit_codes(check, tmp_path: Path) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mixc", "check", str(tmp_path / "spec.yaml"), *more]
        return subprocess.run(command, capture_output=True, text=True)

    check("  a: {path: good.jsonl, kind: text}")
    assert run().returncode == 0
    check("  a: {path: none.jsonl, kind: text}")
    failed = run("--json")
    assert failed.returncode == 1 and json.loads(failed.stdout)["problems"][0]["source"] == "a"
    assert run().returncode == 1 and "Traceback" not in run().stderr
    with pytest.raises(SpecError):
        check("  a: {path: good.jsonl, kind: text, wher: x}")
    assert run().returncode == 2
