"""`python -m runtime.launch N BUILD --out RUN ...`: train in N processes on this machine.

What torchrun would do, but for three things that it does otherwise: the exit status is the trainer's (2 for a
user's mistake, where torchrun gives 1), there is no traceback of the launcher's under the trainer's message,
and a launcher that is killed takes its processes with it. The processes meet through a file, so no port has
to be free. For several machines, start `python -m runtime` under torchrun.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runtime.processes import STORE

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run the trainer in `processes` processes. Returns its exit status: 0 if all leave with 0, else that of
    the first to fail, whose failure ends the others. SIGINT and SIGTERM are passed on to all."""
    with tempfile.TemporaryDirectory(prefix="mixc-") as folder:
        children = [_start(rank, processes, Path(folder) / "store", arguments) for rank in range(processes)]

        def pass_on(number: int, frame: object) -> None:
            for child in children:
                child.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return _wait(children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
            for number, handler in before.items():
                signal.signal(number, handler)


def _start(rank: int, processes: int, store: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """One process, which is killed when this one dies."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, STORE: store}
    libc = ctypes.CDLL(None)  # here: a forked child must not import
    parent = os.getpid()

    def follow_parent() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before we asked
                os._exit(128 + signal.SIGKILL)

    return subprocess.Popen(
        [sys.executable, "-m", "runtime", *arguments],
        env=os.environ | {name: str(value) for name, value in place.items()},
        preexec_fn=follow_parent,
    )


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all to leave well, or for the first that does not; its exit status, as a shell would give it."""
    running = {child.pid: child for child in children}
    while running:
        pid, waited = os.waitpid(-1, 0)
        child = running.pop(pid, None)
        if child is None:
            continue
        child.returncode = os.waitstatus_to_exitcode(waited)
        if child.returncode:
            return child.returncode if child.returncode > 0 else 128 - child.returncode
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m runtime.launch N BUILD --out RUN ... (N processes; see python -m runtime --help)")
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
