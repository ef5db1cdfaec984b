"""`python -m runtime.launch N BUILD --out RUN ...`: train in N processes on this machine.

What torchrun would do, but for three things that it does otherwise: the exit status is the trainer's (2 for a
user's mistake, where torchrun gives 1), there is no traceback of the launcher's under the trainer's message,
and a launcher that is killed takes its processes with it. The processes meet through a file, so no port has
to be free. For several machines see runtime/over_ssh.py, which starts this machine's part through `run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from runtime.children import follow_parent, oversee
from runtime.processes import STORE, Place, variables


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run the trainer in `processes` processes. Returns its exit status: 0 if all leave with 0, else that of
    the first to fail, whose failure ends the others. SIGINT and SIGTERM are passed on to all."""
    with tempfile.TemporaryDirectory(prefix="mixc-") as folder:
        store = {STORE: str(Path(folder) / "store")}
        places = [
            Place(rank=rank, world=processes, local_rank=rank, local_world=processes) for rank in range(processes)
        ]
        return run([variables(place) | store for place in places], arguments)


def run(places: Sequence[Mapping[str, str]], arguments: Sequence[str]) -> int:
    """Run the trainer once for each of `places`: what its environment has beside this process's. Returns as
    `launch` does."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "runtime", *arguments],
            env={**os.environ, **place},
            stdin=subprocess.DEVNULL,
            preexec_fn=follow_parent(),
        )
        for place in places
    ]

    def pass_on(number: int) -> None:
        for child in children:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    def end() -> None:
        for child in children:
            child.kill()

    return oversee(children, pass_on=pass_on, end=end)[0]


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m runtime.launch N BUILD --out RUN ... (N processes; see python -m runtime --help)")
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
