"""Windows of ordered samples become packs, packs become steps, and both become rows of the plan's tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixc.plan.divide import denominators, loss_weights, rank_skews, step_costs, step_order
from mixc.plan.order import SEGMENT, Segments, shuffle_packs
from mixc.plan.pack import pack
from mixc.plan.select import StageRules
from mixc.plan.write import uuids
from mixc.spec.schema import Stage

Int = npt.NDArray[np.int64]


class Table(Protocol):
    """Where rows go; a TableWriter is one."""

    def write(self, columns: dict[str, Any]) -> None: ...


@dataclass(slots=True, kw_only=True)
class Layout:
    """Packs windows, cuts the packs into steps, and writes both tables; holds less than a step between
    windows."""

    number: int
    stage: Stage
    rules: StageRules
    names: list[str]
    places: Table
    packs: Table

    segments: Segments = field(default_factory=lambda: np.zeros(0, SEGMENT))
    counts: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    written: int = 0
    """Packs."""
    empty: int = 0
    skews: list[float] = field(default_factory=list)
    totals: dict[str, Int] = field(default_factory=dict)
    """int64 [sources] each: tokens, supervised, images, tiles, samples (each piece counts), whole (only a
    first piece does)."""

    def add(self, window: Segments, *, seed: int) -> None:
        # The window's order is total and a function of its samples, so pack() needs no further tie-breakers.
        packs = pack(
            window["tokens"],
            window["tiles"],
            max_tokens=self.rules.sequence_length,
            max_tiles=self.rules.max_tiles,
        )
        order, counts, keys = shuffle_packs(window, packs, seed=seed, stage=self.stage.name)
        self.segments = np.concatenate([self.segments, window[order]])
        self.counts = np.concatenate([self.counts, counts])
        self.keys = np.concatenate([self.keys, keys])
        self._write(len(self.counts) // self.stage.train.batch * self.stage.train.batch)

    def finish(self) -> None:
        """Fill the last step with empty packs and write it."""
        self.empty = -len(self.counts) % self.stage.train.batch
        self.counts = np.concatenate([self.counts, np.zeros(self.empty, np.int64)])
        self.keys = np.concatenate([self.keys, np.zeros(self.empty, np.uint64)])
        self._write(len(self.counts))

    def _write(self, number: int) -> None:
        """Write the first `number` packs, whole steps."""
        if not number:
            return
        ends = np.cumsum(self.counts[:number])
        segments, self.segments = self.segments[: ends[-1]], self.segments[ends[-1] :]
        counts, self.counts = self.counts[:number], self.counts[number:]
        keys, self.keys = self.keys[:number], self.keys[number:]
        batch = self.stage.train.batch

        starts = ends - counts
        lengths = segments["tokens"].astype(np.int64)
        tiles, squares = _sums(segments["tiles"], ends), _sums(lengths * lengths, ends)
        order = step_order(tiles, squares, _sums(lengths, ends), keys, batch=batch)
        counts, starts, tiles, squares = counts[order], starts[order], tiles[order], squares[order]
        ends = np.cumsum(counts)
        place = np.arange(len(segments)) - np.repeat(ends - counts, counts)
        segments = segments[np.repeat(starts, counts) + place]
        weights = loss_weights(self.stage.train.loss, segments["supervised"])

        packs = np.arange(self.written, self.written + number)
        pack_of = np.repeat(packs, counts)
        self.places.write(
            {
                "stage": np.full(len(segments), self.number, np.uint16),
                "step": (pack_of // batch).astype(np.uint32),
                "pack": pack_of.astype(np.uint32),
                "place": place.astype(np.uint32),
                "source": pa.array(self.names).take(pa.array(segments["source"])),
                "id": uuids(segments["hi"], segments["lo"]),
                "content": uuids(segments["chi"], segments["clo"]),
                "supervised_tokens": segments["supervised"],
                "weight": weights,
                "offset": segments["start"],
            }
            | {
                name: segments[name]
                for name in (
                    *("epoch", "piece", "piece_start", "piece_end", "tokens", "images", "tiles"),
                    *("fragment", "row", "length"),
                )
            }
        )
        self.packs.write(
            {
                "stage": np.full(number, self.number, np.uint16),
                "step": (packs // batch).astype(np.uint32),
                "pack": packs.astype(np.uint32),
                "samples": counts.astype(np.uint32),
                "tokens": _sums(segments["tokens"], ends).astype(np.uint32),
                "supervised_tokens": _sums(segments["supervised"], ends).astype(np.uint32),
                "images": _sums(segments["images"], ends).astype(np.uint32),
                "tiles": tiles.astype(np.uint32),
                "denominator": denominators(weights, segments["supervised"], ends.tolist()),
            }
        )
        self.written += number
        self.skews += rank_skews(step_costs(tiles, squares, batch=batch), batch=batch).tolist()
        counted = {name: segments[name] for name in ("tokens", "supervised", "images", "tiles")}
        counted |= {"samples": np.ones(len(segments)), "whole": segments["piece"] == 0}
        for name, values in counted.items():
            total = self.totals.setdefault(name, np.zeros(len(self.names), np.int64))
            np.add.at(total, segments["source"], values.astype(np.int64))


def _sums(values: npt.NDArray[np.integer], ends: Int) -> Int:
    """Sums of consecutive runs that end (exclusive) at `ends`, exact; a run may be empty."""
    sums = np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    result: Int = sums[ends] - sums[np.concatenate([[0], ends[:-1]])]
    return result
