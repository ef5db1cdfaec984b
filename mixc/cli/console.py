"""What commands share on the terminal: progress on stderr, one JSON document on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixc.compile import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar a pass, with rate and time left; silent unless stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.progress import Task as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        """Tasks a second, over the last half minute."""

        def render(self, task: Bar) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def update(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total)
        bars.update(tasks[name], completed=done, total=total)

    with bars:
        yield update


@contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """What is waited for, on a terminal's stderr, until the block ends or the function that it gives is called."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda: None
        return
    status = console.status(what)
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()


def remark(text: str) -> None:
    """A line beside the answer: on stderr, dim on a terminal."""
    from rich.console import Console

    Console(stderr=True).print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """One JSON document on stdout, indented, keys as given."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def warn(messages: list[str]) -> None:
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)
