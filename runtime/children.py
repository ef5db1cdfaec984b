"""The children of a launcher: waited for together, signalled together, ended together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""Statuses of a run that was asked to stop, in which all children leave by themselves."""

_GRACE = 10.0
"""Seconds that the others then have: what there was to save is saved, and the first of them has still to say so."""


def follow_parent() -> Callable[[], None]:
    """For Popen's `preexec_fn`: the child is killed when this process dies."""
    libc = ctypes.CDLL(None)  # here: a forked child must not import
    parent = os.getpid()

    def follow() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before we asked
                os._exit(128 + signal.SIGKILL)

    return follow


def oversee(
    children: Sequence[subprocess.Popen[bytes]],
    *,
    pass_on: Callable[[int], None],
    end: Callable[[], None],
) -> tuple[int, int | None]:
    """Wait for all to leave with 0, or for the first that does not, whose failure ends the others.

    Returns the status, as a shell would give it, and the place in `children` of the one that failed.
    `pass_on(number)` is called with every SIGINT and SIGTERM that comes meanwhile, `end()` once at the end,
    and has to see to it that those that still run leave soon. `pass_on` interrupts the waiting, so it must not
    itself ask whether a child has left, as Popen's methods do.
    """
    before = {
        number: signal.signal(number, lambda number, frame: pass_on(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return _wait(children)
    finally:
        end()
        for child in children:
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int | None]:
    running = {child.pid: place for place, child in enumerate(children)}
    while running:
        pid, waited = os.waitpid(-1, 0)
        place = running.pop(pid, None)
        if place is None:
            continue
        child = children[place]
        child.returncode = os.waitstatus_to_exitcode(waited)
        if child.returncode:
            status = child.returncode if child.returncode > 0 else 128 - child.returncode
            if status in _STOPPED:
                let_leave([children[other] for other in running.values()], _GRACE)
            return status, place
    return 0, None


def let_leave(children: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until they have left by themselves, or the seconds are over."""
    until = time.monotonic() + seconds
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
