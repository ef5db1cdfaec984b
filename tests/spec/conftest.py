"""Specs as text, with the place where a mistake must be shown marked by «»."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mixc.spec.check import diagnose
from mixc.spec.diagnostics import Diagnostic, InvalidSpecError
from mixc.spec.load import LoadedSpec, load

GOOD = """\
mixture: demo
seed: 7
model: sail-vl-tiny

sources:
  captions: {path: "captions/*.parquet", kind: caption, text: caption}
  pages: {path: pages.tar, kind: ocr}
  chat: {path: [chat.jsonl, more.json], kind: chat}
  prose: {path: "prose/*.jsonl.zst", kind: text}

stages:
  - name: align
    budget: 4M tokens
    mix: {captions: 0.7, pages: 0.3}
    sequence_length: 4096
    train: {lr: {projector: 2e-4}, batch: 8}
  - name: sft
    budget: 1 epoch
    mix: [chat, prose]
    sequence_length: 4096
    train: {lr: {vision: 1e-5, projector: 1e-5, language: 1e-5}, batch: 8}
"""

MODELS = {"sail-vl-tiny": 256, "sail-vl-2b": 256}
"""Tokens a tile by model."""
SIGNALS = ("language", "repetition")


@dataclass(frozen=True)
class Marked:
    """Text without its marks, and what «» enclosed: (line, column, text), columns from 1."""

    text: str
    marks: list[tuple[int, int, str]]


def unmark(text: str) -> Marked:
    marks = []
    while "«" in text:
        start = text.index("«")
        end = text.index("»", start) - 1
        text = text[:start] + text[start + 1 : end + 1] + text[end + 2 :]
        line = text.count("\n", 0, start) + 1
        marks.append((line, start - (text.rfind("\n", 0, start) + 1) + 1, text[start:end]))
    return Marked(text, marks)


def shown(diagnostic: Diagnostic) -> tuple[int, int, str]:
    """What a diagnostic marks, as in Marked."""
    place = diagnostic.place
    assert place is not None
    return place.line, place.column, place.source[place.column - 1 : place.column - 1 + place.length]


def diagnose_text(folder: Path, text: str) -> list[Diagnostic]:
    """Everything that loading and checking say about a spec."""
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        loaded = load(path)
    except InvalidSpecError as error:
        return list(error.diagnostics)
    return list(diagnose(loaded, models=MODELS, tokens_per_tile=MODELS, signals=SIGNALS))


Expect = Callable[..., Diagnostic]


@pytest.fixture
def expect(tmp_path: Path) -> Expect:
    """expect(text, message, mend=..., severity=...): the spec has exactly one mistake, at its mark, saying this."""

    def run(text: str, message: str, *, mend: str = "", severity: str = "error") -> Diagnostic:
        marked = unmark(text)
        found = diagnose_text(tmp_path, marked.text)
        assert len(found) == 1, [d.render() for d in found]
        (diagnostic,) = found
        assert message in diagnostic.message
        assert mend in diagnostic.mend
        assert diagnostic.severity == severity
        assert [shown(diagnostic)] == marked.marks
        return diagnostic

    return run


@pytest.fixture
def load_text(tmp_path: Path) -> Callable[..., LoadedSpec]:
    def run(text: str, *overrides: str) -> LoadedSpec:
        path = tmp_path / "spec.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, overrides)

    return run
