"""Tasks on local processes: all of them, errors told, killed workers noticed, orphans gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datatrove.pipeline.base import PipelineStep

from mixc.errors import BuildError
from mixc.executor import run_tasks

REPO = Path(__file__).resolve().parents[1]


class Touch(PipelineStep):
    """Each task leaves a file with its number; one may fail or be killed."""

    name = "touch"
    type = "test"

    def __init__(self, folder: Path, fails: int = -1, dies: int = -1, sleeps: float = 0) -> None:
        super().__init__()
        self.folder, self.fails, self.dies, self.sleeps = folder, fails, dies, sleeps

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        if rank == self.fails:
            raise ValueError(f"task {rank} failed")
        if rank == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(rank)).write_text(str(os.getpid()))
        time.sleep(self.sleeps)
        yield from ()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once_and_is_reported(tmp_path: Path, workers: int) -> None:
    done = []
    run_tasks(
        Touch(tmp_path),
        tasks=5,
        workers=workers,
        progress=lambda a, b: done.append((a, b)),
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == list("01234")
    assert done == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match="task 1 failed"):
        run_tasks(Touch(tmp_path, fails=1), tasks=3, workers=workers)


def test_a_killed_worker_is_an_error_not_a_hang(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="worker process was killed"):
        run_tasks(Touch(tmp_path, dies=1), tasks=3, workers=2)


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from mixc.executor import run_tasks
from tests.test_executor import Touch
if __name__ == "__main__":
    run_tasks(Touch(Path({str(tmp_path)!r}), sleeps=60), tasks=2, workers=2)
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(REPO)})
    deadline = time.monotonic() + 30
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "01"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int((tmp_path / name).read_text()) for name in "01"]
    parent.kill()
    parent.wait()
    while any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids
    ):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)


def test_what_workers_are_forked_from_has_no_thread_of_its_own(tmp_path: Path) -> None:
    """A fork has none of its parent's threads, and hangs where it waits for one."""
    from mixc.measure.tokenizer import load_tokenizer

    path = load_tokenizer("qwen2.5", base=tmp_path, cache=tmp_path).path
    code = f"""
import os
import numpy, pyarrow  # numpy's threads end and begin again around a fork
before = os.listdir("/proc/self/task")
os.environ["MIXC_WARM_TOKENIZER"] = "fast " + {str(path)!r}
import mixc.preload
from pathlib import Path
from mixc.measure.tokenizer import _load
assert "fastokens" in vars(_load(Path({str(path)!r}))), "not loaded"
import sys
assert "pandas" not in sys.modules
print(len(os.listdir("/proc/self/task")) - len(before))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
