"""One side of a diff: a build, or a spec that is planned first, without writing a build."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from mixc.cache.use import using
from mixc.emit.lock import read_lock
from mixc.emit.settings import train_settings
from mixc.errors import BuildError
from mixc.plan.tables import PlanSummary, StagePlan
from shards.build import Build
from shards.cache_folder import cache_folder
from shards.manifest import Geometry, TrainSettings, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    label: str
    """As the user wrote it."""
    root: str | None
    """None for a spec: it has no shards yet."""
    spec: dict[str, Any]
    """Canonical."""
    seed: int
    geometry: Geometry
    tokenizer: str
    template: str
    train: dict[str, TrainSettings]
    """By stage."""
    plan: Path
    summary: PlanSummary
    fragments: dict[str, dict[str, tuple[str, int]]]
    """Source -> fragment digest -> (path, samples over all fragments of that digest)."""
    rejects: dict[str, dict[str, int]]
    build: Build | None

    def stages(self) -> dict[str, StagePlan]:
        return {stage.name: stage for stage in self.summary.stages}

    def settings(self) -> dict[str, Any]:
        """All that a training run sees beside the packs, by name."""
        found: dict[str, Any] = {
            "seed": self.seed,
            "geometry": msgspec.to_builtins(self.geometry),
            "tokenizer": self.tokenizer,
            "template": self.template,
        }
        for stage in self.summary.stages:
            found[f"stages.{stage.name}"] = {
                "batch": stage.batch,
                "sequence_length": stage.sequence_length,
                "max_tiles": stage.max_tiles,
                "train": msgspec.to_builtins(self.train[stage.name]),
            }
        return found


@contextlib.contextmanager
def open_side(path: Path, scratch: Path, *, workers: int | None) -> Iterator[Side]:
    """A build when `path` is a folder, else a spec, planned into `scratch`. Raises MixcError, ShardError."""
    if path.is_dir():
        yield _build_side(path)
    elif path.exists():
        yield _spec_side(path, scratch, workers)
    else:
        raise BuildError("there is neither a spec nor a build here", where=str(path))


def _build_side(path: Path) -> Side:
    manifest = read_manifest(path)
    lock = read_lock(path / "mixture.lock")
    summary = msgspec.json.decode((path / "plan/summary.json").read_bytes(), type=PlanSummary)
    return Side(
        label=str(path),
        root=manifest.root,
        spec=lock.spec,
        seed=manifest.seed,
        geometry=manifest.geometry,
        tokenizer=manifest.tokenizer,
        template=manifest.template,
        train={stage.name: stage.train for stage in manifest.stages},
        plan=path / "plan",
        summary=summary,
        fragments=_fragments(path / "plan"),
        rejects=summary.rejects,
        build=Build.open(path),
    )


def _spec_side(path: Path, scratch: Path, workers: int | None) -> Side:
    from mixc.compile import front, plan_only
    from mixc.spec.canonical import canonical

    with using(cache_folder()) as use:
        measured = front(path, use=use, workers=workers)
        summary = plan_only(measured, scratch, threads=measured.workers)
    spec = measured.loaded.spec
    return Side(
        label=str(path),
        root=None,
        spec=canonical(spec),
        seed=spec.seed,
        geometry=measured.geometry,
        tokenizer=measured.tokenizer.digest,
        template=measured.template,
        train={
            stage.name: train_settings(stage, planned)
            for stage, planned in zip(spec.stages, summary.stages, strict=True)
        },
        plan=scratch,
        summary=summary,
        fragments=_fragments(scratch),
        rejects=summary.rejects,
        build=None,
    )


def _fragments(plan: Path) -> dict[str, dict[str, tuple[str, int]]]:
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for row in pq.read_table(plan / "fragments.parquet").to_pylist():
        by_digest = found.setdefault(row["source"], {})
        _, samples = by_digest.get(row["digest"], ("", 0))
        by_digest[row["digest"]] = (row["path"], samples + row["samples"])
    return found
