"""The whole road: the demo, compiled and trained through all of its stages by the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

VOCABULARY = 151936


@pytest.mark.slow
@pytest.mark.dist
def test_the_demo_learns(mixc, demo: Path, tmp_path: Path) -> None:
    mixc("train", demo, "--out", tmp_path / "run", DS_ACCELERATOR="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    stages = json.loads((demo / "manifest.json").read_text())["manifest"]["stages"]
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage["name"], step) for stage in stages for step in range(stage["steps"])
    ]
    assert lines[0]["loss"] == pytest.approx(math.log(VOCABULARY), abs=0.1)  # random weights know nothing
    assert lines[-1]["loss"] < math.log(VOCABULARY) - 3
    for stage in stages:
        assert (tmp_path / "run" / stage["name"] / "model.safetensors").exists()
