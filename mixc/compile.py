"""The compiler, pass by pass: spec -> fragments -> objects -> plan -> shards. Start reading here.

A build is written in a staging folder beside its place and appears there by rename, whole or not at all. The staging
folder is named by the plan, so that a compile that was killed finds its finished shards again, and one whose plan has
changed since starts anew.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.cache.use import Use, using
from mixc.emit.drift import drift
from mixc.emit.lock import (
    Inputs,
    Lock,
    LockedFragment,
    encode_lock,
    lock_of,
    make_lock,
    moved_results,
    read_lock,
    refuse,
)
from mixc.emit.pictures import PICTURES, write_pictures
from mixc.errors import BuildError, SourceError
from mixc.inputs import inputs, open_spec, scan_sources, shown
from mixc.measure.object import read_rejects
from mixc.measure.run import ObjectRef, measure
from mixc.measure.tokenizer import Tokenizer
from mixc.no_pandas import decide_without_pandas
from mixc.plan.consumed import Consumed
from mixc.plan.database import Shared
from mixc.plan.load import PlannedFragment
from mixc.plan.run import plan
from mixc.plan.tables import PlanSummary
from mixc.reject_rate import mend
from mixc.rejects import lines, of_objects
from mixc.signals.run import compute_signals, pinned_signals
from mixc.sources.read import check_columns
from mixc.spec.canonical import canonical
from mixc.spec.load import LoadedSpec, load
from mixc.workers import worth
from shards.atomic import atomic_write
from shards.cache_folder import cache_folder
from shards.counted import counted
from shards.digest import digest, digest_file
from shards.errors import ShardError
from shards.files import named_files, unnamed_files
from shards.layout import MANIFEST
from shards.manifest import (
    FORMAT_VERSION,
    Continues,
    FileEntry,
    Geometry,
    Manifest,
    read_manifest,
    with_root,
    write_manifest,
)

Progress = Callable[[str, int, int], None]
"""Called with (pass, tasks done, tasks in all)."""
Replaces = Callable[[str], None]
"""Called, before anything is written, with `Compiled.replaced` of a build that will be replaced."""

LOCK = "mixture.lock"
REJECTS = "rejects.parquet"


@dataclass(frozen=True, slots=True)
class Measured:
    """A spec with its sources scanned and measured: all that planning needs."""

    loaded: LoadedSpec
    geometry: Geometry
    tokenizer: Tokenizer
    template: str
    """Digest of the chat template."""
    objects: list[ObjectRef]
    warnings: list[str]
    signals: dict[str, dict[str, Path]]
    """By object digest and name, the Parquet file of each computed signal."""
    consumed: Consumed | None
    """What the run used that the spec continues; None for a spec that continues none."""
    workers: int
    """Processes that it was measured by, and that a build of it may use."""

    @property
    def reused(self) -> int:
        return sum(ref.reused for ref in self.objects)


@dataclass(frozen=True, slots=True)
class Compiled:
    manifest: Manifest
    summary: PlanSummary
    measured: Measured
    unchanged: bool
    """The build stood there already."""
    replaced: str | None = None
    """Root of the build that stood there; empty if it could not be read, None if there was none."""


def front(
    spec: Path, overrides: Sequence[str] = (), *, use: Use, workers: int | None = 1, progress: Progress | None = None
) -> Measured:
    """Parse, check, scan, measure, compute signals. What it gives lies in the cache, and stays there as long as `use`.
    `workers`: processes; None for as many as the sources are worth. Raises MixcError for whatever is wrong with the spec or
    its sources."""
    return measure_spec(load(spec, overrides), use=use, workers=workers, progress=progress)


def measure_spec(
    loaded: LoadedSpec,
    *,
    use: Use,
    workers: int | None = 1,
    progress: Progress | None = None,
    accept: Callable[[Inputs], None] | None = None,
    eager: bool = True,
) -> Measured:
    """As `front`, of a spec that was loaded. `accept` sees what is pinned of the inputs before anything is measured, and
    raises where they are not to be built. `eager` starts the server of workers at once, beside the scan; without it, none
    starts when everything has been measured before, as two sides of a diff mostly have."""
    decide_without_pandas()
    cache = use.cache
    opened = open_spec(loaded, cache)
    tokenizer = opened.tokenizer
    workers = workers or worth(loaded.spec, loaded.base)
    if eager and workers > 1:
        from mixc.executor import expect_workers

        expect_workers(workers, tokenizer.path, fast=tokenizer.fast)
    fragments = scan_sources(loaded, cache)
    if accept:
        accept(inputs(opened, fragments, cache))
    objects = measure(
        fragments,
        loaded.spec,
        geometry=opened.geometry,
        tokenizer=tokenizer,
        template=opened.template,
        cache=cache,
        workers=workers,
        progress=(lambda done, total: progress("measure", done, total)) if progress else None,
        needed=use.objects,
    )
    _check_rejects(loaded, objects)
    signals = compute_signals(
        objects,
        loaded.spec,
        base=loaded.base,
        cache=cache,
        workers=workers,
        progress=(lambda done, total: progress("signals", done, total)) if progress else None,
    )
    use.settle(
        signals=[path.parent.name for own in signals.values() for path in own.values()], tokenizer=tokenizer.digest
    )
    return Measured(
        loaded,
        opened.geometry,
        tokenizer,
        opened.template.digest,
        objects,
        opened.warnings,
        signals,
        opened.consumed,
        workers,
    )


def plan_only(
    measured: Measured, out: Path, *, threads: int | None = None, shared: Shared | None = None
) -> PlanSummary:
    """Plan into the folder `out`, which holds nothing else: what `mixc plan` and a diff against a spec need."""
    out.mkdir(parents=True, exist_ok=True)
    rejects: dict[str, dict[str, int]] = {}
    for ref in measured.objects:
        counts = rejects.setdefault(ref.fragment.source, {})
        for reason, count in ref.reject_counts.items():
            counts[reason] = counts.get(reason, 0) + count
    return plan(
        measured.loaded.spec,
        [
            PlannedFragment(
                source=ref.fragment.source,
                path=ref.fragment.path,
                digest=ref.fragment.digest,
                object=ref.info.digest,
                facts=ref.path / "facts.parquet",
                samples=ref.info.samples,
                rejects=ref.info.rejects,
                signals=measured.signals[ref.info.digest],
            )
            for ref in measured.objects
        ],
        geometry=measured.geometry,
        out=out,
        rejects=rejects,
        threads=threads,
        locate=measured.loaded.place,
        consumed=measured.consumed,
        shared=shared,
    )


def compile_spec(
    spec: Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    workers: int | None = 1,
    locked: bool = False,
    progress: Progress | None = None,
    replaces: Replaces | None = None,
) -> Compiled:
    """Compile `spec` into the build folder `out`, replacing a build that stands there, of which `replaces` is told.

    With `locked`, refuses to build anything but what the lock pins: the file beside the spec that is named like it with
    the suffix `.lock`, or else the lock of the build at `out`. `workers` as for `front`. Raises MixcError; whatever it raises, `out` is what it
    was before.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100  not resolve(): `out` may be a link that should stay one
    _check_place(out)
    pinned = _lock_path(spec, out)
    lock = read_lock(pinned) if locked else None
    loaded = load(spec, overrides)

    def accept(now: Inputs) -> None:
        assert lock
        refuse(drift(lock, now).words(), pinned)

    with using(cache_folder()) as use:
        measured = measure_spec(loaded, use=use, workers=workers, progress=progress, accept=accept if lock else None)
        compiled = build_measured(measured, out, progress=progress, lock=lock, pinned=pinned, replaces=replaces)
    measured.warnings.extend(use.warnings)
    if lock and lock.root is None:
        measured.warnings.append(
            f"{pinned} has no root: it pinned the inputs alone; `mixc lock {out} -o {pinned}` pins this build"
        )
    return compiled


