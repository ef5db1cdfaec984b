"""What a run says of itself: the table at its start, one line a step, and `RUN/metrics.jsonl`.

Every process fills a `Tally` with what it saw of a step. One sum over the processes and one copy to the host
make the step's line of it: the only time a step waits for the device on our account. The packs in the line
are those that were trained on, as the processes read them, not those that should have been.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from runtime.errors import TrainError
from runtime.flops import Flops
from runtime.loader import Micro
from runtime.processes import Place
from shards.atomic import atomic_write

NAME = "metrics.jsonl"


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was published. Seconds."""

    checkpoint: str
    """Its name."""
    blocked: float
    """That the slowest process waited for it, between two steps."""
    behind: float
    """From then until it was there for a resume, while steps went on."""


class Flags(NamedTuple):
    """What processes tell each other with the sum that ends a step: one that is set in any is set in the sum."""

    stop: bool = False
    """It was asked to stop."""
    writing: bool = False
    """It is writing a checkpoint."""
    failed: bool = False
    """It could not."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of metrics.jsonl. A number that is not finite is null."""

    stage: str
    step: int
    """Of the stage, from 0."""
    loss: float | None
    """sum(weight * ce) / sum(weight) over the step's supervised tokens, in nats."""
    lr: dict[str, float]
    """By module; one that is frozen is absent."""
    grad_norm: float | None
    """Before clipping. Null: not finite, and the step changed nothing."""
    tokens: int
    supervised_tokens: int
    images: int
    tiles: int
    packs: list[tuple[int, str]]
    """Number in the stage, and first 16 hex digits of the digest, of each pack that some process trained on.
    """
    loss_by_source: dict[str, float | None]
    """The same mean over one source's supervised tokens; a source without any in the step is absent."""
    seconds: float
    data_wait: float
    """Seconds that the slowest process waited for its packs."""
    tokens_per_second: float
    supervised_tokens_per_second: float
    tiles_per_second: float
    padding: float
    """Share of the step's positions, packs times sequence length, that hold no token."""
    flops: Flops
    """What the step's mathematics takes, forward and backward, of all processes: runtime/flops.py."""
    mfu: float | None
    """Their share of what the devices could have done in `seconds`. Null where that is not known."""
    memory: int | None
    """Bytes that tensors took on the fullest device, at most, since the run was started. Null on a CPU."""
    skew: dict[str, float]
    """Work of the busiest process over the mean: `tokens`, `tiles`, and `pairs` of tokens that attend to each
    other."""
    skipped: int
    """Steps of the stage so far, this one too, that changed nothing: spikes, and those whose gradient was not finite."""
    spike: bool = False
    """The loss was an outlier, so the step was left out."""
    exact: int | msgspec.UnsetType = msgspec.UNSET
    """Of the questions that the weights were asked after the step, how many were answered exactly. Absent where none was asked."""
    saves: list[Save] = []
    """Checkpoints that were published since the line before, a search's copies among them."""


class Tally:
    """What a process saw of one step.

    As float64 for the sum over processes: loss; flags; per source its loss and weight; per process its tokens,
    tiles, pairs, wait and memory; per pack of the step a count, and two halves of the first 64 bits of its digest
    (each exact).
    """

    _PER_PROCESS = 5
    _PER_PACK = 3
    _FLAGS = len(Flags._fields)

    def __init__(self, *, sources: int, batch: int, place: Place, device: torch.device) -> None:
        self._sources, self._batch, self._place, self._device = sources, batch, place, device
        self._loss = torch.zeros(1 + sources, dtype=torch.float64, device=device)
        self._host = [0.0] * (self._FLAGS + sources + self._PER_PROCESS * place.world + self._PER_PACK * batch)

    def add(self, micro: Micro, weights: Sequence[float], loss_sum: torch.Tensor, by_source: torch.Tensor) -> None:
        """`weights` [S] and `by_source` [S], float64: the sources' weights and weighted losses; the latter,
        and `loss_sum`, stay on the device."""
        self._loss[0] += loss_sum.detach()
        self._loss[1:] += by_source
        host, place = self._host, self._place
        for source, weight in enumerate(weights):
            host[self._FLAGS + source] += weight
        process = self._FLAGS + self._sources + self._PER_PROCESS * place.rank
        host[process] += micro.tokens
        host[process + 1] += micro.tiles
        host[process + 2] += micro.pairs
        first = self._FLAGS + self._sources + self._PER_PROCESS * place.world
        for number, digest in zip(micro.packs, micro.digests, strict=True):
            slot = first + self._PER_PACK * (number - micro.step * self._batch)
            host[slot] += 1
            host[slot + 1] += digest >> 32
            host[slot + 2] += digest & 0xFFFFFFFF

    def loss_so_far(self) -> float:
        """Sum over the processes of the losses added so far, on the host. In all processes."""
        loss = self._loss[:1].clone()
        torch.distributed.all_reduce(loss)
        return float(loss)

    def total(self, *, norm: torch.Tensor, flags: Flags, wait: float) -> Total:
        """Sum over the processes. In all of them; each gets the same. `norm`, which all have, comes along to
        the host."""
        self._host[: self._FLAGS] = map(float, flags)
        process = self._FLAGS + self._sources + self._PER_PROCESS * self._place.rank
        self._host[process + 3] = wait
        if self._device.type == "cuda":
            self._host[process + 4] = torch.cuda.max_memory_allocated(self._device)  # the allocator's books: no wait
        summed = torch.cat([self._loss, torch.tensor(self._host, dtype=torch.float64).to(self._device)])
        torch.distributed.all_reduce(summed)
        *values, norm_ = torch.cat([summed, norm.reshape(1)]).tolist()
        loss, by_source, rest = values[0], values[1 : 1 + self._sources], values[1 + self._sources :]
        raised, rest = rest[: self._FLAGS], rest[self._FLAGS :]
        weights, rest = rest[: self._sources], rest[self._sources :]
        split = self._PER_PROCESS * self._place.world
        per_process, per_pack = rest[:split], rest[split:]
        return Total(
            loss_sum=loss,
            norm=norm_,
            flags=Flags(*(count > 0 for count in raised)),
            by_source=list(zip(by_source, weights, strict=True)),
            tokens=per_process[0::5],
            tiles=per_process[1::5],
            pairs=per_process[2::5],
            wait=max(per_process[3::5]),
            memory=int(max(per_process[4::5])) or None,
            packs=[
                (place, f"{int(high):08x}{int(low):08x}")
                for place, (count, high, low) in enumerate(
                    zip(per_pack[0::3], per_pack[1::3], per_pack[2::3], strict=True)
                )
                for _ in range(int(count))
            ],
        )


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of all processes' tallies."""

    loss_sum: float
    norm: float
    flags: Flags
    """Of any process."""
    by_source: list[tuple[float, float]]
    """Weighted loss and weight of each source."""
    tokens: list[float]
    """By process; so are tiles and pairs."""
    tiles: list[float]
    pairs: list[float]
    wait: float
    memory: int | None
    """Of the fullest device; None on CPUs."""
    packs: list[tuple[int, str]]
    """Place in the step and first 16 hex digits of the digest."""


