"""One case of benchmarks/train_gpu.py, in a process of its own: train the steps of a stage and tell their medians, as one line of
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from padded import Padded, attend, causal_rows, masked_row
from torch import nn
from train_gpu import BACKENDS, DENSE, PADDED

from runtime import processes, record
from runtime.arguments import Arguments
from runtime.attention import use_backend
from runtime.batch import Batch
from runtime.checkpoint.files import FORMAT, State
from runtime.engine import Engine
from runtime.loader import Division, Play, play
from runtime.model.head import Output
from runtime.model.sail_vl import SailVL
from runtime.model.zoo import architecture
from runtime.step import Stepper
from runtime.train import Run
from shards.build import Build


def build_model(case: str, model: str, build: Build, dtype: torch.dtype, device: torch.device) -> SailVL:
    """Random weights, drawn on the device: the same for every case."""
    torch.manual_seed(0)
    with device:
        made = (Padded if case == PADDED else SailVL)(architecture(model, build.manifest.geometry), dtype)
    if case in (DENSE, PADDED):
        attend(made, masked_row if case == DENSE else causal_rows)
    return made


class Clock:
    """Marks in the order of the device's work, and the time between them; asking for a time waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, part: str) -> None:
        """Since the mark before, it was `part` that took its time; "" is nobody's."""
        at: Any = time.perf_counter()
        if self._cuda:
            at = torch.cuda.Event(enable_timing=True)
            at.record()
        self._marks.append((part, at))

    def seconds(self) -> dict[str, float]:
        """By part, and forgets them."""
        if self._cuda:
            torch.cuda.synchronize()
        spent: dict[str, float] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            spent[part] = spent.get(part, 0.0) + (before.elapsed_time(after) / 1e3 if self._cuda else after - before)
        self._marks.clear()
        return spent


class TimedEngine(Engine):
    """Marks where the vision tower ends and the language model begins, on the way there and back."""

    def __init__(self, model: SailVL, *arguments: Any, device: torch.device, **settings: Any) -> None:
        self.clock = Clock(device)
        super().__init__(model, *arguments, device=device, **settings)
        model.language.model.register_forward_pre_hook(self._arrived, with_kwargs=True)

    def _arrived(self, module: nn.Module, positional: tuple[Any, ...], given: dict[str, Any]) -> None:
        self.clock.mark("vision")
        given["inputs_embeds"].register_hook(lambda _: self.clock.mark("language"))

    def forward(self, batch: Batch) -> Output:
        self.clock.mark("")
        output = super().forward(batch)
        self.clock.mark("language")
        return output

    def backward(self, output: Output, **about: Any) -> None:
        super().backward(output, **about)
        self.clock.mark("vision")

    def step(self, rates: dict[str, float]) -> torch.Tensor:
        norm = super().step(rates)
        self.clock.mark("optimizer")
        return norm


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train the steps of one stage in one case."""
    processes.prepare()
    place = processes.place()
    device = processes.device(place)
    if device.type != options.device:
        raise SystemExit(f"no {options.device} device here")
    backend = use_backend(options.case) if options.case in BACKENDS else contextlib.nullcontext()
    with backend:  # ValueError if it is not here, before the rest is made
        return train(options, place, device)


def train(options: argparse.Namespace, place: processes.Place, device: torch.device) -> dict[str, Any]:
    """The medians, by the step of a real run: only the model, and the engine's marks, are of this file."""
    processes.join(place, device)
    processes.compute_repeatably(processes.threads(place))
    build = Build.open(options.build)
    model_name = build.manifest.geometry.name
    precision = "bf16" if device.type == "cuda" else "fp32"
    with tempfile.TemporaryDirectory() as out:
        arguments = Arguments(
            build=options.build,
            out=Path(out),
            zero=options.zero,
            precision=precision,
            micro_batch=1,
            workers=options.workers,
            peak_tflops=options.peak_tflops,
        )
        settled = record.settle(
            arguments,
            build.manifest,
            begun=False,
            world=1,
            threads=torch.get_num_threads(),
            precision=precision,
        )
        run = Run(arguments, build, settled, place, device)
        stage = build.stage(options.stage)
        entry = stage.entry
        division = Division(batch=entry.batch, world=1, micro_batch=1)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = build_model(options.case, model_name, build, dtype, device)
        if options.compile:
            model.compile_layers()
        if options.recompute:
            model.recompute(("vision", "language"))
        engine = TimedEngine(model, entry.train, division, zero=options.zero, precision=precision, device=device)
        state = State(
            format=FORMAT,
            root=settled.root,
            stage=entry.name,
            step=0,
            world=1,
            zero=options.zero,
            precision=precision,
            skipped=0,
            skipped_in_a_row=0,
            files={},
        )
        stepper = Stepper(
            engine,
            entry,
            stage,
            division,
            sources=run.sources,
            root=settled.root,
            place=place,
            device=device,
            peak=run.peak,
        )
        steps = min(options.warmup + options.steps, entry.steps)
        micros = play(
            Play(options.build, entry.name, division, 0), range(steps), workers=options.workers, device=device
        )
        rows = []
        for step in range(steps):
            before = getattr(model, "positions", 0)
            line, _ = stepper.make(msgspec.structs.replace(state, step=step), micros)
            rows.append(_row(line, engine.clock.seconds(), run.peak, getattr(model, "positions", 0) - before))
        told = rows[options.warmup :]
        if not told:
            raise SystemExit(f"stage {entry.name} has {entry.steps} steps, no more than are for warming up")
        return {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "steps": len(told),
            "losses": [row.pop("loss") for row in rows],
            "memory": [row.pop("memory") for row in rows][-1],
            **{name: _median([row[name] for row in told]) for name in told[0]},
        }


def _row(line: Any, spent: dict[str, float], peak: float | None, positions: int) -> dict[str, Any]:
    """The numbers of one step. `positions`: of padded rows, 0 for packed ones."""
    flops = line.flops
    return {
        "loss": line.loss,
        "seconds": line.seconds,
        "tokens_per_second": line.tokens_per_second,
        "supervised_tokens_per_second": line.supervised_tokens_per_second,
        "tiles_per_second": line.tiles_per_second,
        "mfu": line.mfu,
        "vision_mfu": (flops.vision + flops.projector) / spent["vision"] / peak if peak else None,
        "language_mfu": (flops.language + flops.head) / spent["language"] / peak if peak else None,
        "vision_seconds": spent["vision"],
        "language_seconds": spent["language"],
        "optimizer_seconds": spent["optimizer"],
        "data_wait": line.data_wait,
        "unused": 1 - line.tokens / positions if positions else line.padding,
        "memory": line.memory,
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def main() -> None:
    """Measure, and print the findings, or why there are none, as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--stage")
    parser.add_argument("--case")
    parser.add_argument("--device")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--zero", type=int)
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    try:
        found = measure(options)
    except torch.OutOfMemoryError:
        found = {"why": "out of memory"}
    except ValueError as error:
        if "attention backend" not in str(error):
            raise
        found = {"why": str(error)}
    print(json.dumps(found), flush=True)
    os._exit(0)  # as runtime.__main__ leaves, and for its reasons


if __name__ == "__main__":
    main()
