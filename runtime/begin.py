"""Before a run begins: what it is, and all that can be known to be wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runtime import answers, board, continued, evaluate, initial, metrics, processes, record, trials, weights
from runtime.arguments import Arguments
from runtime.checkpoint import files
from runtime.checkpoint.leftovers import sweep
from runtime.errors import ArgumentError
from runtime.loader import Division
from runtime.processes import Place
from shards import questions
from shards.build import Build
from shards.store import place as build_place

if TYPE_CHECKING:
    import torch

_RESERVED = {files.FOLDER, record.NAME, metrics.NAME, evaluate.NAME, board.FOLDER, weights.AVERAGES, trials.FOLDER}
_RESERVED |= {answers.FOLDER, questions.FOLDER}
"""What a stage cannot be called: its folder in the run has its name."""


def settle(arguments: Arguments, build: Build, place: Place, device: torch.device) -> record.Record:
    """What the run is, written to its folder if all that can be known beforehand is right."""
    out = arguments.out
    stages = [out / entry.name for entry in build.manifest.stages]
    progress = [out / metrics.NAME, out / files.FOLDER / files.LATEST, *stages]
    settled = record.settle(
        arguments,
        build.manifest,
        begun=any(path.exists() for path in progress),
        world=place.world,
        threads=processes.threads(place),
        precision="bf16" if device.type == "cuda" else "fp32",
    )
    _check(build, settled, place, out)
    if arguments.tensorboard:
        board.check()
    if arguments.compile:
        _check_compiling(settled, device)
    clear(out, [entry.name for entry in build.manifest.stages])
    record.write(out, settled)
    return settled


def clear(out: Path, stages: list[str]) -> None:
    """Remove what a killed run has left half-written in any of the run's folders."""
    folders = [out, out / weights.AVERAGES, out / files.FOLDER, out / trials.FOLDER / files.FOLDER]
    sweep(folders, [*stages, record.NAME, metrics.NAME, evaluate.NAME, files.LATEST])


def _check(build: Build, settled: record.Record, place: Place, out: Path) -> None:
    """What can be known to be wrong before a model is built."""
    for entry in build.manifest.stages:
        if entry.name not in settled.stages:
            continue
        if entry.name in _RESERVED or entry.name.startswith(".") or "/" in entry.name:
            raise ArgumentError(f"a run cannot keep the weights of a stage called {entry.name!r} under that name")
        try:
            Division(batch=entry.batch, world=place.world, micro_batch=settled.micro_batch)
        except ArgumentError as error:
            error.where = f"stage {entry.name!r}"
            raise
    if settled.offload and settled.zero == 0:
        raise ArgumentError("--offload needs --zero 1, 2 or 3")
    if settled.continues is not None:
        if settled.initial != initial.Initial():
            raise ArgumentError("a run begins with --init or with --continue-from, not with both")
        continued.find(Path(settled.continues), build.manifest, settled)
    initial.check(settled.initial)
    if settled.evaluate is not None:
        evaluate.check(build_place(settled.evaluate), build.manifest)
    if settled.questions is not None:
        answers.check(answers.find(out, settled.questions), build.manifest)


def _check_compiling(settled: record.Record, device: torch.device) -> None:
    from runtime.model import compiled

    if settled.zero == 3:
        raise ArgumentError(
            "layers cannot be compiled at ZeRO 3",
            where="--compile",
            why="DeepSpeed gathers the weights of every module by hooks, which run in the middle of what would be compiled",
            mend="leave the flag out, or begin a run with --zero 0, 1 or 2",
        )
    compiled.check(device)