def build_measured(
    measured: Measured,
    out: Path,
    *,
    progress: Progress | None = None,
    lock: Lock | None = None,
    pinned: Path = Path(LOCK),
    replaces: Replaces | None = None,
) -> Compiled:
    """Plan and emit. `lock` is what the build must be like, `pinned` its place. Raises BuildError, before the build is
    published, where its results are others."""
    from mixc.emit.run import emit  # Datatrove: half a second, for who writes shards

    with _staging(out, measured, progress) as (staging, summary):
        before = _before(out)
        standing = before if before and _is_of(before, out, staging) else None
        if standing and (lock is None or not moved_results(lock, standing)):
            return Compiled(standing, summary, measured, unchanged=True)
        replaced = before.root if before else "" if (out / MANIFEST).exists() else None
        if replaces and replaced is not None:
            replaces(replaced)
        numbered = _numbered(measured.objects)
        emitted = emit(
            measured.loaded.spec,
            summary,
            staging=staging,
            objects={number: ref.path for number, ref in enumerate(numbered)},
            geometry=measured.geometry,
            workers=measured.workers,
            progress=(lambda done, total: progress("emit", done, total)) if progress else None,
        )
        _write_rejects(numbered, staging / REJECTS)
        pictures = [PICTURES] if write_pictures(numbered, measured.loaded.spec.sources, staging / PICTURES) else []
        manifest = with_root(
            Manifest(
                format=FORMAT_VERSION,
                mixture=measured.loaded.spec.mixture,
                seed=measured.loaded.spec.seed,
                root="",
                geometry=measured.geometry,
                tokenizer=measured.tokenizer.digest,
                template=measured.template,
                stages=emitted.stages,
                media=emitted.media,
                files={},
                continues=None
                if (point := summary.continues) is None
                else Continues(root=point.root, stage=point.stage, step=point.step),
            )
        )
        if lock:
            refuse(moved_results(lock, manifest), pinned)
        with atomic_write(staging / LOCK) as file:
            file.write(
                encode_lock(
                    make_lock(
                        manifest,
                        spec=canonical(measured.loaded.spec),
                        sources=locked_sources(measured),
                        fast_tokenizer=all(ref.info.fast_tokenizer for ref in measured.objects),
                        continues=summary.continues,
                        signals=pinned_signals(measured.signals),
                    )
                )
            )
        shutil.rmtree(staging / "work")
        names = [LOCK, REJECTS, *pictures, *(f"plan/{path.name}" for path in sorted((staging / "plan").iterdir()))]
        manifest = msgspec.structs.replace(manifest, files={name: _file_entry(staging / name) for name in names})
        # a killed compile may have left half a shard here, which would be published with the build
        for name in list(unnamed_files(staging, manifest)):
            (staging / name).unlink()
        write_manifest(staging, manifest)
        _publish(staging, out)
    return Compiled(manifest, summary, measured, unchanged=False, replaced=replaced)


