"""Ways to start a training run from a test, and to read what it left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
TIMEOUT = 120
"""Seconds. A run takes about 15; processes that wait for each other would take for ever."""


def start(
    *arguments: object,
    processes: int = 1,
    module: str = "runtime",
    launcher: Sequence[object] = (),
    environment: Mapping[str, str] = {},
) -> subprocess.Popen[str]:
    """Start training in its own process group: in one process, in several, or by `mixc train` with the flags of
    a launcher. Torch's launcher, under several processes, can start another `module`."""
    program: Sequence[object] = ["-m", "runtime"] if processes == 1 else ["-m", "runtime.launch", processes]
    if module != "runtime":
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", module]
    if launcher:
        program = ["-m", "mixc", "train", *launcher]
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MIXC_STORE")}
    return subprocess.Popen(
        [sys.executable, *map(str, program), *map(str, arguments)],
        # one thread an operation, so that processes do not fight over cores
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(
    *arguments: object,
    processes: int = 1,
    module: str = "runtime",
    launcher: Sequence[object] = (),
    environment: Mapping[str, str] = {},
    status: int = 0,
    timeout: float = TIMEOUT,
) -> str:
    """Train to the end, which must be `status`. Returns what was printed."""
    process = start(*arguments, processes=processes, module=module, launcher=launcher, environment=environment)
    try:
        printed, _ = process.communicate(timeout=timeout)
    finally:
        kill(process)
    assert process.returncode == status, printed
    return printed


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9 the process and all it started, if they still run."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for_steps(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Until the run has told of `steps` steps."""
    end = time.monotonic() + TIMEOUT
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    """Until the run has made a file or folder."""
    end = time.monotonic() + TIMEOUT
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)


def lines(run: Path) -> list[dict]:
    """metrics.jsonl."""
    return [msgspec.json.decode(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]


def weights(run: Path) -> dict[str, bytes]:
    """The bytes of the weights of each stage."""
    return {path.parent.name: path.read_bytes() for path in sorted(run.glob("*/model.safetensors"))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
