"""What `mixc compile` says at its end, and of a build that it replaces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compile.conftest import Mixc, root


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    lines = [json.dumps({"text": f"some words to train on, {number}"}) for number in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "{", ""]))
    (tmp_path / "m.yaml").write_text("""\
mixture: m
seed: 3
model: sail-vl-tiny
max_reject_rate: 0.5
sources:
  a: {path: a.jsonl, kind: text}
stages:
  - name: one
    budget: 1 epoch
    mix: [a]
    sequence_length: 64
    train: {lr: {language: 1.0e-3}, batch: 1}
""")
    return tmp_path / "m.yaml"


def test_what_was_built_and_what_comes_next(mixc: Mixc, spec: Path, tmp_path: Path) -> None:
    build = tmp_path / "my build"
    done = mixc("compile", spec, "-o", build)
    told = done.stdout.splitlines()
    assert told[0].startswith("one: ") and "8 samples of 1 source" in told[0] and "1 pack," in told[0]
    assert told[1] == "left out: 1 row rejected; the report says why"
    assert told[2].startswith("  ") and "a.jsonl line 9: " in told[2]  # the row that was rejected, and perhaps its line
    at = next(number for number, line in enumerate(told) if line.startswith(f"built {build}: "))
    assert told[at].endswith(" kB, 0 images")
    assert told[at + 1 :] == [
        f"root {root(build)}",
        "next:",
        f"  mixc train '{build}' --out run",
        f"  mixc report '{build}'",
    ]
    assert "replaces" not in done.stderr
    assert "packs' tokens are padding" in done.stderr  # the plan's warnings


def test_a_build_that_is_replaced_is_named(mixc: Mixc, spec: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    assert mixc.json("compile", spec, "-o", build)["replaced"] is None
    first = root(build)

    again = mixc("compile", spec, "-o", build)
    assert f"unchanged {build}" in again.stdout
    assert "replaces" not in again.stderr and "replaced" not in again.stdout.replace(str(build), "")

    other = mixc("compile", spec, "-o", build, "--set", "seed=4")
    assert f"replaces the build at {build}, root {first[:16]}, when" in other.stderr
    assert f"root {root(build)}\nreplaced: root {first}\n" in other.stdout

    # the sources at another place are another plan, which trains the same
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    same = mixc("compile", spec, "-o", build, "--set", "seed=4", "--set", "sources.a.path=b.jsonl")
    assert "replaces the build" in same.stderr and "replaced: the same root" in same.stdout
    (tmp_path / "b.jsonl").rename(tmp_path / "a.jsonl")

    (build / "manifest.json").write_text("{}")
    broken = mixc.json("compile", spec, "-o", build)
    assert broken["replaced"] == "" and root(build) == first
