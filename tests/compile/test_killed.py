"""A compile that is killed loses nothing, leaves nothing, and changes nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixc.compile import _plan_digest
from tests.compile.conftest import REPO, litter, root, trained_files

pytestmark = pytest.mark.slow

KILLS = 12


def test_killed_at_random_moments_it_ends_with_the_same_bytes(mixc, demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    build = out / "build"
    command = [sys.executable, "-m", "mixc", "compile", str(REPO / "specs/demo.yaml"), "-o", str(build), "-j", "2"]
    moments = random.Random(20260101)
    started = time.monotonic()
    mixc("compile", REPO / "specs/demo.yaml", "-o", tmp_path / "timed", "-j", "2")
    whole = time.monotonic() - started
    shutil.rmtree(mixc.cache / "objects")

    killed = finished = 0
    while killed < KILLS:
        assert finished < 10 * KILLS
        process = subprocess.Popen(
            command,
            env=mixc.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=moments.uniform(0.1, 1.0) * whole)
        except subprocess.TimeoutExpired:
            # one in two: only the main process, whose workers must then leave by themselves
            (os.killpg if killed % 2 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            assert not (build / "manifest.json").exists() or root(build) == root(demo)
        else:  # it was quicker: give it something to do again
            finished += 1
            assert process.returncode == 0 and root(build) == root(demo)
            shutil.rmtree(build)
            shutil.rmtree(mixc.cache / "objects")

    mixc("compile", REPO / "specs/demo.yaml", "-o", build, "-j", "2")
    assert root(build) == root(demo)
    assert trained_files(build) == trained_files(demo)
    assert litter(out) == []
    assert litter(mixc.cache) == []


def test_half_a_shard_of_a_killed_worker_is_not_published(mixc, demo: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    staging = tmp_path / f".build.{_plan_digest(demo / 'plan')[:16]}.partial"
    shutil.copytree(demo, staging)
    shard = next(path for path in sorted((staging / "tokens").rglob("*")) if path.is_file())
    strays = [
        shard.with_name(f".{shard.name}.0123456789abcdef.partial"),
        staging / "media" / ".media.idx.0123456789abcdef.partial",
        staging / "tokens" / "of-an-older-mixc.zst",
    ]
    for stray in strays:
        stray.write_bytes(shard.read_bytes()[:100])
    mixc("compile", REPO / "specs/demo.yaml", "-o", build)
    assert not staging.exists()
    assert trained_files(build) == trained_files(demo)
    assert litter(build) == []
    mixc("verify", build)


def test_interrupted_by_hand_it_says_so(mixc, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mixc",
            "compile",
            str(REPO / "specs/demo.yaml"),
            "-o",
            str(tmp_path / "build"),
            "-j",
            "2",
        ],
        env=mixc.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    owners: set[str] = set()
    while len(owners) < 2:  # until both workers measure
        assert process.poll() is None and time.monotonic() < deadline
        owners |= {path.name.split(".")[-2] for path in litter(mixc.cache) if not path.name.startswith("jobs")}
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
