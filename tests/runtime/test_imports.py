"""What a run imports: not more than it needs, and out of the way of Python's collector."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from runtime import imports
from tests.runtime.launching import ROOT

ONE_STEP = """
import gc, os, sys
from runtime.__main__ import main
assert main(sys.argv[1:]) == 0
inductor = "torch._inductor.compile_fx" in sys.modules
import torch
muon = sys.modules["deepspeed.runtime.zero.muon.original_muon"].muon_update
compiled = [hasattr(each, "_torchdynamo_orig_callable") for each in (muon, torch.compile(print, backend="eager"))]
print("found", gc.isenabled(), gc.get_freeze_count() > 200_000, inductor, compiled, "TORCHDYNAMO_DISABLE" in os.environ)
"""


@pytest.mark.slow
def test_a_run_imports_nothing_that_compiles(build, tmp_path):
    """DeepSpeed's Muon is there, as it asks for it, but is not compiled; what is compiled afterwards is."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_STEP, build, "--out", tmp_path / "run", "--max-steps", "1", "--workers", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "found True True False [False, True] False"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("before", [None, "0"])
def test_the_users_own_word_on_compiling_stays(monkeypatch, before):
    if before is not None:
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", before)
    imports.muon()  # as `alone` did, too
    assert os.environ.get("TORCHDYNAMO_DISABLE") == before


def test_the_collector_leaves_out_what_is_imported_first_and_nothing_later():
    gc.unfreeze()
    try:
        with imports.kept():
            assert not gc.isenabled()
        left_out = gc.get_freeze_count()
        assert left_out > 0 and gc.isenabled()
        later = [[] for _ in range(1000)]
        with imports.kept():
            assert gc.isenabled()
        assert gc.get_freeze_count() <= left_out and len(later) == 1000
    finally:
        gc.unfreeze()
