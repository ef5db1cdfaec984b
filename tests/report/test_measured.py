"""Values of computed signals in the reasons of samples, as long as the cache has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mixc.compile import compile_spec
from mixc.report.explain import Row, explain_row

SPEC = """
mixture: counted
seed: 1
model: sail-vl-tiny
signals: [words]
sources: {notes: {path: notes.jsonl, kind: text, where: words >= 3 and level < 9}}
stages:
  - {name: read, budget: 1 epoch, mix: [notes], order: {by: words}, sequence_length: 64, train: {lr: {language: 1e-3}, batch: 1}}
"""


def reasons(build: Path, row: int) -> dict[str, str]:
    story = explain_row(build, "notes.jsonl", row)
    assert not isinstance(story, Row)
    told = story.uses or story.drops
    return {reason.rule: reason.text for reason in told[0].why}


def test_reasons_tell_the_values_of_computed_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those of a column of the same name."""
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "cache"))
    rows = [
        {"text": " ".join("word" for _ in range(count)), "level": count, "words": 100 + count} for count in (5, 2, 7, 3)
    ]
    lines = [json.dumps(row) for row in rows]
    lines.insert(1, '{"text": broken')  # so that a sample's place is not its row
    (tmp_path / "notes.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    build = tmp_path / "build"
    compile_spec(tmp_path / "spec.yaml", build, ["max_reject_rate=0.5"])
    for row, count in ((0, 5), (2, 2), (3, 7), (4, 3)):
        told = reasons(build, row)
        assert f"(level is {count}, words is {count})" in told["where"]
        assert count == 2 or f"(words is {count})" in told["order"]
    shutil.rmtree(tmp_path / "cache/signals")
    assert "(level is 5)" in reasons(build, 0)["where"]
    shutil.rmtree(tmp_path / "cache")
    assert "(" not in reasons(build, 0)["where"]
