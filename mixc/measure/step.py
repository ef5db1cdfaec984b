"""The Datatrove step that measures: a task takes a fragment and leaves an object in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

import mixc.executor  # noqa: F401  quiets Datatrove in worker processes
from mixc.measure.facts import ObjectInfo
from mixc.measure.faults import changed, named
from mixc.measure.job import Job, read_jobs
from mixc.measure.object import object_path, read_info, write_object
from mixc.measure.samples import measure_rows
from mixc.measure.template import Template
from mixc.measure.tokenizer import Tokenizer
from mixc.sources.read import read
from mixc.sources.scan import unchanged
from shards.manifest import Geometry


class MeasureStep(PipelineStep):  # type: ignore[misc]
    """Jobs in, ObjectInfos out. Without jobs coming in, rank r of n measures the r-th, (r+n)-th, ... of a jobs file.

    The jobs lie in a file (`write_jobs`) because the executor pickles the step for every task: with the list inside, n
    fragments would cost n^2.
    """

    name = "measure"
    type = "mixc"

    def __init__(
        self, jobs: Path, *, cache: Path, geometry: Geometry, tokenizer: Tokenizer, template: Template
    ) -> None:
        super().__init__()
        self.jobs = jobs
        self.cache = cache
        self.geometry = geometry
        self.tokenizer = tokenizer
        self.template = template

    def run(self, data: Iterable[Job] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[ObjectInfo]:
        for job in read_jobs(self.jobs)[rank::world_size] if data is None else data:
            info = self._measure(job)
            self.stat_update("samples", value=info.samples, unit="fragment")
            self.stat_update("rejects", value=info.rejects, unit="fragment")
            self.stat_update("tokens", value=info.tokens, unit="fragment")
            yield info

    def _measure(self, job: Job) -> ObjectInfo:
        if info := read_info(object_path(self.cache, job.digest)):  # another compile was quicker
            return info
        with named(job.fragment, "a file", "measured"), write_object(self.cache, job.digest) as writer:
            fast = measure_rows(
                read(job.fragment, job.source),
                writer,
                source=job.fragment.source,
                geometry=self.geometry,
                tokenizer=self.tokenizer,
                template=self.template,
                decode_images=job.source.decode_images,
            )
            info = writer.finish(job.fragment, job.digest, fast_tokenizer=fast)
            if not unchanged(job.fragment, job.source, self.cache):  # raising, nothing is kept under its digest
                raise changed(job.fragment)
            return info
