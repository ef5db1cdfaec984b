"""`python -m runtime.node`: one machine's part of a run, started by runtime/over_ssh.py and steered through stdin.

The first line of stdin is the order, as JSON; every further line is the number of a signal to pass on. Where
stdin ends, the one who gave the order is gone or wants an end: all processes are killed. So nothing secret and
nothing that would have to be quoted stands on a command line, signals arrive although ssh passes none on, and
a connection that breaks leaves no process behind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec

from runtime.launch import run
from runtime.processes import SCHEDULER, STORE, Place, variables


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    environment: dict[str, str]
    """What this machine's processes have of the environment of the launcher, and where they meet."""
    first_rank: int
    processes: int
    """On this machine."""
    world: int
    arguments: list[str]
    """Of the trainer."""


def main() -> int:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    for name in (STORE, SCHEDULER):  # another run's, from the profile of the shell
        os.environ.pop(name, None)
    os.environ.update(order.environment)
    threading.Thread(target=_listen, daemon=True).start()
    places = [
        Place(rank=order.first_rank + local, world=order.world, local_rank=local, local_world=order.processes)
        for local in range(order.processes)
    ]
    return run([variables(place) for place in places], order.arguments)


def _listen() -> None:
    """Pass on to the main thread, which is waiting and has to be woken, what stdin says."""
    main = threading.main_thread().ident
    assert main is not None
    for line in sys.stdin.buffer:
        signal.pthread_kill(main, int(line))
    os._exit(128 + signal.SIGHUP)  # and the processes follow


if __name__ == "__main__":
    os._exit(main())  # not by the interpreter's way out, which would want the stdin that the thread is reading
