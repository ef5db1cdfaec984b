"""One step of training: its micro-steps, the update, and the line that tells of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from blake3 import blake3

from runtime import metrics
from runtime.checkpoint.files import State
from runtime.engine import Engine
from runtime.flops import Work, step_flops
from runtime.loader import Division, Micro
from runtime.processes import Place
from runtime.schedule import learning_rates
from runtime.spikes import outlier
from shards.manifest import StageEntry

if TYPE_CHECKING:
    from shards.build import StageReader


class Stepper:
    """Makes the steps of a stage. In all processes."""

    def __init__(
        self,
        engine: Engine,
        entry: StageEntry,
        stage: StageReader,
        division: Division,
        *,
        sources: Sequence[str],
        root: str,
        place: Place,
        device: torch.device,
        peak: float | None,
    ) -> None:
        """`sources`: names, by the index that targets have. `root`: of the build. `peak`: FLOP/s of a device, if known."""
        self._engine, self._entry, self._stage, self._division = engine, entry, stage, division
        self._sources, self._root, self._place, self._device, self._peak = sources, root, place, device, peak

    def make(
        self, state: State, micros: Iterator[Micro], flags: Callable[[], metrics.Flags] = metrics.Flags
    ) -> tuple[metrics.Line, metrics.Flags]:
        """Train step `state.step`. Its line, and what is flagged in any process; `flags`: what is in this one, asked last."""
        begun, waited = time.monotonic(), 0.0
        engine, entry, step = self._engine, self._entry, state.step
        facts = self._stage.steps[step]
        denominator = float(facts["denominator"])
        tally = metrics.Tally(sources=len(self._sources), batch=entry.batch, place=self._place, device=self._device)
        engine.model.vision.drop_path.seed = _seed(self._root, entry.name, step)
        spike = False
        for number in range(self._division.micro_steps):
            asked = time.monotonic()
            micro = next(micros)
            waited += time.monotonic() - asked
            batch = micro.row.expand()
            output = engine.forward(batch)
            weighted_N = (batch.weights_N * output.ce_N).double()
            by_source = torch.zeros(len(self._sources), dtype=torch.float64, device=self._device)
            by_source.index_add_(0, batch.sources_N, weighted_N)
            tally.add(micro, micro.weights, weighted_N.sum(), by_source)
            if number == self._division.micro_steps - 1 and entry.train.spikes and denominator:
                # while the step can still be spoilt: what a loss is, is known before its gradient is
                spike = outlier(tally.loss_so_far() / denominator, state.losses, entry.train.spikes)
            engine.backward(output, denominator=denominator, tokens=int(facts["tokens"]), spoilt=spike)
        factor = state.search.factor if state.search else 1.0
        rates = {module: rate * factor for module, rate in learning_rates(step, entry.steps, entry.train).items()}
        norm = engine.step(rates)
        if engine.model.balance:
            engine.model.balance.turn()
        total = tally.total(norm=norm, flags=flags(), wait=waited)
        seconds = time.monotonic() - begun
        return self._line(state, total, rates, seconds=seconds, spike=spike), total.flags

    def _line(
        self, state: State, total: metrics.Total, rates: dict[str, float], *, seconds: float, spike: bool
    ) -> metrics.Line:
        entry, step = self._entry, state.step
        facts = self._stage.steps[step]
        denominator = float(facts["denominator"])
        work = Work(
            tokens=int(facts["tokens"]),
            tiles=int(facts["tiles"]),
            targets=int(facts["supervised"]),
            pairs=int(sum(total.pairs)),
        )
        flops = step_flops(self._engine.model.shape, entry.train.lr, work)
        return metrics.Line(
            stage=entry.name,
            step=step,
            loss=metrics.finite(total.loss_sum / denominator if denominator else 0.0),
            lr=rates,
            grad_norm=metrics.finite(total.norm),
            tokens=work.tokens,
            supervised_tokens=work.targets,
            images=int(facts["images"]),
            tiles=work.tiles,
            packs=[(step * entry.batch + place, digest) for place, digest in total.packs],
            loss_by_source={
                name: metrics.finite(its_loss / weight)
                for name, (its_loss, weight) in zip(self._sources, total.by_source, strict=True)
                if weight
            },
            seconds=round(seconds, 4),
            data_wait=round(total.wait, 4),
            tokens_per_second=round(work.tokens / seconds, 1),
            supervised_tokens_per_second=round(work.targets / seconds, 1),
            tiles_per_second=round(work.tiles / seconds, 2),
            padding=round(1 - work.tokens / (entry.batch * entry.sequence_length), 4),
            flops=flops,
            mfu=round(flops.total / (seconds * self._peak * self._place.world), 4) if self._peak else None,
            memory=total.memory,
            skew={
                "tokens": round(metrics.skew(total.tokens), 4),
                "tiles": round(metrics.skew(total.tiles), 4),
                "pairs": round(metrics.skew(total.pairs), 4),
            },
            skipped=state.skipped + (not math.isfinite(total.norm)),
            spike=spike,
        )


def _seed(root: str, stage: str, step: int) -> int:
    """Of what a model draws at a step, in every process the same: there is no random state to save."""
    return int.from_bytes(blake3(f"mixc step 2\0{root}\0{stage}\0{step}".encode()).digest(8), "little") >> 1