def _numbered(objects: list[ObjectRef]) -> list[ObjectRef]:
    """Objects in the order in which the plan numbers their fragments (FRAGMENTS_SCHEMA)."""
    return sorted(objects, key=lambda ref: (ref.fragment.source, ref.fragment.digest, ref.fragment.path))


def _check_rejects(loaded: LoadedSpec, objects: list[ObjectRef]) -> None:
    limit = loaded.spec.max_reject_rate
    for name in sorted(loaded.spec.sources):
        refs = [ref for ref in objects if ref.fragment.source == name]
        bad = sum(ref.info.rejects for ref in refs)
        rows = bad + sum(ref.info.samples for ref in refs)
        if not rows:
            raise SourceError(f"source {name!r} holds no row", where=loaded.locate(f"sources.{name}"))
        if bad > limit * rows or bad == rows:
            reasons: dict[str, int] = {}
            for ref in refs:
                for reason, count in ref.reject_counts.items():
                    reasons[reason] = reasons.get(reason, 0) + count
            if bad == rows and reasons.keys() == {"missing_value"}:
                check_columns(refs[0].fragment, loaded.spec.sources[name])
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise SourceError(
                f"{bad:,} of {counted(rows, 'row')} of source {name!r} cannot be used",
                where=loaded.locate(f"sources.{name}"),
                why="\n".join([counts, *lines(of_objects(refs, loaded.base, loaded.spec.sources), "")]),
                mend=mend(bad, rows),
            )


def locked_sources(measured: Measured) -> dict[str, list[LockedFragment]]:
    base = measured.loaded.base
    sources: dict[str, list[LockedFragment]] = {name: [] for name in sorted(measured.loaded.spec.sources)}
    for ref in _numbered(measured.objects):
        sources[ref.fragment.source].append(
            LockedFragment(
                digest=ref.fragment.digest,
                path=shown(ref.fragment.path, base),
                samples=ref.info.samples,
                rejects=ref.info.rejects,
            )
        )
    return sources


