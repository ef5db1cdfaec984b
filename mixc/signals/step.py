"""The Datatrove step that computes signals: a task takes an object and leaves a folder of values for each signal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

import mixc.executor  # noqa: F401  quiets Datatrove in worker processes
from mixc.cache.folders import partial, publish
from mixc.clean.contamination import Benchmark
from mixc.errors import BuildError
from mixc.measure.faults import changed, named
from mixc.measure.object import FACTS as FACTS_FILE
from mixc.signals.batch import Batch, batch_of, batches
from mixc.signals.job import Job, Wanted, read_jobs
from mixc.signals.own import call, load_function
from mixc.signals.registry import FACTS, arrow_type, function
from mixc.signals.store import VALUES, FixedColumn, OwnColumn, is_whole, signal_path, write_info
from mixc.sources.read import read
from mixc.sources.sample import Reject, Sample
from mixc.sources.scan import unchanged


class SignalStep(PipelineStep):  # type: ignore[misc]
    """Rank r of n does the r-th, (r+n)-th, ... job of a file, as MeasureStep does. Yields the digests of values."""

    name = "signals"
    type = "mixc"

    def __init__(self, jobs: Path, *, cache: Path, base: Path, benchmark: Path | None) -> None:
        super().__init__()
        self.jobs, self.cache, self.base, self.benchmark = jobs, cache, base, benchmark

    def run(self, data: Iterable[Job] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[str]:
        for job in read_jobs(self.jobs)[rank::world_size] if data is None else data:
            self._compute(job)
            yield from job.wanted

    def _compute(self, job: Job) -> None:
        with named(job.fragment, "the signals of a file", "computed"), ExitStack() as stack:
            facts = pq.read_table(Path(job.facts) / FACTS_FILE, columns=["row", "width", "height"])
            open_columns = [_Open(self, stack, digest, wanted) for digest, wanted in job.wanted.items()]
            of_facts = [one for one in open_columns if one.wanted.function is None and one.wanted.name in FACTS]
            of_source = [one for one in open_columns if one not in of_facts]
            for one in of_facts:
                one.column.add(FACTS[one.wanted.name](facts))
            if of_source:
                for samples in batches(_accepted(job, facts["row"].to_numpy())):
                    batch = batch_of(samples)
                    for one in of_source:
                        one.add(batch, job.fragment.path)
                if not unchanged(job.fragment, job.source, self.cache):  # raising, nothing is kept
                    raise changed(job.fragment)
            for one in open_columns:
                one.publish(job, samples=len(facts))


class _Open:
    """A signal's values being written."""

    def __init__(self, step: SignalStep, stack: ExitStack, digest: str, wanted: Wanted) -> None:
        self.step, self.digest, self.wanted = step, digest, wanted
        self.folder = stack.enter_context(partial(step.cache, digest))
        path = self.folder / VALUES
        self.column: FixedColumn | OwnColumn
        self._function: Any = None
        if wanted.function is not None:
            self.column = OwnColumn(path)
            self._function = load_function(wanted.function, step.base)
        else:
            self.column = FixedColumn(path, arrow_type(wanted.name, wanted.settings))
            if wanted.name not in FACTS:
                self._function = function(wanted.name, wanted.settings, lambda: _benchmark(step.benchmark))

    def add(self, batch: Batch, path: str) -> None:
        if self.wanted.function is None:
            self.column.add(self._function(batch))
            return
        own = replace(batch, settings=self.wanted.settings)
        values = call(self._function, own, signal=self.wanted.name, path=path)
        try:
            self.column.add(values)
        except ValueError as error:
            raise self._mixed(f"{path}, rows {batch.rows[0]} to {batch.rows[-1]}", error) from error

    def publish(self, job: Job, *, samples: int) -> None:
        try:
            self.column.close()
        except pa.ArrowInvalid as error:
            raise self._mixed(job.fragment.path, error) from error
        write_info(
            self.folder,
            self.digest,
            object=job.object,
            signal=self.wanted.name,
            version=self.wanted.version,
            benchmark=self.wanted.benchmark,
            samples=samples,
        )
        publish(self.folder, signal_path(self.step.cache, self.digest), is_whole)

    def _mixed(self, where: str, error: Exception) -> BuildError:
        return BuildError(
            f"the function of the signal `{self.wanted.name}` gives values of several types",
            where=where,
            why=str(error),
            mend="make it give one type, or None, for all samples",
        )


def _accepted(job: Job, rows: npt.NDArray[np.uint64]) -> Iterator[Sample]:
    """The samples of the object, by their row numbers in rising order: measuring rejected some that reading does not."""
    wanted = iter(rows.tolist())
    next_row = next(wanted, None)
    for row in read(job.fragment, job.source):
        if row.row != next_row:
            continue
        if isinstance(row, Reject):
            raise changed(job.fragment)
        yield row
        next_row = next(wanted, None)
    if next_row is not None:
        raise changed(job.fragment)


@lru_cache(maxsize=1)
def _benchmark(path: Path | None) -> Benchmark:
    assert path is not None
    return Benchmark.load(path)
