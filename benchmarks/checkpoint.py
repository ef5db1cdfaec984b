"""What a checkpoint costs the steps around it: none, behind the steps as `mixc train` writes it, and with the step waiting.

    PYTHONPATH=. python benchmarks/checkpoint.py FOLDER [--weights 50] [--steps 24] [--every 8] [--device cpu]

A few linear layers of so many million weights, trained by the engine, optimizer and all, on random rows; checkpoints go to FOLDER,
which should be on the disk that runs are on. The step waits where there is no memory for a copy, and did always before there
was one: the same code writes the same files, while training stands still.

Told are seconds: of the median step; of the longest one with what it waited for; `blocked`, what a save took from between two steps,
the first and the median of the others; `behind`, from then until it was published; and what all steps took, over those without
checkpoints, for each checkpoint, which has in it what the thread takes from the steps that it runs beside. The last
checkpoint is waited for, so a run should have some steps after it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from runtime import memory, metrics, processes
from runtime.checkpoint.files import FORMAT, State, keep_furthest
from runtime.checkpoint.saver import Saver
from runtime.engine import Engine
from runtime.loader import Division
from runtime.model.head import Output
from shards.manifest import TrainSettings

WIDTH = 2048
SETTINGS = TrainSettings(
    lr={"language": 1e-4},
    schedule="constant",
    warmup_steps=0,
    min_lr_ratio=1.0,
    weight_decay=0.0,
    betas=(0.9, 0.95),
    eps=1e-8,
    clip=0.0,
    loss="token",
)


class Layers(nn.Module):
    def __init__(self, millions: int) -> None:
        super().__init__()
        number = max(1, millions * 1_000_000 // WIDTH**2)
        self.language = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(number)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.language(rows).square().mean()
        return loss


@dataclass(frozen=True)
class Cost:
    steps: list[float]
    """Seconds, with what each waited for at its end."""
    saves: list[metrics.Save]


def play(options: argparse.Namespace, way: str, device: torch.device) -> Cost:
    """Train the steps."""
    place = processes.place()
    out = options.folder / way
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / metrics.NAME).touch()
    torch.manual_seed(0)
    division = Division(batch=1, world=1, micro_batch=1)
    engine = Engine(Layers(options.weights), SETTINGS, division, zero=1, precision="fp32", device=device)
    rows = torch.randn(options.rows, WIDTH, device=device)
    seconds, saves = [], []
    available = memory.available
    if way == "waiting":
        memory.available = lambda: 0
    try:
        with Saver(out, place, device, Console(quiet=True)) as saver:
            for step in range(1, options.steps + 1):
                begun = time.perf_counter()
                engine.backward(Output(engine._deepspeed(rows), torch.empty(0)), denominator=1.0)
                float(engine.step({"language": 1e-4}))  # waits for the device, as a step's line does
                saves += saver.at(saver.flags())
                if way != "none" and step % options.every == 0:
                    saver.begin(engine, out, state(step), keep_furthest(2, ["stage"]))
                elif way == "behind" and step == 1:
                    saver.prepare(engine)
                seconds.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            saver.finish()
            seconds[-1] += time.perf_counter() - begun
            saves += saver.at(saver.flags())
    finally:
        memory.available = available
        engine.close()
        shutil.rmtree(out)
    return Cost(seconds, saves)


def state(step: int) -> State:
    return State(
        format=FORMAT,
        root="",
        stage="stage",
        step=step,
        world=1,
        zero=1,
        precision="fp32",
        skipped=0,
        skipped_in_a_row=0,
        files={},
    )


def show(way: str, cost: Cost, none: Cost) -> str:
    row = f"{way:<8}  {statistics.median(cost.steps[2:]):6.3f}  {max(cost.steps[2:]):7.3f}  {sum(cost.steps):7.2f}"
    if not cost.saves:
        return row
    blocked = [save.blocked for save in cost.saves]
    behind = statistics.median(save.behind for save in cost.saves)
    extra = (sum(cost.steps) - sum(none.steps)) / len(cost.saves)
    return f"{row}  {blocked[0]:7.3f}  {statistics.median(blocked[1:] or blocked):7.3f}  {behind:6.2f}  {extra:8.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=int, default=50, help="millions; a checkpoint has 12 bytes of each (50)")
    parser.add_argument("--rows", type=int, default=512, help="of the batch: more of them make a longer step (512)")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=8, help="steps between checkpoints (8)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    processes.prepare()
    place = processes.place()
    device = processes.device(place)
    processes.join(place, device)
    processes.compute_repeatably(processes.threads(place))
    print(f"{'':8}  {'median':>6}  {'longest':>7}  {'all':>7}  {'blocked':>7}  {'':>7}  {'behind':>6}  {'a save':>8}")
    none = play(options, "none", device)
    print(show("none", none, none), flush=True)
    for way in ("waiting", "behind"):
        print(show(way, play(options, way, device), none), flush=True)
    print(f"{options.weights} million weights, {options.steps} steps, a checkpoint every {options.every}; {device}")


if __name__ == "__main__":
    main()
    os._exit(0)  # as runtime.__main__ leaves, and for its reasons
