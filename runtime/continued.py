"""A run that goes on from the middle of another build's run: which checkpoint, and which weights before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime import record, weights
from runtime.checkpoint import files
from runtime.errors import ArgumentError, CheckpointError, ResumeError
from shards.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Start:
    """Where the first stage begins."""

    checkpoint: tuple[Path, files.State] | None
    """To load; None where the other run's stage was trained to its end, and `origin` has its weights."""
    origin: Path | None
    """Folder of the weights that the other run's stage began with, which hold the frozen modules; None: random ones."""
    seed: int
    """Of those."""


def find(run: Path, manifest: Manifest, settled: record.Record) -> Start:
    """The start of the build's first stage in the run that it continues. Raises TrainError when `run` is another run, has
    no checkpoint of that step, or when its optimizer would not fit."""
    point = manifest.continues
    where = f"--continue-from {run}"
    if point is None:
        raise ArgumentError("this build continues no run", where=where, mend=_way(run, record.read(run)))
    other = record.read(run)
    if other.root != point.root:
        raise ResumeError(
            f"the build continues a run of root {point.root[:16]}, and this run is of root {other.root[:16]}",
            where=where,
        )
    if point.stage not in other.stages:
        raise ResumeError(f"this run does not train the stage {point.stage!r}", where=where)
    place = other.stages.index(point.stage)
    before = run / other.stages[place - 1] if place else Path(other.init) if other.init else None
    stage = other.parts["stages"][point.stage]
    if point.step == stage["steps"]:
        if not (run / point.stage / weights.FILE).exists():
            raise CheckpointError(f"the stage {point.stage!r} of this run has no weights", where=where)
        return Start(None, run / point.stage, other.parts["seed"])
    path = run / files.FOLDER / f"{point.stage}-{point.step:08d}"
    if not path.exists():
        raise CheckpointError(
            f"this run has no checkpoint of step {point.step} of stage {point.stage!r}",
            where=where,
            mend="continue from a step that has one (--save-every, --keep), and compile the spec again",
        )
    first = next(entry for entry in manifest.stages if entry.name == settled.stages[0])
    trained = sorted(stage["train"]["lr"])
    if first is not manifest.stages[0] or trained != sorted(first.train.lr):
        raise ResumeError(
            f"stage {first.name!r} trains {', '.join(sorted(first.train.lr))}, and the checkpoint {', '.join(trained)}",
            where=where,
            mend="the first stage of a build that continues another must be trained first, and train the same modules",
        )
    state = files.read(path)
    files.fits(path, state, root=point.root, zero=settled.zero, precision=settled.precision)
    return Start((path, state), before, other.parts["seed"])


def _way(run: Path, other: record.Record) -> str:
    """How a build comes to continue `run` from where it is now."""
    steps = {name: stage["steps"] for name, stage in other.parts["stages"].items()}
    trained = [name for name in other.stages if (run / name / weights.FILE).exists()]
    found = files.latest(run)
    if found is not None and found[1].stage not in trained:
        stage, step = found[1].stage, found[1].step
    elif trained:
        stage, step = trained[-1], steps[trained[-1]]
    else:
        return f"there is nothing to continue in {run} yet: no stage is trained, and there is no checkpoint"
    point = f"`continue_from: {{build: BUILD, stage: {stage}, step: {step}}}`"
    way = (
        f"write {point}, BUILD the one that {run} was trained from (root {other.root[:16]}), into the spec of this build, compile it"
        ' again, and train that; docs/training.md, "Another mix from the middle of a run"'
    )
    if trained:
        way += f"; or only begin with the weights, by --init {run / trained[-1]} and --stages"
    return way
