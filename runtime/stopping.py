"""Being asked to stop: the first SIGINT or SIGTERM lets the step end and saves; the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Stopping:
    """Whether this process was asked."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first one."""
        self._asked = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def listening(self, console: Console) -> Iterator[None]:
        """Take the signals meanwhile. KeyboardInterrupt at the second. In the main thread, or nothing is heard."""

        def ask(number: int, frame: object) -> None:
            # a launcher may pass on the signal that the terminal has sent to all: that is not a second wish
            if self and time.monotonic() - self._asked > 1:
                raise KeyboardInterrupt
            if self:
                return
            self.signal, self._asked = number, time.monotonic()
            console.print("stopping after this step; once more to stop at once", markup=False, highlight=False)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
