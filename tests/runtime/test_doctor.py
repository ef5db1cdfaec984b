"""`mixc doctor`, as a program: here, and with libraries that are broken in the ways in which they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.launching import ROOT

pytestmark = pytest.mark.slow


def doctor(tmp_path: Path, *arguments: str, status: int, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MIXC_PLACE")}
    done = subprocess.run(
        [sys.executable, "-m", "mixc", "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": f"{tmp_path}:{ROOT}", **environment},
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def problems(said: str) -> dict[str, str]:
    """What and why."""
    document = json.loads(said)
    found = {finding["what"]: finding["why"] for finding in document["findings"] if finding["state"] == "problem"}
    assert document["ok"] == (not found)
    return found


def test_what_runs_here(tmp_path):
    import torch

    said = doctor(tmp_path, status=0)
    assert "problem" not in said
    assert f"torch {torch.__version__}" in said and "DeepSpeed " in said and "the model's parts load" in said
    assert "fast tokenizer" in said and "open files" in said
    if not torch.cuda.is_available():
        assert "--compile finds what torch.compile needs" in said or "--compile cannot be used" in said
        assert "attention in bfloat16, heads of 128: sdpa_loop" in said and "this is a cpu" in said
        assert "processes talk through gloo" in said


def test_a_torch_that_does_not_load_is_told_and_the_rest_too(tmp_path):
    """Also what it prints before it fails does not get into the answer."""
    (tmp_path / "torch.py").write_text(
        "print('chatter', flush=True)\nraise ImportError('libcudart.so.99: cannot open shared object file')\n"
    )
    said = doctor(tmp_path, "--json", status=1)
    assert problems(said) == {"torch does not load": "ImportError: libcudart.so.99: cannot open shared object file"}
    assert any("fast tokenizer" in finding["what"] for finding in json.loads(said)["findings"])


def test_a_torch_that_kills_its_process_is_told(tmp_path):
    (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
    (why,) = problems(doctor(tmp_path, "--json", status=1)).values()
    assert "signal 6" in why


def test_a_broken_deepspeed_and_half_an_environment_are_told_together(tmp_path):
    (tmp_path / "deepspeed.py").write_text("raise RuntimeError('no compiler')\n")
    found = problems(doctor(tmp_path, "--json", status=1, RANK="0"))
    assert found["deepspeed does not load"] == "RuntimeError: no compiler"
    assert any("RANK or WORLD_SIZE is set" in what for what in found)
