"""The places of a step's packs, chosen so that every world size divides the step into equal work.

A rank's packs are at the places r, r + W, r + 2W ... of its step, for each world size W that divides the batch.
Where one world size divides another, its ranks' packs are the union of the other's, so only the world sizes that
divide no other need care. For them at once, packs change places, starting heaviest first:

1. Within runs of as many places as the largest world size, so that what the ranks do in one micro-step stays alike.
   The rank that is furthest from the mean is the one to change: of all exchanges of one of its packs with another of
   the same run the one is made that most lowers the sum, over world sizes and ranks, of (W * work - total)^2.
2. When none lowers it, by up to SWEEPS sweeps over the whole step: each place in turn makes the exchange with any other
   that lowers the sum most. A sweep that changes nothing is the last.

Ties go to the first pair of places. All ends as soon as no world size's skew, (busiest - idlest rank) / mean, exceeds
1/100.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.plan.compiled import Kernel

Int = npt.NDArray[np.int64]
Ints = Any
"""int64 [N], or a list of as many integers."""

RANKS = 64
"""Largest world size that is cared for."""
ENOUGH = 100
"""A skew of 1/100 ends the search; between two processors of a kind there is more."""
SWEEPS = 3
"""At most; a fourth changes next to nothing."""
TOTAL_BITS = 20
"""Costs are scaled to a total below 2^21. Then no term of a change, W^2 * cost * (cost + two ranks' work), reaches
2^56, nor their sum over the world sizes 2^63."""
PLAIN = 2_000_000
"""Pairs of places, those of seven steps of 512 packs: less than a tenth of a second in plain Python, or, where costs are
so uneven that every sweep is made, some two."""


def world_sizes(batch: int) -> list[int]:
    """From 2 to RANKS, those that divide `batch`."""
    return [world for world in range(2, RANKS + 1) if batch % world == 0]


def balanced_order(costs: Int, *, batch: int) -> Int:
    """The order int64 [P] in which packs are to stand, so that each step of `batch` can be divided.

    `costs` int64 [P], at least 0, P a multiple of `batch`, in every step heaviest first. Packs stay in their step.
    """
    order = np.arange(len(costs))
    # With one pack a rank no order helps.
    worlds = [world for world in world_sizes(batch) if world < batch]
    widest = [world for world in worlds if not any(other > world and other % world == 0 for other in worlds)]
    if not widest:
        return order
    ranks = np.concatenate([np.arange(batch) % world for world in widest])
    for start in range(0, len(costs), batch):
        own = costs[start : start + batch]
        scaled = own // max(1, int(own.sum()) >> TOTAL_BITS)
        work = np.concatenate([np.bincount(np.arange(batch) % world, scaled, RANKS) for world in widest])
        packs = np.arange(start, start + batch)
        _balance(scaled, np.array(widest), ranks, work.astype(np.int64), packs, work=batch * batch)
        order[start : start + batch] = packs
    return order


def rank_skews(costs: Int, *, batch: int) -> npt.NDArray[np.float64]:
    """By step, float64 [P / batch]: the worst (busiest - idlest rank) / mean rank's work of the world sizes that divide
    the batch; 0 for a step that costs nothing, or without such a world size. `costs` int64 [P] in their order."""
    costs_SB = costs.reshape(-1, batch)
    total = costs_SB.sum(axis=1)
    worst = np.zeros(len(costs_SB))
    for world in world_sizes(batch):
        work_SW = costs_SB.reshape(len(costs_SB), -1, world).sum(axis=1)
        spread = (work_SW.max(axis=1) - work_SW.min(axis=1)) * world
        np.maximum(worst, np.divide(spread, total, out=np.zeros(len(total)), where=total > 0), out=worst)
    return worst


def _best_exchange(costs: Ints, worlds: Ints, ranks: Ints, work: Ints, place: int, start: int, end: int) -> Any:
    """(gain, other place): of the exchanges of the pack at `place` with one at [start, end) the one that most lowers the
    sum over world sizes and ranks of (W * work - total)^2, the first of equals; the gain, halved, is 0 without any."""
    batch, sizes, own = len(costs), len(worlds), costs[place]
    best, other = 0, -1
    for there in range(start, end):
        more = costs[there] - own
        if more:
            gain = 0
            for k in range(sizes):
                p, q = ranks[k * batch + place], ranks[k * batch + there]
                if p != q:
                    gain -= worlds[k] * worlds[k] * more * (more + work[k * RANKS + p] - work[k * RANKS + q])
            if gain > best:
                best, other = gain, there
    return best, other


def _exchange(costs: Ints, worlds: Ints, ranks: Ints, work: Ints, packs: Ints, i: int, j: int) -> None:
    more = costs[j] - costs[i]
    batch = len(costs)
    for k in range(len(worlds)):
        work[k * RANKS + ranks[k * batch + i]] += more
        work[k * RANKS + ranks[k * batch + j]] -= more
    costs[i], costs[j] = costs[j], costs[i]
    packs[i], packs[j] = packs[j], packs[i]


def _furthest(worlds: Ints, work: Ints, total: int) -> Any:
    """(index of a world size, its rank) whose work is furthest from the mean, the first of equals; -1 when every
    skew is low enough."""
    enough, furthest, world, rank = True, -1, -1, -1
    for k in range(len(worlds)):
        least = most = work[k * RANKS]
        for r in range(worlds[k]):
            own = work[k * RANKS + r]
            least, most = min(least, own), max(most, own)
            off = abs(worlds[k] * own - total)
            if off > furthest:
                furthest, world, rank = off, k, r
        if (most - least) * worlds[k] * ENOUGH > total:
            enough = False
    return (-1, -1) if enough else (world, rank)


def _balance_step(costs: Ints, worlds: Ints, ranks: Ints, work: Ints, packs: Ints) -> None:
    """Exchange packs between the places of a step, in `costs` [B] and `packs` [B].

    `worlds` [K]; `ranks` [K * B]: of each world size, the rank of each place; `work` [K * RANKS]: of each world
    size, the sum of costs of each rank.
    """
    batch, run = len(costs), max(worlds)
    total = sum(costs)
    while True:
        world, rank = _furthest(worlds, work, total)
        if world < 0:
            return
        best, i, j = 0, -1, -1
        for place in range(rank, batch, worlds[world]):
            start = place // run * run
            gain, other = _best_exchange(costs, worlds, ranks, work, place, start, min(start + run, batch))
            if gain > best:
                best, i, j = gain, place, other
        if i < 0:
            break
        _exchange(costs, worlds, ranks, work, packs, i, j)
    for _ in range(SWEEPS):
        changed = False
        for place in range(batch):
            gain, other = _best_exchange(costs, worlds, ranks, work, place, 0, batch)
            if gain:
                _exchange(costs, worlds, ranks, work, packs, place, other)
                changed = True
                if _furthest(worlds, work, total)[0] < 0:
                    return
        if not changed:
            return


_balance = Kernel(_balance_step, _best_exchange, _exchange, _furthest, plain=PLAIN)
