"""Runs a Datatrove step over tasks on local processes. Both `measure` and `emit` are such pipelines.

What a task does must not depend on how many there are, or on which process runs it: results are files addressed by
what went into them, so that neither number ever shows in a build.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from mixc.errors import BuildError

# Datatrove narrates every task on stderr. Its words go to nobody who runs mixc; errors reach the caller as exceptions.
# At import, so that it holds in worker processes too, which import this module when they unpickle a step.
logger.disable("datatrove")

WARM_TOKENIZER = "MIXC_WARM_TOKENIZER"
"""Tells mixc/preload.py, in the fork server's environment, the tokenizer that all workers will use: `fast` or `plain`, a space,
and the path of its tokenizer.json."""

Progress = Callable[[int, int], None]
"""Called with (tasks done, tasks in all)."""


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Datatrove's local executor on a `ProcessPoolExecutor`.

    Datatrove's own uses `multiprocess.Pool`, which waits for ever when the kernel kills a worker (out of memory), and a
    manager process that serves only its log lines.
    """

    def __init__(self, step: PipelineStep, tasks: int, workers: int, progress: Progress | None) -> None:
        # it asks for a place for logs; nothing is written there (`_run_for_rank`)
        super().__init__([step], tasks=tasks, workers=min(workers, tasks), logging_dir=tempfile.gettempdir())
        self.pipeline: list[PipelineStep]
        self.progress = progress

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "progress": None}

    def run(self) -> None:
        ranks = range(self.tasks)
        if self.workers <= 1:
            for done, rank in enumerate(ranks, 1):
                self._run_for_rank(rank)
                self._report(done, len(ranks))
            return
        with ProcessPoolExecutor(self.workers, mp_context=_context(), initializer=_die_with_parent) as pool:
            futures: list[Future[object]] = []
            try:
                with _interrupts_held():
                    forkserver.ensure_running()
                    futures += [pool.submit(self._run_for_rank, rank) for rank in ranks]
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    self._report(done, len(ranks))
            except BaseException:
                for worker in multiprocessing.active_children():  # or leaving the pool would wait for their tasks
                    worker.kill()
                    worker.join()
                raise

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> None:
        """Datatrove's own without its log, statistics and mark of each task, which nobody reads here: three files and some
        15 ms a task."""
        for _ in self.pipeline[0].run(None, rank, self.world_size):
            pass

    def _report(self, done: int, total: int) -> None:
        if self.progress:
            self.progress(done, total)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start workers here. They inherit SIGINT blocked: a ctrl-C reaches everybody at the terminal, but it is this process
    alone that ends the others, and without a traceback from each."""
    resource_tracker.ensure_running()  # first: it unblocks SIGINT once it has started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    """End this worker when the process that started the pool has been killed. Its queue would never tell: workers hold
    both ends of it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def expect_workers(workers: int, tokenizer: Path, *, fast: bool) -> None:
    """Start the server that workers are forked from, to be ready when `run_tasks` first needs them: some two seconds of imports,
    and loading this tokenizer.json, beside whatever this process does meanwhile. Does nothing if it runs, or for one worker."""
    if workers <= 1:
        return
    os.environ[WARM_TOKENIZER] = f"{'fast' if fast else 'plain'} {tokenizer}"
    try:
        with _interrupts_held():
            _context()
            forkserver.ensure_running()
    finally:
        del os.environ[WARM_TOKENIZER]


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mixc.preload"])
    return context


def run_tasks(step: PipelineStep, *, tasks: int, workers: int, progress: Progress | None = None) -> None:
    """Run ranks 0 to `tasks`-1 of `step`, at most `workers` at a time.

    Raises whatever a task raised, and BuildError when a worker process was killed.
    """
    if not tasks:
        return
    try:
        LocalExecutor(step, tasks, workers, progress).run()
    except BrokenProcessPool as error:
        raise BuildError(
            "a worker process was killed",
            why="most often the machine ran out of memory",
            mend="run the command again with fewer --workers: what is finished is kept",
        ) from error
