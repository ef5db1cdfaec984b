"""Two processes at ZeRO 3, each of which sends its tokens to experts of its own: a program for torchrun.

Prints, in the first process, how far the weights are from those of plain torch over both processes' tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch
from torch import nn

from runtime import parts, processes
from runtime.model.head import Output
from tests.runtime.small import SETTINGS

WIDTH, EXPERTS, STEPS = 256, 4, 4  # matrices over 100,000 elements: ZeRO 3 keeps smaller ones whole


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # of different sizes, so that collectives that do not belong together cannot pass for each other
        self.each = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH * (2 + e)), nn.GELU(), nn.Linear(WIDTH * (2 + e), WIDTH))
            for e in range(EXPERTS)
        )

    def forward(self, x_NH: torch.Tensor, expert_N: torch.Tensor) -> torch.Tensor:
        out_NH = torch.zeros_like(x_NH)
        for number in expert_N.unique(sorted=False).tolist():  # only those that are asked for
            chosen = expert_N == number
            out_NH[chosen] = self.each[number](x_NH[chosen])
        return out_NH


class Model(nn.Module):
    leaf_modules = (Experts,)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.projector = nn.Linear(WIDTH, WIDTH)
        self.language = Experts()

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x_NH, expert_N = batch
        return (x_NH + self.language(self.projector(x_NH), expert_N)).square().sum()


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Other experts in each process: 0 and 1 or 2, then 3; nobody's now and then."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    experts = [[0, (step + 1) % 2], [3 - step % 2]][rank]
    return torch.randn(8, WIDTH, generator=generator), torch.tensor(experts).repeat(8)[:8]


def reference(settings) -> dict[str, torch.Tensor]:
    from runtime.optimizer import adamw, freeze, group, set_rates

    model = Model()
    freeze(model, settings)
    groups = group(model, settings)
    optimizer = adamw(model, groups, settings)
    for step in range(STEPS):
        for rank in (0, 1):
            (model(batch(step, rank)) / 16).backward()
        for parameter in model.parameters():  # DeepSpeed takes an expert that nobody asked for to have gradients of 0
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        set_rates(optimizer, groups, settings.lr, settings)
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}


def main(folder: Path) -> None:
    from runtime.engine import Engine
    from runtime.loader import Division
    from runtime.weights import gather

    place, device = processes.place(), torch.device("cpu")
    processes.prepare()
    processes.join(place, device)
    processes.compute_repeatably(1)
    settings = msgspec.structs.replace(SETTINGS, lr={"projector": 2e-3, "language": 5e-3})
    division = Division(batch=2, world=2, micro_batch=1)

    def engine() -> Engine:
        return Engine(Model(), settings, division, zero=3, precision="fp32", device=device)

    def learn(engine: Engine, steps: range) -> None:
        for step in steps:
            output = Output(engine.forward(batch(step, place.rank)), torch.empty(0))  # type: ignore[arg-type]
            engine.backward(output, denominator=16.0)
            engine.step(settings.lr)

    first = engine()
    learn(first, range(STEPS // 2))
    mine = folder / f"{place.rank:05d}.safetensors"
    parts.write(mine, *first.contents(place))
    first.close()
    again = engine()
    again.load(sorted(path for part in processes.gather([mine]) for path in part), place)
    learn(again, range(STEPS // 2, STEPS))
    found = {name: tensor.clone() for name, tensor in gather(again.model, place)}
    if place.first:
        expected = reference(settings)
        print("apart", max(float((found[name] - expected[name]).abs().max()) for name in expected))
    again.close()
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