def _lock_path(spec: Path, out: Path) -> Path:
    beside = lock_of(spec)
    return beside if beside.exists() else out / LOCK


def _check_place(out: Path) -> None:
    """Refuse to replace what is not a build."""
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise BuildError(
            "this folder is not empty and is not a build", where=str(out), mend="name another folder with -o"
        )
    if out.exists() and not out.is_dir():
        raise BuildError("a file stands where the build should go", where=str(out), mend="name another folder with -o")


@contextmanager
def _staging(out: Path, measured: Measured, progress: Progress | None) -> Iterator[tuple[Path, PlanSummary]]:
    """Plan, and give the locked staging folder that belongs to this plan, with the plan in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with _held(fresh):
            if progress:
                progress("plan", 0, 1)
            summary = plan_only(measured, fresh / "plan", threads=measured.workers)
            if progress:
                progress("plan", 1, 1)
            staging = out.with_name(f".{out.name}.{_plan_digest(fresh / 'plan')[:16]}.partial")
            with _held(staging):
                shutil.rmtree(staging / "plan", ignore_errors=True)
                (fresh / "plan").rename(staging / "plan")
                shutil.rmtree(fresh)
                yield staging, summary
        _sweep(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it against other compiles until the end, or until this process dies."""
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(
                "another compile is writing this build", where=str(folder), mend="wait for it, or name another folder"
            ) from error
        yield
    finally:
        os.close(handle)


def _sweep(out: Path) -> None:
    """Remove staging folders of this build that no living compile holds."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.([0-9]+|[0-9a-f]{{16}}|replaced)\.partial")
    for folder in [path for path in out.parent.iterdir() if ours.fullmatch(path.name) and path.is_dir()]:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _plan_digest(folder: Path) -> str:
    """Names a plan, provenance included: emit reads objects by the plan's offsets."""
    return digest(b"".join(digest_file(path).encode() for path in sorted(folder.iterdir())))


def _before(out: Path) -> Manifest | None:
    """The build that stands at `out`, if it can be read."""
    try:
        return read_manifest(out)
    except (ShardError, OSError):
        return None


def _is_of(manifest: Manifest, out: Path, staging: Path) -> bool:
    """Whether the build at `out` was made from the very plan in `staging` and all of its files have their sizes."""
    plan_files = {f"plan/{path.name}": _file_entry(path) for path in sorted((staging / "plan").iterdir())}
    if any(manifest.files.get(name) != entry for name, entry in plan_files.items()):
        return False
    try:
        return all((out / name).stat().st_size == size for name, (size, _) in named_files(manifest).items())
    except OSError:
        return False


def _file_entry(path: Path) -> FileEntry:
    return FileEntry(bytes=path.stat().st_size, file=digest_file(path))


def _write_rejects(numbered: Sequence[ObjectRef], path: Path) -> None:
    """Every unusable row of every source, with its reason: Parquet, sorted by source, fragment, row."""
    schema = pa.schema(
        [
            ("source", pa.string()),
            ("path", pa.string()),
            ("row", pa.uint64()),
            ("place", pa.string()),  # where people look for the row: a line, or of a folder the file
            ("reason", pa.string()),
            ("detail", pa.string()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for ref in numbered:
            table = read_rejects(ref.path)
            if not len(table):
                continue
            columns: dict[str, Any] = {
                "source": pa.array([ref.fragment.source] * len(table)),
                "path": pa.array([ref.fragment.path] * len(table)),
            }
            columns |= {name: table[name] for name in ("row", "place", "reason", "detail")}
            writer.write_table(pa.table(columns, schema=schema))


def _publish(staging: Path, out: Path) -> None:
    """Put the finished build in its place. A build that stood there is removed only once the new one stands."""
    aside = out.with_name(f".{out.name}.replaced.partial")
    if out.exists():
        shutil.rmtree(aside, ignore_errors=True)
        out.rename(aside)
    staging.rename(out)
    shutil.rmtree(aside, ignore_errors=True)
