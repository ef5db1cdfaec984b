"""`mixc verify --rebuild`: the proof that a build is what its lock says: it is built again, and every digest compared.

The build needs no spec beside it: its lock holds the canonical one, and its plan the places where the sources lay.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mixc.cache.use import using
from mixc.compile import LOCK, Progress, build_measured, measure_spec
from mixc.emit.drift import Drift, drift
from mixc.emit.lock import Inputs, Lock, moved_versions, read_lock
from mixc.emit.places import sources_folder
from mixc.errors import BuildError, SourceError
from mixc.spec.load import LoadedSpec, load, load_form
from shards.cache_folder import cache_folder
from shards.files import named_files
from shards.manifest import Manifest, read_manifest

ROOM = 1.2
"""Times a build's bytes: it, and what emit writes on the way."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    """The root, a stage's packs or steps, a shard."""
    built: str | None
    again: str | None

    def __str__(self) -> str:
        return f"{self.what}: {(self.built or 'none')[:16]} -> {(self.again or 'none')[:16]}"


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    root: str
    rebuilt_root: str | None
    """None where the inputs are others, so that nothing was built."""
    shards: int
    """Token and media shards that were compared."""
    moved: Drift
    """Inputs that are others than the lock's."""
    differences: list[Difference]
    versions: list[str]
    """Libraries that are others than the lock's."""
    warnings: list[str]

    def words(self) -> list[str]:
        """What is wrong, the cause first; empty when nothing is."""
        if self.ok:
            return []
        if self.moved:
            return [*self.moved.words(), "the inputs are not those that the build was made from"]
        told = [str(each) for each in self.differences]
        if self.versions:
            return [*told, f"equal inputs, other libraries: {', '.join(self.versions)}"]
        return [*told, "equal inputs and equal libraries: this is a bug of mixc, please report it"]


def rebuild(
    build: Path,
    *,
    spec: Path | None = None,
    sources: Path | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = 1,
    progress: Progress | None = None,
    room: Callable[[Path, int], None] = lambda folder, size: None,
) -> Rebuilt:
    """Build again what lies at `build`, in a folder beside it that is removed at the end, and compare.

    The spec is the lock's, or the file `spec`. `sources` is the folder that its relative paths start from: by default the one
    that they started from when the build was made. `overrides` as for `load`: where a source lies now. `room` is told the
    folder and the bytes that this takes. Raises MixcError: for a lock that is not the build's, a disk that is too full,
    sources that cannot be read; ShardError for what is no build.
    """
    manifest = read_manifest(build)
    lock = read_lock(build / LOCK)
    if lock.root != manifest.root:
        raise BuildError("the lock in this build is another build's", where=str(build / LOCK), mend="compile it again")
    loaded = load(spec, overrides) if spec else _loaded(build, lock, sources, overrides)
    place = build.absolute().parent
    needed = int(ROOM * sum(size for size, _ in named_files(manifest).values()))
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BuildError(
            f"a rebuild needs {needed:,} bytes beside the build, {free:,} are free",
            where=str(place),
            mend="make room, or copy the build to a larger disk",
        )
    room(place, needed)
    moved: list[Drift] = []

    def accept(now: Inputs) -> None:
        if found := drift(lock, now):
            moved.append(found)
            raise _MovedError

    versions = moved_versions(lock)
    with (
        using(cache_folder()) as use,
        tempfile.TemporaryDirectory(prefix=f".{build.name}.rebuild-", dir=place) as folder,
    ):
        try:
            measured = measure_spec(loaded, use=use, workers=workers, progress=progress, accept=accept)
        except _MovedError:
            return _rebuilt(manifest, None, moved[0], versions, use.warnings)
        except SourceError as error:
            if spec:
                raise
            raise SourceError(
                error.what,
                where=str(build / LOCK),
                why=error.why,
                mend="say where the sources lie now: --sources DIR, --set sources.NAME.path=FILES, or --spec SPEC",
            ) from error
        again = build_measured(measured, Path(folder) / "build", progress=progress).manifest
    nothing = Drift(spec=[], pins=[], files=[])
    return _rebuilt(manifest, again, nothing, versions, [*measured.warnings, *use.warnings])


class _MovedError(Exception):
    """The inputs are others: there is nothing to build."""


def _rebuilt(
    built: Manifest, again: Manifest | None, moved: Drift, versions: list[str], warnings: list[str]
) -> Rebuilt:
    differences = [] if again is None else _differences(built, again)
    return Rebuilt(
        ok=again is not None and not differences,
        root=built.root,
        rebuilt_root=None if again is None else again.root,
        shards=sum(len(stage.shards) for stage in built.stages) + len(built.media.shards),
        moved=moved,
        differences=differences,
        versions=versions,
        warnings=warnings,
    )


def _differences(built: Manifest, again: Manifest) -> list[Difference]:
    """Root, stages and shards by content, media shards by their bytes."""
    before, after = _digests(built), _digests(again)
    return [
        Difference(what=name, built=before.get(name), again=after.get(name))
        for name in [*before, *(name for name in after if name not in before)]
        if before.get(name) != after.get(name)
    ]


def _digests(manifest: Manifest) -> dict[str, str]:
    found = {"root": manifest.root, "media index": manifest.media.index_file}
    for stage in manifest.stages:
        found[f"packs of {stage.name}"] = stage.digest
        found[f"steps of {stage.name}"] = stage.steps_digest
        found |= {shard.name: shard.digest for shard in stage.shards}
    return found | {shard.name: shard.file for shard in manifest.media.shards}


def _loaded(build: Path, lock: Lock, sources: Path | None, overrides: Sequence[str]) -> LoadedSpec:
    """The lock's spec, with its relative paths where they lie now."""
    base = (sources or sources_folder(build, lock) or Path()).absolute()
    if not base.is_dir():
        raise BuildError(
            "the folder that the sources' paths start from is not there",
            where=str(base),
            mend="name it with --sources, or the spec with --spec",
        )
    return load_form(lock.spec, base, f"the spec in {build / LOCK}", overrides)
