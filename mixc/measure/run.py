"""Measure every fragment that has not been measured before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixc.cache.folders import partial, sweep, writing
from mixc.errors import BuildError
from mixc.measure.facts import ObjectInfo
from mixc.measure.job import Job, write_jobs
from mixc.measure.object import object_digest, object_path, read_info, reject_counts
from mixc.measure.template import Template
from mixc.measure.tokenizer import Tokenizer
from mixc.sources.fragment import Fragment
from mixc.spec.schema import Spec
from shards.manifest import Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """A fragment and its object. Two files of equal content have one object between them."""

    fragment: Fragment
    info: ObjectInfo
    path: Path
    """Folder of the object (facts.py)."""
    reused: bool
    """It was in the cache already."""
    reject_counts: dict[str, int]
    """Unusable rows by reason."""


def measure(
    fragments: Sequence[Fragment],
    spec: Spec,
    *,
    geometry: Geometry,
    tokenizer: Tokenizer,
    template: Template,
    cache: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    needed: Callable[[list[str]], None] | None = None,
) -> list[ObjectRef]:
    """Objects of all fragments, sorted by (source, fragment digest, path).

    A fragment whose object is whole in the cache is not read again. The others are measured by at most `workers`
    processes (in this one when 1), the largest first; how many there are shows in nothing that is written. `progress`
    is called with (objects measured, objects to measure), `needed` with the digests of all of them before one is looked
    for. A killed run leaves finished objects, which the next one uses, and unfinished folders, which the next one
    removes.

    Raises SpecError when the tokenizer lacks a token of the template's; MixcError, naming the fragment, when a source
    cannot be read, a disk is full, or a worker fails.
    """
    for name in template.special_tokens:
        tokenizer.special(name)
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        sweep(cache)
    jobs = [
        Job(
            fragment,
            spec.sources[fragment.source],
            object_digest(
                fragment,
                spec.sources[fragment.source],
                geometry=geometry,
                tokenizer=tokenizer.digest,
                template=template,
            ),
        )
        for fragment in sorted(fragments, key=lambda f: (f.source, f.digest, f.path))
    ]
    if needed:
        needed([job.digest for job in jobs])
    missing = {job.digest: job for job in jobs if read_info(object_path(cache, job.digest)) is None}
    if missing:
        from mixc.executor import (  # Datatrove: half a second, for who has something to measure
            expect_workers,
            run_tasks,
        )
        from mixc.measure.step import MeasureStep

        expect_workers(workers, tokenizer.path, fast=tokenizer.fast)
        largest_first = sorted(missing.values(), key=lambda job: (-job.fragment.bytes, job.digest))
        with writing(cache), partial(cache, "jobs") as folder:
            write_jobs(folder / "jobs", largest_first)
            step = MeasureStep(folder / "jobs", cache=cache, geometry=geometry, tokenizer=tokenizer, template=template)
            run_tasks(step, tasks=len(largest_first), workers=workers, progress=progress)
    return [_ref(job, cache, reused=job.digest not in missing) for job in jobs]


def _ref(job: Job, cache: Path, *, reused: bool) -> ObjectRef:
    path = object_path(cache, job.digest)
    info = read_info(path)
    if info is None:
        raise BuildError(
            "an object is gone that was just measured",
            where=job.fragment.path,
            why=f"{path} was removed or damaged meanwhile",
            mend="compile again, and leave the cache folder alone while it runs",
        )
    return ObjectRef(
        fragment=job.fragment,
        info=info,
        path=path,
        reused=reused,
        reject_counts=reject_counts(path) if info.rejects else {},
    )
