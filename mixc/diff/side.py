"""One side of a diff: a build; a spec, planned first without writing a build; or a lock, planned where the cache allows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from mixc.cache.use import using
from mixc.diff.difference import SideKind, SideLabel
from mixc.diff.revision import PREFIX, Revision, find_revision
from mixc.emit.lock import Lock, library_versions, read_lock
from mixc.emit.settings import train_settings
from mixc.errors import BuildError
from mixc.measure.object import FACTS, object_path
from mixc.plan.database import Shared
from mixc.plan.tables import PlanSummary, StagePlan
from mixc.signals.locked import found_signals, locked_signals
from mixc.spec.schema import Spec
from shards.build import Build
from shards.cache_folder import cache_folder
from shards.layout import MANIFEST
from shards.manifest import Geometry, TrainSettings, read_manifest

LOCK = "mixture.lock"
PLAN = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFragment:
    """A fragment as one side knows it. In the plan its number is its place in the list."""

    source: str
    path: str
    """Relative to the spec's folder where it lies there: as the lock has it."""
    digest: str
    samples: int
    rejects: int
    object: Path | None
    """Folder of its object; None when it is not in this machine's cache."""
    signals: Mapping[str, Path] = field(default_factory=dict)
    """Parquet of each computed signal, by name: of a build those that the cache still has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    label: str
    """As the user wrote it."""
    kind: SideKind
    root: str | None
    """None for a spec: it has no shards yet."""
    spec: dict[str, Any]
    """Canonical."""
    tokenizer: str
    template: str
    signals: dict[str, str]
    """What the lock pins of computed signals: their versions and benchmarks."""
    consumed: str | None
    """Digest of what a continued run had used."""
    versions: dict[str, str]
    """Of the libraries that made it, or for a spec would."""
    fragments: list[SideFragment]
    """By source, digest and path."""
    geometry: Geometry | None
    """None, as the next, of a lock that cannot be planned."""
    train: dict[str, TrainSettings]
    """By stage."""
    plan: Path | None
    summary: PlanSummary | None
    unplanned: str
    """Why there is no plan, in words."""
    build: Build | None

    @property
    def about(self) -> SideLabel:
        return SideLabel(
            path=self.label,
            root=self.root,
            kind=self.kind,
            mixture=self.spec["mixture"],
            planned=self.plan is not None,
        )

    def stages(self) -> dict[str, StagePlan]:
        """By name, in the order of training."""
        return {stage.name: stage for stage in self.summary.stages} if self.summary else {}

    def settings(self) -> dict[str, Any]:
        """All that a training run sees beside the packs, by name; what is not known is left out."""
        found: dict[str, Any] = {
            "seed": self.spec["seed"],
            "tokenizer": self.tokenizer,
            "template": self.template,
        }
        if self.geometry is not None:
            found["geometry"] = msgspec.to_builtins(self.geometry)
        for stage in self.stages().values():
            found[f"stages.{stage.name}"] = {
                "batch": stage.batch,
                "sequence_length": stage.sequence_length,
                "max_tiles": stage.max_tiles,
                "train": msgspec.to_builtins(self.train[stage.name]),
            }
        return found

    def of_source(self, source: str) -> list[SideFragment]:
        return [fragment for fragment in self.fragments if fragment.source == source]


@contextlib.contextmanager
def open_side(name: str, scratch: Path, *, workers: int | None, shared: Shared | None = None) -> Iterator[Side]:
    """A side by its name: a folder is a build, a file that ends in `.lock` a lock, another file a spec, and `git:REV:PATH` any
    of them as a revision has it. Plans a spec into `scratch`, in the database `shared` if there is one. What a side reads of the cache stays there
    as long as the block. Raises MixcError, ShardError."""
    scratch.mkdir(parents=True, exist_ok=True)
    path = Path(name)
    if name.startswith(PREFIX):
        revision = find_revision(name)
        if revision.kind == "folder":
            revision.unpack(scratch / "build")
            if not (scratch / "build" / MANIFEST).exists():
                raise BuildError("this folder of the revision is not a build", where=name)
            yield _build_side(scratch / "build", name)
        elif revision.path.endswith(".lock"):
            content = revision.read(revision.shown)
            assert content is not None
            (scratch / LOCK).write_bytes(content)
            with _lock_side(read_lock(scratch / LOCK), name, scratch / PLAN) as side:
                yield side
        else:
            with _spec_side(name, revision, scratch / PLAN, workers, shared) as side:
                yield side
    elif path.is_dir():
        yield _build_side(path, name)
    elif not path.exists():
        raise BuildError("there is neither a spec nor a build nor a lock here", where=name)
    elif path.suffix == ".lock":
        with _lock_side(read_lock(path), name, scratch / PLAN) as side:
            yield side
    else:
        with _spec_side(name, None, scratch / PLAN, workers, shared) as side:
            yield side


def _build_side(path: Path, label: str) -> Side:
    manifest = read_manifest(path)
    lock = read_lock(path / LOCK)
    summary = msgspec.json.decode((path / PLAN / "summary.json").read_bytes(), type=PlanSummary)
    return Side(
        label=label,
        kind="build",
        root=manifest.root,
        spec=lock.spec,
        tokenizer=manifest.tokenizer,
        template=manifest.template,
        signals=lock.signals,
        consumed=None if lock.continues is None else lock.continues.digest,
        versions=lock.versions,
        fragments=_built_fragments(path / PLAN, lock),
        geometry=manifest.geometry,
        train={stage.name: stage.train for stage in manifest.stages},
        plan=path / PLAN,
        summary=summary,
        unplanned="",
        build=Build.open(path),
    )


def _built_fragments(plan: Path, lock: Lock) -> list[SideFragment]:
    """The plan's, by the paths of the lock, which are relative: both have them in one order. Their objects and computed signals are
    those of the cache that are there still."""
    cache = cache_folder()
    wanted = locked_signals(msgspec.convert(lock.spec, Spec), lock.signals)
    locked = [each for name in sorted(lock.sources) for each in lock.sources[name]]
    found = []
    for row, each in zip(pq.ParquetFile(plan / "fragments.parquet").read().to_pylist(), locked, strict=True):
        folder = object_path(cache, row["object"])
        found.append(
            SideFragment(
                source=row["source"],
                path=each.path,
                digest=row["digest"],
                samples=row["samples"],
                rejects=row["rejects"],
                object=folder if (folder / FACTS).exists() else None,
                signals=found_signals(cache, row["object"], wanted),
            )
        )
    return found


@contextlib.contextmanager
def _spec_side(
    name: str, revision: Revision | None, scratch: Path, workers: int | None, shared: Shared | None
) -> Iterator[Side]:
    from mixc.compile import measure_spec, plan_only
    from mixc.inputs import shown
    from mixc.signals.run import pinned_signals
    from mixc.spec.canonical import canonical
    from mixc.spec.load import load

    if revision is None:
        loaded = load(Path(name))
    else:
        loaded = load(revision.shown, base=revision.place.parent, reader=revision.read)
    with using(cache_folder()) as use:
        measured = measure_spec(loaded, use=use, workers=workers, eager=False)
        summary = plan_only(measured, scratch, threads=measured.workers, shared=shared)
        spec, base = loaded.spec, loaded.base
        refs = sorted(measured.objects, key=lambda ref: (ref.fragment.source, ref.fragment.digest, ref.fragment.path))
        yield Side(
            label=name,
            kind="spec",
            root=None,
            spec=canonical(spec),
            tokenizer=measured.tokenizer.digest,
            template=measured.template,
            signals=pinned_signals(measured.signals),
            consumed=measured.consumed.digest if measured.consumed else None,
            versions=library_versions(),
            fragments=[
                SideFragment(
                    source=ref.fragment.source,
                    path=shown(ref.fragment.path, base),
                    digest=ref.fragment.digest,
                    samples=ref.info.samples,
                    rejects=ref.info.rejects,
                    object=ref.path,
                    signals=measured.signals[ref.info.digest],
                )
                for ref in refs
            ],
            geometry=measured.geometry,
            train={
                stage.name: train_settings(stage, planned)
                for stage, planned in zip(spec.stages, summary.stages, strict=True)
            },
            plan=scratch,
            summary=summary,
            unplanned="",
            build=None,
        )


@contextlib.contextmanager
def _lock_side(lock: Lock, label: str, scratch: Path) -> Iterator[Side]:
    from mixc.diff.locked import plan_lock

    with using(cache_folder()) as use:
        planned = plan_lock(lock, scratch, use)
        known = None if isinstance(planned, str) else planned
        locked = [(name, each) for name in sorted(lock.sources) for each in lock.sources[name]]
        yield Side(
            label=label,
            kind="lock",
            root=lock.root,
            spec=lock.spec,
            tokenizer=lock.tokenizer,
            template=lock.template,
            signals=lock.signals,
            consumed=None if lock.continues is None else lock.continues.digest,
            versions=lock.versions,
            fragments=[
                SideFragment(
                    source=name,
                    path=each.path,
                    digest=each.digest,
                    samples=each.samples,
                    rejects=each.rejects,
                    object=known.objects[number] if known else None,
                    signals=known.signals[number] if known else {},
                )
                for number, (name, each) in enumerate(locked)
            ],
            geometry=known.geometry if known else None,
            train=known.train if known else {},
            plan=scratch if known else None,
            summary=known.summary if known else None,
            unplanned=planned if isinstance(planned, str) else "",
            build=None,
        )
