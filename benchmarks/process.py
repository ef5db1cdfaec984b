"""What a command costs as a whole, all processes that it starts included: wall and CPU seconds, and memory.

    python benchmarks/process.py COMMAND...

prints `{"wall": seconds, "cpu": seconds, "peak": MiB}`; `measured` is the same as a function. CPU seconds, user and system, and
the peak are what wait4(2) tells of every process, so that no sampling misses one: Linux's PR_SET_CHILD_SUBREAPER brings
processes here that outlive their parent, as a pool's fork server does. The peak is that of the largest process, not a sum. The
command runs below a small process of its own, because a process starts with the peak of the one that it was spawned by.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    wall: float
    """Seconds until the last process has ended."""
    cpu: float
    peak: float
    """MiB of resident memory of the largest process."""
    output: str
    """What it wrote to stdout."""


def measured(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Cost:
    """Runs `command`; raises RuntimeError with what it wrote to stderr when it fails."""
    read, write = os.pipe()
    arguments = [sys.executable, "-S", __file__, "--to", str(write), *map(str, command)]
    with os.fdopen(read) as figures:
        done = subprocess.run(arguments, env=env, cwd=cwd, capture_output=True, text=True, pass_fds=[write])
        os.close(write)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
        return Cost(**json.load(figures), output=done.stdout)


def _run(command: list[str]) -> tuple[int, dict[str, float]]:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    start, cpu, peak, status = time.perf_counter(), 0.0, 0, 0
    first = os.posix_spawnp(command[0], command, os.environ)
    while True:
        try:
            child, code, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        if child == first:
            status = os.waitstatus_to_exitcode(code)
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss)
    return status, {"wall": time.perf_counter() - start, "cpu": cpu, "peak": peak / 1024}


if __name__ == "__main__":
    if sys.argv[1] == "--to":
        target = int(sys.argv[2])
        os.set_inheritable(target, False)
        status, figures = _run(sys.argv[3:])
        os.write(target, json.dumps(figures).encode())
    else:
        status, figures = _run(sys.argv[1:])
        print(json.dumps(figures))
    sys.exit(status)
