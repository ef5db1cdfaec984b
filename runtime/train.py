"""A run: stage after stage, step after step.

    settle -> for each stage: weights in, engine, steps, checkpoints, weights out

A stage that has its weights in RUN/<stage> is done. Every other stage begins with the weights of the one
before, read from there, whether the run was interrupted between them or not; so that a run, however often it
is killed and resumed, goes through the same states.
"""

from __future__ import annotations

import math
import signal
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from runtime import answers, board, continued, ending, evaluate, initial, metrics, processes, record, weights
from runtime.arguments import Arguments
from runtime.begin import settle
from runtime.checkpoint import files
from runtime.checkpoint.saver import Saver
from runtime.engine import Engine
from runtime.errors import CheckpointError, DivergedError, StoppedError
from runtime.flops import peak_flops
from runtime.loader import Division, Play, play, source_names
from runtime.processes import Place
from runtime.spikes import remember
from runtime.step import Stepper
from runtime.stopping import Stopping
from runtime.trials import Trials
from shards.build import Build
from shards.counted import counted
from shards.manifest import StageEntry
from shards.store import place as build_place

if TYPE_CHECKING:
    import torch

SKIPS = 10
"""Steps in a row without a finite gradient that end a run: it will not come back by itself."""


class Run:
    """A run in one process."""

    def __init__(
        self, arguments: Arguments, build: Build, settled: record.Record, place: Place, device: torch.device
    ) -> None:
        self.arguments, self.build, self.settled, self.place, self.device = arguments, build, settled, place, device
        self.out: Path = arguments.out
        self.stages = [entry for entry in build.manifest.stages if entry.name in settled.stages]
        self.sources = source_names(build.manifest.stages)
        self.peak = _peak(arguments, settled.precision, device)
        self.console = Console(quiet=not place.first)
        self.saver = Saver(self.out, place, device, self.console)
        self.trials = Trials(self.out, self.saver, place)
        self.forget = files.keep_furthest(arguments.keep, settled.stages)
        self.stopping = Stopping()
        self.stopped = ""
        """What to say of it, once all processes have stopped at one step."""
        self.evaluator: evaluate.Evaluator | None = None
        self.asker: answers.Asker | None = None

    def done(self, entry: StageEntry) -> bool:
        """Whether the stage's weights are saved. Raises CheckpointError if something else stands there."""
        folder = self.out / entry.name
        config = weights.read_config(folder)
        if config is None and not folder.exists():
            return False
        if config is None or (config.root, config.stage) != (self.settled.root, entry.name):
            raise CheckpointError(
                f"something else stands where the weights of stage {entry.name!r} belong",
                where=str(folder),
                why=f"it is stage {config.stage!r} of the build with root {config.root[:16]}" if config else "",
                mend="move it away, or begin the run in another folder",
            )
        return True

    def execute(self) -> None:
        """Train what is left to train. Raises TrainError or ShardError; StoppedError after a signal, once all
        is saved."""
        finished = [entry.name for entry in self.stages if self.done(entry)]
        left = [entry for entry in self.stages if entry.name not in finished]
        if [entry.name for entry in self.stages[: len(finished)]] != finished:
            raise CheckpointError(
                f"stage {left[0].name!r} has no weights, but a later stage has",
                where=str(self.out),
                mend="put its folder back, or begin the run again in another folder",
            )
        start = self._checkpoint(left[0], finished) if left else None
        step = start[1].step if start else 0
        if self.place.first:
            metrics.cut(self.out, finished, left[0].name if left else None, step)
            evaluate.cut(self.out, finished, left[0].name if left else None, step)
            answers.cut(self.out, finished, left[0].name if left else None, step)
        self.evaluator = self._evaluator() if left else None
        self.asker = self._asker() if left else None
        before = sum(entry.steps for entry in self.stages if entry.name in finished)
        previous = self.out / finished[-1] if finished else None
        limit = self.arguments.max_steps or math.inf
        for entry in left:
            last = int(min(entry.steps, limit - before))
            begun = start[1].step if start else 0  # which may be further than the limit
            if last <= 0:
                self._limited(entry, begun)
                return
            ended = self._train(entry, previous, start, last)
            if self.stopped:
                number = self.stopping.signal or signal.SIGINT
                raise StoppedError(f"{self.stopped}\n  go on: {self._go_on}", signal_number=number)
            if not ended:
                self._limited(entry, max(begun, last))
                return
            before += entry.steps
            previous, start = self.out / entry.name, None
        self._say(
            *ending.trained(
                self.out,
                [entry.name for entry in self.stages],
                left=[entry.name for entry in self.build.manifest.stages if entry not in self.stages],
                images=any(entry.images for entry in self.stages),
            )
        )

    def _limited(self, entry: StageEntry, step: int) -> None:
        where = ending.stopped(entry.name, step, entry.steps) if step else ending.not_begun(entry.name)
        self._say(f"{where} (--max-steps {self.arguments.max_steps})", f"go on: {self._go_on}")

    @property
    def _go_on(self) -> str:
        return ending.go_on(self.arguments.build, self.out, self.place)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _evaluator(self) -> evaluate.Evaluator | None:
        settled = self.settled
        if settled.evaluate is None:
            return None
        return evaluate.Evaluator(
            build_place(settled.evaluate),
            self.out,
            self.place,
            self.device,
            every=settled.evaluate_every,
            micro_batch=settled.micro_batch,
            workers=self.arguments.workers,
            console=self.console,
            stopping=lambda: bool(self.stopping),
        )

    def _asker(self) -> answers.Asker | None:
        settled = self.settled
        if settled.questions is None:
            return None
        return answers.Asker(
            answers.find(self.out, settled.questions),
            self.out,
            self.place,
            self.device,
            every=settled.evaluate_every,
            console=self.console,
            stopping=lambda: bool(self.stopping),
        )

    def _checkpoint(self, entry: StageEntry, finished: list[str]) -> tuple[Path, files.State] | None:
        """The checkpoint to go on from in `entry`, if it is of that stage."""
        found = files.latest(self.out)
        if found is None or found[1].stage in finished:
            return None
        path, state = found
        if state.stage != entry.name:
            raise CheckpointError(
                f"a checkpoint of stage {state.stage!r}, but stage {entry.name!r} before it has no weights",
                where=str(path),
                mend=f"put {self.out / entry.name} back, or begin the run again in another folder",
            )
        files.fits(
            path,
            state,
            root=self.settled.root,
            zero=self.settled.zero,
            precision=self.settled.precision,
        )
        return found

    def _train(
        self, entry: StageEntry, previous: Path | None, start: tuple[Path, files.State] | None, last: int
    ) -> bool:
        """Train `entry` up to step `last`. Whether that was its end."""
        import torch

        from runtime.attention import backend
        from runtime.model.sail_vl import build_model, describe

        begun = time.monotonic()
        manifest, settled = self.build.manifest, self.settled
        division = Division(batch=entry.batch, world=self.place.world, micro_batch=settled.micro_batch)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[settled.precision]
        seed, origin = manifest.seed, initial.Initial(whole=previous) if previous else settled.initial
        begin = None
        if previous is None and settled.continues is not None:
            begin = continued.find(Path(settled.continues), manifest, settled)
            seed, origin = begin.seed, initial.Initial(whole=begin.origin)
        model = build_model(
            manifest.geometry.name,
            manifest.geometry,
            seed,
            dtype,
            lambda shape: initial.adopted(shape, origin),
            given=initial.given(origin),
        )
        loaded = initial.load(model, origin) or f"random, seed {seed}"
        model.prepare(entry.train)
        if self.arguments.compile:
            model.compile_layers()
        model.recompute(self.arguments.recompute)
        parts = describe(model)
        engine = Engine(
            model,
            entry.train,
            division,
            zero=settled.zero,
            precision=settled.precision,
            device=self.device,
            offload=settled.offload,
        )
        with closing(engine):
            state = files.State(
                format=files.FORMAT,
                root=settled.root,
                stage=entry.name,
                step=0,
                world=self.place.world,
                zero=settled.zero,
                precision=settled.precision,
                skipped=0,
                skipped_in_a_row=0,
                files={},
            )
            if start is None and begin is not None and begin.checkpoint is not None:
                files.load(engine, *begin.checkpoint, self.place)
                loaded += f", then {begin.checkpoint[0]}"
            if start is not None:
                path, state = start
                files.load(engine, path, state, self.place)
                state = msgspec.structs.replace(state, world=self.place.world, files={})
                loaded += f", then step {state.step} from {path}"
            metrics.table(
                self.console,
                stage=entry.name,
                parts=parts,
                lr=entry.train.lr,
                facts=self._facts(
                    entry,
                    division,
                    loaded,
                    backend(self.device, dtype, model.shape.language.head_dim),
                    time.monotonic() - begun,
                ),
            )
            state = self._steps(engine, entry, division, state, last)
            if state.step < entry.steps or (self.stopped and self.asker):
                return False
            about = {
                "model": manifest.geometry.name,
                "geometry": msgspec.to_builtins(manifest.geometry),
                "root": settled.root,
                "stage": entry.name,
                "steps": entry.steps,
                "precision": settled.precision,
                "pixel_shuffle": model.shape.pixel_shuffle,
            }
            if entry.train.ema is not None:
                # first: when the stage's own weights are there, the stage is done
                engine.swap_average(self.place)
                weights.save(model, self.out / weights.AVERAGES / entry.name, self.place, **about)
                engine.swap_average(self.place)
            weights.save(model, self.out / entry.name, self.place, **about)
            self.trials.end()
            return True

    def _facts(
        self, entry: StageEntry, division: Division, loaded: str, attention: str, seconds: float
    ) -> list[tuple[str, object]]:
        geometry, settled = self.build.manifest.geometry, self.settled
        return [
            ("model", f"{geometry.name}, {settled.precision}; weights {loaded}"),
            ("attention", attention),
            (
                "processes",
                f"{division.world} on {self.device.type}, ZeRO {settled.zero}"
                f"{', optimizer on the CPU' if settled.offload else ''}, {counted(settled.micro_batch, 'pack')} x "
                f"{counted(division.micro_steps, 'micro-step')} each; {counted(settled.threads, 'thread')}"
                f"{'; layers compiled' if self.arguments.compile else ''}",
            ),
            ("build", f"{self.build.path.name}, root {settled.root[:16]}"),
            (
                "stage",
                f"{counted(entry.steps, 'step')} of {counted(entry.batch, 'pack')} of {entry.sequence_length:,} tokens; "
                f"{entry.train.schedule}, "
                f"warm-up {entry.train.warmup_steps}, loss {entry.train.loss}",
            ),
            ("a model that knows nothing", f"loss ln {geometry.vocab_size} = {math.log(geometry.vocab_size):.2f}"),
            *([("evaluated on", self.evaluator.described)] if self.evaluator else []),
            *([("asked", self.asker.described)] if self.asker else []),
            *([("peak of a device", f"{self.peak / 1e12:g} TFLOP/s")] if self.peak else []),
            ("ready in", f"{seconds:.1f} s"),
        ]

    def _steps(
        self, engine: Engine, entry: StageEntry, division: Division, state: files.State, last: int
    ) -> files.State:
        """Steps `state.step` to `last`, with a checkpoint every so often, and one where it stops before the
        stage's end. All of them are published when it returns."""
        saver, begun, saved = self.saver, state.step, state.step
        every = self.arguments.save_every
        stepper = Stepper(
            engine,
            entry,
            self.build.stage(entry.name),
            division,
            sources=self.sources,
            root=self.settled.root,
            place=self.place,
            device=self.device,
            peak=self.peak,
        )
        micros = play(
            Play(self.build.path, entry.name, division, self.place.rank),
            range(state.step, last),
            workers=self.arguments.workers,
            device=self.device,
        )
        if self.asker:
            self.asker.at(engine, entry, state.step)
            if self.place.first and state.step:
                # the step's line may be of a run that was stopped before it had answers, or asked nothing yet
                metrics.complete(self.out, answers.exact(self.out, entry.name, state.step))
            if self.asker.stopped:
                if not state.step:  # else it is what the run goes on from
                    saver.begin(engine, self.out, state, self.forget)
                    saver.finish()
                self.stopped = ending.stopped(entry.name, state.step, entry.steps)
                return state
        log = metrics.Log(self.out) if self.place.first else None
        shown = None
        if self.place.first and self.arguments.tensorboard:
            earlier = self.stages[: self.stages.index(entry)]
            shown = board.Board(self.out, before=sum(stage.steps for stage in earlier), step=state.step)
        try:
            while state.step < last:
                if self.evaluator:
                    self.evaluator.at(engine, entry, state.step, shown)
                line, flags = stepper.make(state, micros, self._flags)
                line, stop = msgspec.structs.replace(line, saves=saver.at(flags)), flags.stop
                bad = line.grad_norm is None
                state = msgspec.structs.replace(
                    state,
                    step=state.step + 1,
                    skipped=line.skipped,
                    skipped_in_a_row=state.skipped_in_a_row + 1 if bad else 0,
                )
                if entry.train.spikes:
                    losses = remember(_number(line.loss), state.losses, entry.train.spikes)
                    state = msgspec.structs.replace(state, losses=losses)
                diverged = state.skipped_in_a_row >= SKIPS
                if not diverged:
                    if entry.train.adalrs:
                        state = self.trials.after(engine, state, _number(line.loss), entry.train.adalrs)
                    if self.asker and not stop:
                        exact = self.asker.at(engine, entry, state.step)
                        line = line if exact is None else msgspec.structs.replace(line, exact=exact)
                        stop = self.asker.stopped
                if log:
                    log.write(line)
                    if shown:
                        shown.write(line)
                    due = line.step % self.arguments.log_every == 0 or state.step == last
                    if bad or stop or line.saves or due:
                        metrics.show(self.console, line, entry.steps)
                if diverged:
                    saver.finish()
                    raise DivergedError(
                        f"loss or gradient not finite for {SKIPS} steps in a row",
                        where=f"stage {entry.name!r}, step {state.step} of {entry.steps}",
                        why=f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint yet",
                        mend="lower the learning rates, or look at the packs of these steps: metrics.jsonl names them",
                    )
                # where the weights are saved instead, unless the stage is still to be asked its questions
                ends = state.step == entry.steps and not (stop and self.asker)
                if (state.step % every == 0 or state.step == last or stop) and not ends:
                    if shown:
                        shown.flush()
                    saver.begin(engine, self.out, state, self.forget)
                    saved = state.step
                elif state.step == begun + 1 and (every < last or entry.train.adalrs):
                    saver.prepare(engine)
                if stop:
                    self.stopped = ending.stopped(entry.name, state.step, entry.steps)
                    break
            saver.finish()
            if self.evaluator and not self.stopped:
                self.evaluator.at(engine, entry, last, shown)
        finally:
            if log:
                log.close()
                metrics.sync(self.out)
            if shown:
                shown.close()
        return state

    def _flags(self) -> metrics.Flags:
        return self.saver.flags()._replace(stop=bool(self.stopping))


def _number(loss: float | None) -> float:
    """Of a line: what is not finite is None there."""
    return math.nan if loss is None else loss


def _peak(arguments: Arguments, precision: str, device: torch.device) -> float | None:
    """FLOP/s of one device; of the others it is taken to be the same."""
    if arguments.peak_tflops is not None:
        return arguments.peak_tflops * 1e12
    if device.type != "cuda" or precision != "bf16":
        return None
    import torch

    return peak_flops(torch.cuda.get_device_name(device))


def train(arguments: Arguments, build: Build) -> None:
    """Do what the command line asks. In all processes. Raises TrainError, ShardError, or KeyboardInterrupt."""
    place = processes.place()
    with record.lock(arguments.out) if place.first else nullcontext():
        device = processes.device(place)
        # in the first process, before the others are waited for: a mistake in the command is said at once
        mine = settle(arguments, build, place, device) if place.first else None
        processes.join(place, device)
        settled = processes.from_first(mine)
        processes.compute_repeatably(settled.threads)
        run = Run(arguments, build, settled, place, device)
        with run.stopping.listening(run.console), run.saver:
            run.execute()
