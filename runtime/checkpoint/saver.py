"""Checkpoints written behind the steps.

    begin: copy -> a thread writes this process's file ... all have -> the first one's thread publishes ... done

What a step waits for is the copy of what the process holds into the host's memory (host.py). The rest is a thread's:
digest, write, sync. The thread makes no collective, for it would come between those of the training. Whether all files
are written the processes learn from the sum that ends every step anyhow (`metrics.Flags`): so all of them see it at the end
of the same step, exchange sizes and digests there, and the first one's thread gives the checkpoint its name.

One checkpoint is under way at a time; the next waits for it. Where a process cannot write, all of them raise at the end of
a step. Until a checkpoint is published the one before is the last one, and none is removed.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from rich.console import Console

from runtime import memory, metrics
from runtime.checkpoint.files import Entry, FileEntry, Forget, State, name, publish, write_part
from runtime.checkpoint.host import HostCopy
from runtime.engine import Engine
from runtime.errors import CheckpointError
from runtime.processes import Place, gather


@dataclass(slots=True, kw_only=True)
class _UnderWay:
    """A checkpoint that is not published yet."""

    out: Path
    state: State
    forget: Forget
    begun: float
    blocked: float
    task: Future[Any]
    """What this process's thread is at: its file, and what it is; or publishing it, and when that was done."""
    publishing: bool = False


class _Outcome(NamedTuple):
    """What a process tells the others of its task."""

    blocked: float
    entry: Entry | None = None
    failure: tuple[int | None, str, str] | None = None
    """An error's number, what it says, and of which file."""


class Saver:
    """Writes the checkpoints of a run. `begin`, `at` and `finish` are called in all processes, in the same order. The first to
    call after one of them could not write raises in all of them: OSError as it was met, or CheckpointError."""

    def __init__(self, run: Path, place: Place, device: torch.device, console: Console) -> None:
        """`run`: the folder of the metrics that checkpoints vouch for."""
        self._run, self._place, self._console = run, place, console
        self._copy = HostCopy(device)
        self._room: Future[bool] | None = None
        # a thread of its own begins on the first GPU, whichever is the process's
        start = (torch.cuda.set_device, (device,)) if device.type == "cuda" else (None, ())
        self._thread = ThreadPoolExecutor(1, "checkpoint", *start)
        self._under_way: _UnderWay | None = None
        self._told: list[metrics.Save] = []
        self._warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """The end of the run. After an error, which other processes may not have met, none waits for another: several of them
        leave a checkpoint that is not wholly written, and the one before is the last."""
        if error is None:
            self.finish()
        elif isinstance(error, Exception) and self._under_way:
            if self._place.world == 1:
                with suppress(Exception):  # what ended the run is what is told
                    self.finish()
            elif self._under_way.publishing:
                wait([self._under_way.task])
        self._thread.shutdown(wait=False)

    def prepare(self, engine: Engine) -> None:
        """Have the memory for copies ready when the first one is made. Once a stage, after a step, when all is there that
        will be copied."""
        self._room = self._thread.submit(self._make_room, _size(engine.contents(self._place).tensors))

    def begin(self, engine: Engine, out: Path, state: State, forget: Forget) -> None:
        """Begin a checkpoint in `out`, once the one under way is published. `state.files` is filled in later; `forget`: see
        files.publish."""
        begun = time.monotonic()
        self.finish()
        if self._room:
            wait([self._room])
        contents = engine.contents(self._place)
        copied = self._make_room(_size(contents.tensors))
        tensors = self._copy.take(contents.tensors) if copied else contents.tensors
        task = self._thread.submit(write_part, out, state, self._place.rank, contents.head, tensors)
        if not copied:
            self._warn(_size(contents.tensors))
            wait([task])  # the next step would change what is being written
        blocked = time.monotonic() - begun
        self._under_way = _UnderWay(out=out, state=state, forget=forget, begun=begun, blocked=blocked, task=task)

    def flags(self) -> metrics.Flags:
        """What this process has to tell the others at the end of a step."""
        task = self._under_way.task if self._under_way else None
        if task is None:
            return metrics.Flags()
        return metrics.Flags(writing=not task.done(), failed=task.done() and task.exception() is not None)

    def at(self, flags: metrics.Flags) -> list[metrics.Save]:
        """The end of a step; `flags`: of any process. What was published since the last one."""
        if self._under_way and (flags.failed or not flags.writing):
            self._advance(self._under_way)
        told, self._told = self._told, []
        return told

    def finish(self) -> None:
        """Wait until what is under way is published."""
        while self._under_way:
            wait([self._under_way.task])
            self._advance(self._under_way)

    def _advance(self, under_way: _UnderWay) -> None:
        """From written to being published, and from there to published; or to the error."""
        self._under_way = None
        task, blocked = under_way.task, under_way.blocked
        error = task.exception() if task.done() else None
        result = task.result() if task.done() and error is None else None
        entry = None if under_way.publishing else result
        outcomes = gather(_Outcome(blocked, entry, _told_of(error)))
        if error:
            raise error
        for rank, outcome in enumerate(outcomes):
            if outcome.failure:
                raise _elsewhere(rank, *outcome.failure)
        if under_way.publishing:
            if self._place.first:
                assert isinstance(result, float)  # when it was done
                behind = result - under_way.begun - blocked
                self._told.append(
                    metrics.Save(
                        checkpoint=name(under_way.state),
                        blocked=round(max(outcome.blocked for outcome in outcomes), 4),
                        behind=round(behind, 4),
                    )
                )
            return
        entries = dict(outcome.entry for outcome in outcomes if outcome.entry)
        under_way.task = self._thread.submit(self._publish, under_way, entries)
        under_way.publishing = True
        self._under_way = under_way

    def _publish(self, under_way: _UnderWay, entries: dict[str, FileEntry]) -> float:
        if self._place.first:
            metrics.sync(self._run)
            publish(under_way.out, under_way.state, entries, under_way.forget)
        return time.monotonic()

    def _make_room(self, size: int) -> bool:
        """Whether there is memory to copy `size` bytes into: at most half of what the machine has left, over its processes."""
        missing = size - self._copy.size
        if missing > 0 and missing * self._place.local_world > memory.available() // 2:
            return False
        try:
            self._copy.reserve(size)
        except RuntimeError:  # torch's, of what cannot be pinned
            return False
        return True

    def _warn(self, size: int) -> None:
        if not self._warned:
            self._console.print(
                f"checkpoints make the steps wait: no memory for a copy of {size / 2**30:.1f} GiB a process",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        self._warned = True


def _size(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _told_of(error: BaseException | None) -> tuple[int | None, str, str] | None:
    if error is None:
        return None
    if isinstance(error, OSError):
        return error.errno, str(error.strerror), str(error.filename or "")
    return None, str(error) or type(error).__name__, ""


def _elsewhere(rank: int, number: int | None, what: str, where: str) -> Exception:
    """The error of another process."""
    if number is not None:
        return OSError(number, what, where)
    return CheckpointError("a checkpoint cannot be written", where=f"process {rank}", why=what)
