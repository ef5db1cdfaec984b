"""Evaluation while training: another build's packs, played forward only, and `RUN/evaluations.jsonl`.

A stage's weights are evaluated before its first step, every so many steps, and after its last. All packs of all the
build's stages are played, dealt to the processes whatever their number: nothing is trained, so no step has to be divided
evenly. The model learns nothing of it, no random number is drawn, and a step of training is the same before and after.

A line in evaluations.jsonl stands for weights that the run has passed through. What a resume finds evaluated up to the
checkpoint is kept; what is missing there is made up for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from runtime import record
from runtime.board import Board
from runtime.engine import Engine
from runtime.errors import ArgumentError
from runtime.loader import Division, Play, play, source_names
from runtime.metrics import finite
from runtime.processes import Place, from_first
from shards import store
from shards.atomic import atomic_write
from shards.build import Build
from shards.counted import counted
from shards.manifest import Manifest, StageEntry

NAME = "evaluations.jsonl"


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A line of evaluations.jsonl. A number that is not finite is null."""

    stage: str
    step: int
    """Steps of the stage that these weights have been trained for."""
    loss: float | None
    """sum(weight * ce) / sum(weight) over all supervised tokens of the build, in nats."""
    loss_by_source: dict[str, float | None]
    """The same mean over one source's."""
    tokens: int
    seconds: float
    root: str
    """Of the build that was played."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal(Division):
    """A stage's packs in the order of their numbers, dealt out until there are none left: in the last round a process
    may get fewer than the others, or nothing."""

    total: int
    """Packs of the stage."""

    @property
    def rounds(self) -> int:
        return -(-self.total // self.batch)

    def packs(self, step: int, micro: int, rank: int) -> range:
        first = step * self.batch + rank
        return range(first, min(first + self.batch, self.total), self.world)


def deal(entry: StageEntry, world: int, micro_batch: int) -> Deal:
    """How an evaluation divides the stage: rounds of one micro-step."""
    return Deal(batch=world * micro_batch, world=world, micro_batch=micro_batch, total=entry.packs)


def check(folder: store.Place, manifest: Manifest) -> None:
    """Raises ShardError when there is no build in `folder`, ArgumentError when it is of another model than `manifest`, the one
    that is trained from, or has nothing to evaluate."""
    where = f"--eval {folder}"
    other = Build.open(folder).manifest
    agreed = ("geometry", "tokenizer", "template")
    ours, theirs = ({name: record.parts(each)[name] for name in agreed} for each in (manifest, other))
    if differences := record.moved(ours, theirs):
        raise ArgumentError(
            "this build is of another model than the one that is trained from",
            where=where,
            why=f"differs: {', '.join(differences)}",
            mend="compile it for the same model, tokenizer and tiles",
        )
    if not sum(stage.supervised_tokens for stage in other.stages):
        raise ArgumentError("this build has no supervised token, so there is no loss to tell", where=where)


class Evaluator:
    """Evaluates a run's model on one build. In all processes."""

    def __init__(
        self,
        folder: store.Place,
        out: Path,
        place: Place,
        device: torch.device,
        *,
        every: int | None,
        micro_batch: int,
        workers: int,
        console: Console,
        stopping: Callable[[], bool],
    ) -> None:
        """`every`: steps; None is a stage's beginning and end alone. `stopping` says whether this process was asked to stop."""
        self._build = Build.open(folder)
        self._out, self._place, self._device, self._every = out, place, device, every
        self._micro_batch, self._workers = micro_batch, workers
        self._console, self._stopping = console, stopping
        self._sources = source_names(self._build.manifest.stages)
        root = self._build.manifest.root
        kept = from_first([each for each in read(out) if each.root == root] if place.first else None)
        self._made = {(each.stage, each.step): each for each in kept}

    @property
    def described(self) -> str:
        manifest = self._build.manifest
        packs, tokens = (sum(getattr(stage, name) for stage in manifest.stages) for name in ("packs", "tokens"))
        often = f", every {counted(self._every, 'step')}" if self._every else ""
        return (
            f"{self._build.path.name}, root {manifest.root[:16]}, {counted(packs, 'pack')} of {counted(tokens, 'token')}, "
            f"at the stage's beginning and end{often}"
        )

    def at(self, engine: Engine, entry: StageEntry, step: int, board: Board | None) -> None:
        """Evaluate the weights after `step` steps of a stage, if it is time and has not been done. An evaluation during which a
        process is asked to stop is given up."""
        due = step in (0, entry.steps) or (self._every is not None and step % self._every == 0)
        if not due:
            return
        line = self._made.get((entry.name, step))
        if line is None:
            line = self._evaluate(engine, entry.name, step)
            if line is None:
                return
            self._made[entry.name, step] = line
            if self._place.first:
                write(self._out, line)
                show(self._console, line, entry.steps)
        if board:
            board.evaluation(line)  # one that was made before a resume too: TensorBoard was told to forget it

    def _evaluate(self, engine: Engine, stage: str, step: int) -> Evaluation | None:
        begun = time.monotonic()
        engine.model.eval()
        try:
            with torch.no_grad():
                sums = self._play(engine)
        finally:
            engine.model.train()
        if sums is None:
            return None
        count = len(self._sources)
        losses, weights, tokens = sums[:count], sums[count:-1], sums[-1]
        return Evaluation(
            stage=stage,
            step=step,
            loss=finite(sum(losses) / sum(weights)) if sum(weights) else None,
            loss_by_source={
                name: finite(loss / weight)
                for name, loss, weight in zip(self._sources, losses, weights, strict=True)
                if weight
            },
            tokens=int(tokens),
            seconds=round(time.monotonic() - begun, 4),
            root=self._build.manifest.root,
        )

    def _play(self, engine: Engine) -> list[float] | None:
        """Of each source its weighted loss, then of each its weight, and the number of tokens, of all processes. None when some
        process was asked to stop."""
        count = len(self._sources)
        losses = torch.zeros(count, dtype=torch.float64, device=self._device)
        host = [0.0] * (count + 1)
        for entry in self._build.manifest.stages:
            division = deal(entry, self._place.world, self._micro_batch)
            dataset = Play(self._build.path, entry.name, division, self._place.rank)
            for micro in play(dataset, range(division.rounds), workers=self._workers, device=self._device):
                if self._asked():
                    return None
                batch = micro.row.expand()
                ce_N = engine.forward(batch).ce_N
                losses.index_add_(0, batch.sources_N, (batch.weights_N * ce_N).double())
                for source, weight in enumerate(micro.weights):
                    host[source] += weight
                host[count] += micro.tokens
        sums = torch.cat([losses, torch.tensor(host, dtype=torch.float64).to(self._device)])
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def _asked(self) -> bool:
        """Whether some process was asked to stop: known to all in the same round, or one would wait for another for ever."""
        asked = torch.tensor(float(self._stopping()), device=self._device)
        torch.distributed.all_reduce(asked)
        return asked.item() > 0


