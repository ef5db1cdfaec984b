"""Play a stage: which packs a process trains on at a step, and the worker processes that bring them.

Which packs are taken is a pure function of (step, rank, world size, micro-batch): `Division`. There is
nothing to shuffle, to draw, to balance or to remember, so the loader's whole state is the number of the next
step, a resume costs the same at step 1,000,000 as at step 0, and the packs of a step are the same set in the
same order for every world size and any number of workers.

Reading, decoding images and laying packs end to end happen in the workers; the process that trains only moves two
tensors to its device, where `Row.expand` makes the batch of them.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from runtime.batch import Row
from runtime.collate import SourceTable, collate
from runtime.errors import ArgumentError, TrainError
from runtime.lay import lay
from runtime.resize import passes
from shards import pack_kernel
from shards.build import Build
from shards.counted import counted
from shards.digest import source_key
from shards.errors import ShardError
from shards.manifest import StageEntry
from shards.store import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How the packs of a step are divided over processes and micro-steps.

    Packs within a step are dealt out like cards: micro-step k of rank r takes
    `s*batch + k*world*micro_batch + j*world + r`, j in 0..micro_batch-1. The plan ordered them so that this gives the
    ranks of every world size equal work.
    """

    batch: int
    """Packs a step."""
    world: int
    micro_batch: int
    """Packs a process takes at a time."""

    def __post_init__(self) -> None:
        if self.batch % (self.world * self.micro_batch):
            fits = [m for m in range(1, self.batch + 1) if self.batch % (self.world * m) == 0]
            processes = [w for w in range(1, self.batch + 1) if self.batch % w == 0]
            raise ArgumentError(
                f"{counted(self.world, 'process')} with {counted(self.micro_batch, 'pack')} at a time do not divide a step of "
                f"{counted(self.batch, 'pack')}",
                mend=f"with {counted(self.world, 'process')}, --micro-batch can be {_listing(fits)}"
                if fits
                else f"the number of processes can be {_listing(processes)}",
            )

    @property
    def micro_steps(self) -> int:
        """Micro-steps of a process in a step."""
        return self.batch // (self.world * self.micro_batch)

    def packs(self, step: int, micro: int, rank: int) -> range:
        """Numbers, in the stage, of the packs that `rank` takes in micro-step `micro` of `step`."""
        first = step * self.batch + micro * self.world * self.micro_batch + rank
        return range(first, first + self.world * self.micro_batch, self.world)


def _listing(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + (" or " if len(numbers) > 1 else "") + str(numbers[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """What a process trains on in one micro-step."""

    step: int
    micro: int
    packs: tuple[int, ...]
    digests: tuple[int, ...]
    """First 8 bytes of each pack's digest, big-endian: its first 16 hex digits."""
    row: Row
    weights: tuple[float, ...]
    """As `Totals` has them, in the order of `source_names`; the next three are of `Totals` too."""
    tokens: int
    tiles: int
    pairs: int

    def pin_memory(self) -> Micro:
        """In page-locked memory, for copies to a GPU that overlap with its work. Called by torch's
        DataLoader."""
        return dataclasses.replace(self, row=self.row.each(torch.Tensor.pin_memory))

    def to(self, device: torch.device) -> Micro:
        return dataclasses.replace(self, row=self.row.each(lambda tensor: tensor.to(device, non_blocking=True)))


def source_index(stages: list[StageEntry]) -> dict[int, int]:
    """Place of each source among the build's source names, sorted, by the source's key in packs."""
    return {source_key(name): place for place, name in enumerate(source_names(stages))}


def source_names(stages: list[StageEntry]) -> list[str]:
    return sorted({name for stage in stages for name in stage.sources})


class Play(Dataset[Micro | ShardError]):
    """A rank's part of a stage. Item i is micro-step `i % micro_steps` of step `i // micro_steps`.

    The build is opened when the first item is read, in the process that reads it: a worker inherits no open
    file. A damaged shard is given back as the ShardError, not raised: torch would wrap it in a worker's
    traceback.
    """

    def __init__(self, build: Place, stage: str, division: Division, rank: int) -> None:
        self.path, self.stage, self.division, self.rank = build, stage, division, rank
        self._build: Build | None = None

    def __getitem__(self, item: int) -> Micro | ShardError:
        try:
            return self._read(*divmod(item, self.division.micro_steps))
        except ShardError as error:
            return error

    def _read(self, step: int, micro: int) -> Micro:
        if self._build is None:
            self._build = Build.open(self.path)
            self._reader = self._build.stage(self.stage)
            self._sources = SourceTable(source_index(self._build.manifest.stages))
        numbers = self.division.packs(step, micro, self.rank)
        read = [self._reader.read(number) for number in numbers]
        packs = [pack for pack, _ in read]
        try:
            row, totals = collate(packs, self._build.image, self._build.manifest.geometry, self._sources)
        except ShardError as error:
            raise ShardError(f"{self.path}: stage {self.stage!r}, packs {list(numbers)}: {error}") from error
        return Micro(
            step=step,
            micro=micro,
            packs=tuple(numbers),
            digests=tuple(int.from_bytes(digest[:8], "big") for _, digest in read),
            row=row,
            weights=totals.weights,
            tokens=totals.tokens,
            tiles=totals.tiles,
            pairs=totals.pairs,
        )


def _own_signals(_: int) -> None:
    """A worker takes no part in stopping gently: it goes on until the process that trains has ended its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def load_kernels() -> None:
    """Load what is compiled for reading packs. Loader processes are forked from this one, and then share it."""
    for compiled in (lay, pack_kernel.fault, pack_kernel.find, passes):
        compiled()


def play(dataset: Play, steps: range, *, workers: int, device: torch.device) -> Iterator[Micro]:
    """The rank's micro-steps of `steps`, in order, on `device`. Reads ahead in `workers` processes (0: in
    this one).

    Raises ShardError when a shard or image is damaged or missing, TrainError when a worker dies.
    """
    per_step = dataset.division.micro_steps
    if workers:
        load_kernels()
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(steps.start * per_step, steps.stop * per_step),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=2 if workers else None,
        worker_init_fn=_own_signals,
    )
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainError(
                "a loader process died",
                where=f"stage {dataset.stage!r}",
                why=str(error).splitlines()[0],
                mend="often too little memory (or /dev/shm): try fewer --workers",
            ) from None
        if isinstance(item, ShardError):
            raise item
        yield item.to(device)
