"""How many processes a compile takes where nobody says: by what there is to do, never more than cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mixc import workers
from mixc.spec.schema import Source, Spec
from mixc.workers import BYTES_A_WORKER, worth


def spec(*sources: Source, **fields: object) -> Spec:
    named = {f"s{number}": source for number, source in enumerate(sources)}
    return Spec(mixture="m", seed=0, model="sail-vl-2b", sources=named, stages=[], **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)


def sparse(path: Path, size: int) -> str:
    """A file of so many bytes that takes no room."""
    path.touch()
    os.truncate(path, size)
    return path.name


@pytest.mark.parametrize(
    ("size", "count"), [(0, 1), (BYTES_A_WORKER, 1), (2 * BYTES_A_WORKER, 2), (100 * BYTES_A_WORKER, 8)]
)
def test_text_by_its_bytes(tmp_path: Path, size: int, count: int) -> None:
    assert worth(spec(Source(path=sparse(tmp_path / "a.jsonl", size), kind="text")), tmp_path) == count


def test_files_and_sources_add_up(tmp_path: Path) -> None:
    for name in "abc":
        sparse(tmp_path / f"{name}.jsonl", BYTES_A_WORKER)
    sources = [Source(path="[ab].jsonl", kind="text"), Source(path="c.jsonl", kind="text")]
    assert worth(spec(*sources), tmp_path) == 3


def test_signals_and_pictures_are_more_work_a_byte(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.jsonl", BYTES_A_WORKER // 2)
    assert worth(spec(Source(path=path, kind="text")), tmp_path) == 1
    assert worth(spec(Source(path=path, kind="text"), signals=["language"]), tmp_path) == 5
    assert worth(spec(Source(path=path, kind="chat")), tmp_path) == 8


def test_what_is_far_counts_as_large_and_what_is_absent_not_at_all(tmp_path: Path) -> None:
    assert worth(spec(Source(path="none.jsonl", kind="text")), tmp_path) == 1
    sparse(tmp_path / "a.jsonl", 2 * BYTES_A_WORKER)
    assert worth(spec(Source(path="s3://bucket/*.jsonl", kind="text")), tmp_path) == 8
    assert worth(spec(Source(path=["none.jsonl"], kind="text"), Source(path="a.jsonl", kind="text")), tmp_path) == 2
