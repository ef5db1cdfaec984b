"""`mixc lock`: pin a spec's inputs before anything is built, or a build; look what moved since; pin one source anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mixc.cache.use import using
from mixc.compile import LOCK, Measured, Progress, locked_sources, measure_spec
from mixc.emit.drift import Drift, drift
from mixc.emit.lock import (
    Inputs,
    Lock,
    LockedContinued,
    encode_lock,
    lock_inputs,
    moved_versions,
    read_lock,
)
from mixc.errors import BuildError, SpecError
from mixc.inputs import inputs, open_spec, scan_sources
from mixc.no_pandas import decide_without_pandas
from mixc.plan.consumed import Consumed
from mixc.spec.diagnostics import suggest
from mixc.spec.load import load
from shards.atomic import atomic_write
from shards.cache_folder import cache_folder
from shards.recognise import recognise


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    """What `mixc lock` wrote, or left as it was."""

    lock: Lock
    written: bool
    """False: the lock that was there pins these very inputs, and stays, with the root that it may have."""
    moved: Drift | None
    """Since the lock that was there; None when there was none."""
    warnings: list[str]


class LockCheck(msgspec.Struct, frozen=True, kw_only=True):
    lock: Lock
    moved: Drift
    versions: list[str]
    """Libraries that are others than the lock's: results may differ, and need not."""
    warnings: list[str]


def lock_spec(
    spec: Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    update: str | None = None,
    workers: int | None = 1,
    progress: Progress | None = None,
) -> Locked:
    """Pin what `spec` would be built from, in the file `out`. Scans, measures and computes signals, as a compile begins; what
    that gives lies in the cache, ready for it.

    `update` names the one source that is pinned anew: everything else must be as the lock at `out` has it. Raises
    MixcError: for all that is wrong with the spec and its sources, what moved beside `update`, what is no lock at `out`.
    """
    loaded = load(spec, overrides)
    before = read_lock(out) if update is not None or out.exists() else None
    if update is not None and update not in loaded.spec.sources:
        raise SpecError(
            f"the spec has no source `{update}`", where=str(spec), mend=suggest(update, sorted(loaded.spec.sources))
        )
    found: list[Inputs] = []

    def accept(now: Inputs) -> None:
        found.append(now)
        if before is not None and update is not None:
            _refuse_others(drift(before, now).outside(update), update, out)

    with using(cache_folder()) as use:
        measured = measure_spec(loaded, use=use, workers=workers, progress=progress, accept=accept)
    now = dataclasses.replace(found[0], sources=locked_sources(measured))
    moved = None if before is None else drift(before, now)
    warnings = [*measured.warnings, *use.warnings]
    if before is not None and not moved:
        return Locked(lock=before, written=False, moved=moved, warnings=warnings)
    made = _lock(measured, now)
    if before is not None and update is not None:  # lines of other sources stay as they are, paths included
        made = msgspec.structs.replace(
            made,
            spec={**before.spec, "sources": {**before.spec["sources"], update: made.spec["sources"][update]}},
            sources={**before.sources, update: made.sources[update]},
        )
    write_lock(made, out)
    return Locked(lock=made, written=True, moved=moved, warnings=warnings)


def check_lock(spec: Path, path: Path, overrides: Sequence[str] = ()) -> LockCheck:
    """What moved since the lock at `path`. Reads every file that is new or changed, and measures nothing: of such a file
    the samples are known only where the cache has them. Raises MixcError."""
    decide_without_pandas()
    lock = read_lock(path)
    loaded = load(spec, overrides)
    with using(cache_folder()) as use:
        opened = open_spec(loaded, use.cache)
        now = inputs(opened, scan_sources(loaded, use.cache), use.cache)
    return LockCheck(
        lock=lock, moved=drift(lock, now), versions=moved_versions(lock), warnings=[*opened.warnings, *use.warnings]
    )


def lock_build(build: Path, out: Path) -> Locked:
    """Put a build's own lock, root and all, at `out`. Raises BuildError when there is none in the build."""
    if not (build / LOCK).exists() and (known := recognise(build)):
        raise BuildError("this is neither a spec nor a build", where=str(build), why=known)
    lock = read_lock(build / LOCK)
    written = not out.exists() or encode_lock(read_lock(out)) != encode_lock(lock)
    if written:
        write_lock(lock, out)
    return Locked(lock=lock, written=written, moved=None, warnings=[])


def write_lock(lock: Lock, out: Path) -> None:
    if not out.parent.is_dir() or out.is_dir():
        raise BuildError("no lock can be written there", where=str(out), mend="name a file in a folder that exists")
    with atomic_write(out) as file:
        file.write(encode_lock(lock))


def _lock(measured: Measured, now: Inputs) -> Lock:
    return lock_inputs(
        measured.loaded.spec.mixture,
        inputs=now,
        sources=locked_sources(measured),
        fast_tokenizer=all(ref.info.fast_tokenizer for ref in measured.objects),
        continues=None if measured.consumed is None else _continued(measured.consumed),
    )


def _continued(consumed: Consumed) -> LockedContinued:
    return LockedContinued(
        root=consumed.root,
        stage=consumed.stage,
        step=consumed.step,
        consumed=len(consumed.hi),
        digest=consumed.digest,
    )


def _refuse_others(others: Drift, source: str, out: Path) -> None:
    if others:
        raise BuildError(
            f"more has moved than source `{source}`",
            where=str(out),
            why="\n        ".join(others.words()),
            mend="restore the rest, or pin everything that is there now with `mixc lock SPEC`",
        )
