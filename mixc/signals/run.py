"""Compute every signal that a spec asks for and that has not been computed before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from mixc.cache.folders import partial, sweep, writing
from mixc.errors import BuildError, SpecError
from mixc.measure.run import ObjectRef
from mixc.signals.job import Job, Wanted, write_jobs
from mixc.signals.names import SIGNALS
from mixc.signals.own import load_function
from mixc.signals.registry import INTERNAL, signal_version
from mixc.signals.store import VALUES, is_whole, read_info, signal_path
from mixc.spec.schema import Signal, Spec


def compute_signals(
    objects: Sequence[ObjectRef],
    spec: Spec,
    *,
    base: Path,
    cache: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Path]]:
    """By the digest of each object, the Parquet file of each signal, by name (store.py says what is in it).

    What is whole in the cache is not computed again; for the rest each source file is read once, by at most `workers`
    processes, the largest first. `base` is the spec's folder. `progress` is called with (objects done, objects to do).
    A killed run leaves the objects that it finished.

    Raises SpecError for a signal that there is not, settings that none takes, or a function that cannot be loaded;
    SourceError for a benchmark that cannot be read; BuildError when a function fails, a disk is full or a worker dies.
    """
    benchmark = None
    if spec.decontaminate is not None:
        from mixc.clean.benchmark_files import load_benchmark  # Pillow and all formats

        benchmark = load_benchmark(spec.decontaminate, base)
    wanted = wanted_signals(spec, benchmark=None if benchmark is None else benchmark.digest)
    paths: dict[str, dict[str, Path]] = {}
    jobs: list[tuple[int, Job]] = []
    for ref in objects:
        if ref.info.digest in paths:  # another file of equal content
            continue
        digests = {signal.key(ref.info.digest): signal for signal in wanted}
        paths[ref.info.digest] = {
            signal.name: signal_path(cache, digest) / VALUES for digest, signal in digests.items()
        }
        missing = {digest: signal for digest, signal in digests.items() if not is_whole(signal_path(cache, digest))}
        if missing:
            job = Job(
                fragment=ref.fragment,
                source=spec.sources[ref.fragment.source],
                object=ref.info.digest,
                facts=str(ref.path),
                wanted=missing,
            )
            jobs.append((-ref.fragment.bytes, job))
    if not jobs:
        return paths
    from mixc.executor import run_tasks  # Datatrove: half a second, for who has something to compute
    from mixc.signals.step import SignalStep

    for place in sorted({signal.function for _, job in jobs for signal in job.wanted.values() if signal.function}):
        load_function(place, base)  # before anything is read
    largest_first = [job for _, job in sorted(jobs, key=lambda entry: (entry[0], entry[1].object))]
    with writing(cache):
        sweep(cache)
        with partial(cache, "signals") as folder:
            write_jobs(folder / "jobs", largest_first)
            if benchmark is not None:
                benchmark.save(folder / "benchmark")
            step = SignalStep(
                folder / "jobs",
                cache=cache,
                base=base,
                benchmark=None if benchmark is None else folder / "benchmark",
            )
            run_tasks(step, tasks=len(largest_first), workers=workers, progress=progress)
    return paths


def pinned_signals(paths: Mapping[str, Mapping[str, Path]]) -> dict[str, str]:
    """For the lock: by name of each signal that `compute_signals` gave, its version, and the digest of its benchmark.
    Raises BuildError when the cache lost one meanwhile."""
    pinned = {}
    for own in list(paths.values())[:1]:  # the same for every object
        for name, path in own.items():
            try:
                info = read_info(path.parent)
            except (OSError, msgspec.MsgspecError) as error:
                raise BuildError(
                    "a signal is gone that was just computed",
                    where=str(path.parent),
                    why=str(error),
                    mend="compile again, and leave the cache folder alone while it runs",
                ) from None
            pinned[name] = _pin(info.version, info.benchmark)
    return pinned


def signals_to_pin(spec: Spec, base: Path) -> dict[str, str]:
    """What `pinned_signals` will give, before anything is computed. Raises SpecError and SourceError as
    `compute_signals`."""
    benchmark = None
    if spec.decontaminate is not None:
        from mixc.clean.benchmark_files import load_benchmark

        benchmark = load_benchmark(spec.decontaminate, base).digest
    return {signal.name: _pin(signal.version, signal.benchmark) for signal in wanted_signals(spec, benchmark=benchmark)}


def _pin(version: str, benchmark: str | None) -> str:
    return version + (f", benchmark {benchmark}" if benchmark else "")


def wanted_signals(spec: Spec, *, benchmark: str | None) -> list[Wanted]:
    """What `signals`, `dedup` and `decontaminate` ask for, sorted by name. `benchmark` is the digest of what is compared
    with. Raises SpecError."""
    found = [_asked(Signal(name=each) if isinstance(each, str) else each) for each in spec.signals]
    undecoded = sorted(name for name, source in spec.sources.items() if not source.decode_images)
    looking = [signal.name for signal in found if signal.name in SIGNALS and "images" in SIGNALS[signal.name].needs]
    if undecoded and looking:
        raise SpecError(
            f"`decode_images: false` cannot be had with the signal `{looking[0]}`",
            where=f"sources.{undecoded[0]}.decode_images",
            why="it decodes every image",
            mend="remove one of the two",
        )
    if minhash := spec.dedup.minhash:
        settings: dict[str, str | int | float | bool] = {
            "ngram": minhash.ngram,
            "permutations": minhash.permutations,
        }
        found.append(Wanted(name="minhash", version=signal_version("minhash"), settings=settings))
    if spec.dedup.image is not None:
        found.append(Wanted(name="phash", version=signal_version("phash")))
    if spec.decontaminate is not None:
        found.append(Wanted(name="contaminated", version=signal_version("contaminated"), benchmark=benchmark))
    return sorted(found, key=lambda signal: signal.name)


def _asked(signal: Signal) -> Wanted:
    if signal.name in INTERNAL:
        raise SpecError(
            f"the name `{signal.name}` is taken",
            where="signals",
            why="dedup and decontaminate compute a signal of this name",
            mend="take another name",
        )
    if signal.function is not None:
        return Wanted(name=signal.name, version=signal.version, function=signal.function, settings=signal.settings)
    if signal.name not in SIGNALS:
        raise SpecError(f"there is no signal `{signal.name}`", where="signals", mend=f"known: {', '.join(SIGNALS)}")
    if signal.settings:
        raise SpecError(f"the signal `{signal.name}` takes no settings", where="signals", mend="leave them out")
    return Wanted(name=signal.name, version=signal_version(signal.name))
