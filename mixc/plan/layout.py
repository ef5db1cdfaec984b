"""Windows of ordered samples become packs, packs become steps, and both become rows of the plan's tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixc.plan.balance_ranks import rank_skews
from mixc.plan.cost import SAIL_VL_2B, Cost
from mixc.plan.divide import denominators, loss_weights, step_order, sums
from mixc.plan.order import SEGMENT, Segments, shuffle_packs
from mixc.plan.pack import pack
from mixc.plan.select import StageRules
from mixc.plan.write import uuids
from mixc.sorting import ranges
from mixc.spec.schema import Order, Stage

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
    cost: Cost = SAIL_VL_2B
    """What the ranks of a step share out."""

    segments: Segments = field(default_factory=lambda: np.zeros(0, SEGMENT))
    counts: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    written: int = 0
    """Packs."""
    empty: int = 0
    skews: list[float] = field(default_factory=list)
    """Of each step, `rank_skews`."""
    totals: dict[str, Int] = field(default_factory=dict)
    """int64 [sources] each: tokens, supervised, images, tiles, samples (each piece counts), whole (only a
    first piece does)."""

    def add(self, window: Segments, *, seed: int) -> None:
        # The window's order is total and a function of its samples, so that pack() breaks ties by it.
        packs = pack(
            window["tokens"],
            window["tiles"],
            max_tokens=self.rules.sequence_length,
            max_tiles=self.rules.max_tiles,
        )
        order, counts, keys = shuffle_packs(window, packs, seed=seed, stage=self.stage.name)
        self.segments = np.concatenate([self.segments, window.take(order)])
        self.counts = np.concatenate([self.counts, counts])
        self.keys = np.concatenate([self.keys, keys])
        if isinstance(self.stage.order, Order) and self.stage.order.steps == "alike":
            self._sort_into_steps()
        self._write(len(self.counts) // self.stage.train.batch * self.stage.train.batch)

    def _sort_into_steps(self) -> None:
        """Put packs of like cost into a step each, and the steps in the order of their heaviest packs' keys. The
        lightest packs, which fill no step, wait for the next window."""
        ends = np.cumsum(self.counts)
        lengths = self.segments["tokens"].astype(np.int64)
        costs = self.cost.of(sums(lengths, ends), sums(self.segments["tiles"], ends), sums(lengths * lengths, ends))
        by_cost = np.lexsort([self.keys, -costs])
        batch = self.stage.train.batch
        whole = len(by_cost) // batch * batch
        steps = by_cost[:whole].reshape(-1, batch)
        steps = steps[np.argsort(self.keys[steps[:, 0]], kind="stable")]
        order = np.concatenate([steps.reshape(-1), by_cost[whole:]])
        starts, counts = (ends - self.counts)[order], self.counts[order]
        self.segments = self.segments.take(ranges(starts, counts))
        self.counts, self.keys = counts, self.keys[order]

    def finish(self) -> None:
        """Fill the last step with empty packs and write it."""
        self.empty = -len(self.counts) % self.stage.train.batch
        self.counts = np.concatenate([self.counts, np.zeros(self.empty, np.int64)])
        self.keys = np.concatenate([self.keys, np.zeros(self.empty, np.uint64)])
        self._write(len(self.counts))

    @property
    def rank_skew(self) -> float:
        """Mean of `skews`, without a last step that is part empty, if there is another."""
        return fsum(self._of_full_steps()) / max(1, len(self._of_full_steps()))

    @property
    def rank_skew_max(self) -> float:
        """Worst of the same steps."""
        return max(self._of_full_steps(), default=0.0)

    def _of_full_steps(self) -> list[float]:
        return self.skews[:-1] if self.empty and len(self.skews) > 1 else self.skews

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
        costs = self.cost.of(sums(lengths, ends), sums(segments["tiles"], ends), sums(lengths * lengths, ends))
        order = step_order(costs, keys, batch=batch)
        counts, starts = counts[order], starts[order]
        ends = np.cumsum(counts)
        place = ranges(np.zeros_like(counts), counts)
        segments = segments.take(ranges(starts, counts))  # far faster than [] for records
        column = {name: np.ascontiguousarray(segments[name]) for name in SEGMENT.names or ()}
        del segments
        weights = loss_weights(self.stage.train.loss, column["supervised"])

        packs = np.arange(self.written, self.written + number, dtype=np.uint32)
        steps = packs // np.uint32(batch)
        self.places.write(
            {
                "stage": np.full(len(place), self.number, np.uint16),
                "step": np.repeat(steps, counts),
                "pack": np.repeat(packs, counts),
                "place": place.astype(np.uint32),
                "source": pa.DictionaryArray.from_arrays(column["source"].astype(np.int32), self.names),
                "id": uuids(column["hi"], column["lo"]),
                "content": uuids(column["chi"], column["clo"]),
                "supervised_tokens": column["supervised"],
                "weight": weights,
                "offset": column["start"],
            }
            | {
                name: column[name]
                for name in (
                    *("epoch", "piece", "piece_start", "piece_end", "tokens", "images", "tiles"),
                    *("fragment", "row", "length"),
                )
            }
        )
        of_packs = {name: sums(column[name], ends) for name in ("tokens", "supervised", "images", "tiles")}
        self.packs.write(
            {
                "stage": np.full(number, self.number, np.uint16),
                "step": steps,
                "pack": packs,
                "samples": counts.astype(np.uint32),
                "tokens": of_packs["tokens"].astype(np.uint32),
                "supervised_tokens": of_packs["supervised"].astype(np.uint32),
                "images": of_packs["images"].astype(np.uint32),
                "tiles": of_packs["tiles"].astype(np.uint32),
                "denominator": denominators(weights, column["supervised"], ends),
            }
        )
        self.written += number
        self.skews += rank_skews(costs[order], batch=batch).tolist()
        self._count(column)

    def _count(self, column: dict[str, npt.NDArray[Any]]) -> None:
        """Add rows to the totals, whole numbers far below 2^53: float64 counts them exactly, in any order."""
        weights: dict[str, npt.NDArray[Any] | None] = {
            name: column[name] for name in ("tokens", "supervised", "images", "tiles")
        }
        weights |= {"samples": None, "whole": column["piece"] == 0}
        for name, values in weights.items():
            counted = np.bincount(column["source"], values, len(self.names)).astype(np.int64)
            self.totals[name] = self.totals.get(name, 0) + counted