def skew(work: Sequence[float]) -> float:
    """Largest over mean; 1 when there is no work."""
    return max(work) * len(work) / sum(work) if sum(work) else 1.0


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Log:
    """metrics.jsonl, open for appending."""

    def __init__(self, out: Path) -> None:
        self._file = (out / NAME).open("ab")

    def write(self, line: Line) -> None:
        """Append, in one write to the operating system: a killed process leaves whole lines, or one cut
        short."""
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def sync(out: Path) -> None:
    """Make the lines that are written durable. Before a checkpoint is, for a checkpoint vouches for the lines before it."""
    with suppress(FileNotFoundError), (out / NAME).open("rb") as file:  # before the first step there is none
        os.fsync(file.fileno())


def cut(out: Path, done: Sequence[str], stage: str | None, step: int) -> None:
    """Keep the lines of stages that are `done` and those of `stage` before `step`; drop the rest, and a line
    cut short.

    What comes after is trained again, so that each step is in the file once. Raises TrainError if the file
    lacks a step that it should have: it was changed by another hand.
    """
    path = out / NAME
    if not path.exists():
        return
    kept, steps = [], 0
    for data in path.read_bytes().splitlines(keepends=True):
        try:
            line = msgspec.json.decode(data)
        except msgspec.DecodeError:
            continue
        if line["stage"] in done or (line["stage"] == stage and line["step"] < step):
            kept.append(data)
            steps += line["stage"] == stage
    if steps != step:
        raise TrainError(
            f"{steps} lines of stage {stage!r} before step {step}",
            where=str(path),
            mend="put back the file that the run wrote, or move it away to go on without its past",
        )
    with atomic_write(path) as file:
        file.write(b"".join(kept))


def complete(out: Path, exact: int | None) -> None:
    """Give the last line, which was written before the questions were asked, the number of exact answers, if it has none. Not while
    the file is open for appending."""
    *before, last = (out / NAME).read_bytes().splitlines(keepends=True)
    if exact is None or "exact" in msgspec.json.decode(last):
        return
    with atomic_write(out / NAME) as file:
        file.write(b"".join(before))
        file.write(msgspec.json.encode(msgspec.json.decode(last) | {"exact": exact}) + b"\n")


def show(console: Console, line: Line, steps: int) -> None:
    """One dense line for people."""
    rates = sorted(set(line.lr.values()))
    rate = f"{rates[0]:.1e}" if len(rates) == 1 else f"{rates[0]:.1e}..{rates[-1]:.1e}"
    parts = [
        f"{line.stage} {line.step + 1}/{steps}",
        f"loss {line.loss:.4f}" if line.loss is not None else "loss not finite",
        f"|g| {line.grad_norm:.3g}" if line.grad_norm is not None else "|g| not finite, step skipped",
        f"lr {rate}",
        f"{line.tokens:,} tok",
        f"{line.images} img",
        f"{line.tokens_per_second:,.0f} tok/s",
        f"{line.seconds:.2f} s",
        f"wait {line.data_wait:.2f}",
    ]
    if line.mfu is not None:
        parts.append(f"mfu {line.mfu:.1%}")
    if max(line.skew.values()) > 1:
        parts.append(f"skew {line.skew['pairs']:.2f}")
    if line.skipped:
        parts.append(f"skipped {line.skipped}")
    parts += [f"saved {save.checkpoint}: {save.blocked:.2f} s, {save.behind:.1f} s behind" for save in line.saves]
    console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)


def table(
    console: Console,
    *,
    stage: str,
    parts: Sequence[tuple[str, int]],
    lr: dict[str, float],
    facts: Sequence[tuple[str, Any]],
) -> None:
    """What the stage trains and what with: (part, parameters), and named facts below."""
    shown = Table(title=f"stage {stage}", title_justify="left", show_edge=False, pad_edge=False)
    shown.add_column("part")
    shown.add_column("parameters", justify="right")
    shown.add_column("peak learning rate", justify="right")
    for part, parameters in parts:
        shown.add_row(part, f"{parameters:,}", f"{lr[part]:.2e}" if part in lr else "frozen")
    console.print(shown)
    for name, value in facts:
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
