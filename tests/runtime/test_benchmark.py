"""benchmarks/train_gpu.py, without the GPU: every line of it but CUDA's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.runtime.launching import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What it prints, and its findings by case."""
    folder = tmp_path_factory.mktemp("benchmark")
    options = (  # long enough packs that most of them have images, and a peak that no CPU comes near
        "--model sail-vl-tiny --device cpu --lengths 1280 --steps 3 --warmup 1 --workers 1 --peak-tflops 10 --recompute"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "train_gpu.py", folder, *options.split()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir()] == ["train_gpu.json"]
    return done.stdout, {found["case"]: found for found in json.loads((folder / "train_gpu.json").read_bytes())}


def test_all_cases_compute_the_same_loss(measured):
    """A padded row or a mask that let samples see each other would have another."""
    _, found = measured
    assert set(found) == {"sdpa_loop", "dense mask", "padded"}
    for case in found.values():
        assert len(case["losses"]) == 4 and case["steps"] == 3
        assert case["losses"] == pytest.approx(found["sdpa_loop"]["losses"], abs=1e-4)
    assert found["padded"]["unused"] > found["sdpa_loop"]["unused"]  # several samples a pack: there is something to pad


def test_what_is_told(measured):
    said, found = measured
    for name, case in found.items():
        row = next(line for line in said.splitlines() if line.split()[1:2] == name.split()[:1])
        assert f"{case['tokens_per_second']:,.0f}" in row and f"{case['mfu']:.1%}" in row
        assert all(case[f"{part}_seconds"] > 0 for part in ("vision", "language", "optimizer"))
        assert all(0 < case[share] < 1 for share in ("mfu", "vision_mfu", "language_mfu"))
        assert case["memory"] is None
    assert "cpu; torch " in said
