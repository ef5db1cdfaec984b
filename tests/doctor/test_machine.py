from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixc.doctor import machine as module
from mixc.doctor.machine import machine
from shards.counted import counted

REPO = Path(__file__).resolve().parents[2]


def test_a_containers_limits_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{512 << 20}\n")
    said = [str(finding) for finding in machine()]
    assert said[0].startswith("note     0.5 cores, of the ") and "OMP_NUM_THREADS" in said[0]
    assert said[1].startswith("ok       0.5 GiB of memory, of the machine's ")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    said = [str(finding) for finding in machine()]
    assert said[0] == f"ok       {counted(len(os.sched_getaffinity(0)), 'core')}" and "free" in said[1]


def test_the_disk_is_the_caches_be_the_cache_there_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "a" / "b"))
    monkeypatch.setattr(module, "LEAST_DISK", 0)
    (disk,) = (finding for finding in machine() if "at the cache" in finding.what)
    assert disk.what.endswith(str(tmp_path / "a" / "b"))
    monkeypatch.setattr(module, "LEAST_DISK", 1 << 60)
    (disk,) = (finding for finding in machine() if "at the cache" in finding.what)
    assert disk.state == "note" and "mixc cache prune" in disk.mend


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_of_anothers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXC_CACHE", "/cache-of-nobody")
    assert any("cannot be written to" in finding.what for finding in machine())


def test_few_open_files_are_told() -> None:
    code = "from mixc.doctor.machine import machine; print(*machine(), sep='\\n')"
    limited = f"ulimit -n 200; exec '{sys.executable}' -c \"{code}\""
    done = subprocess.run(["bash", "-c", limited], cwd=REPO, capture_output=True, text=True, check=True, timeout=30)
    assert "note     200 open files" in done.stdout and "ulimit -n 65536" in done.stdout