def read(out: Path) -> list[Evaluation]:
    """The whole lines of evaluations.jsonl; none when there is no such file."""
    path = out / NAME
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(msgspec.DecodeError):  # of a process that was killed while it wrote
            found.append(msgspec.json.decode(line, type=Evaluation))
    return found


def write(out: Path, line: Evaluation) -> None:
    with (out / NAME).open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")


def cut(out: Path, done: Sequence[str], stage: str | None, step: int) -> None:
    """Keep the lines of stages that are `done`, and those of `stage` up to the weights after `step` steps, which are in the
    checkpoint. Drop the rest, and a line cut short."""
    if not (out / NAME).exists():
        return
    kept = [line for line in read(out) if line.stage in done or (line.stage == stage and line.step <= step)]
    with atomic_write(out / NAME) as file:
        for line in kept:
            file.write(msgspec.json.encode(line) + b"\n")


def show(console: Console, line: Evaluation, steps: int) -> None:
    """One line for people."""

    def said(loss: float | None) -> str:
        return "not finite" if loss is None else f"{loss:.4f}"

    parts = [
        f"evaluation  {line.stage} {line.step}/{steps}",
        f"loss {said(line.loss)}",
        *(f"{name} {said(loss)}" for name, loss in line.loss_by_source.items()),
        f"{line.tokens:,} tok",
        f"{line.seconds:.2f} s",
    ]
    console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)
