"""The division of packs into steps and of a step over ranks, and what its loss is divided by. Pure functions
of arrays.

Step s trains packs [s*B, (s+1)*B). Inside a step packs stand heaviest first, and with world size W and
micro-batch m the packs of rank r are those at s*B + k*W*m + j*W + r: every W-th, from r. In a sequence c that
never rises, the sums over i*W + r for two ranks r < q differ by sum (c[iW+r] - c[iW+q]), not negative and at
most c[0] - c[B-1], because each bracket is at most c[iW] - c[(i+1)W - 1] and these intervals do not overlap.
So for every W that divides B, at once, no rank does more work than another by more than the range of one
pack's cost in that step. The same holds for what the ranks do in one micro-step.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, fsum
from typing import Literal

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


def loss_weights(rule: Literal["token", "sample", "square"], supervised: npt.ArrayLike) -> Float32:
    """Weight float32 [N] of each supervised token in segments with `supervised` [N] of them.

    token 1, sample 1/n, square 1/sqrt(n) (InternVL 2.5, arXiv:2412.05271), computed in float64 and rounded
    once. A segment without a supervised token has weight 0.
    """
    n = np.asarray(supervised, np.float64)
    if rule == "token":
        weights = np.ones(len(n))
    else:
        at_least_one = np.maximum(n, 1)
        weights = 1 / (at_least_one if rule == "sample" else np.sqrt(at_least_one))
    weights[n == 0] = 0
    return weights.astype(np.float32)


def denominators(weights: Float32, supervised: npt.NDArray[np.integer], ends: Sequence[int]) -> npt.NDArray[np.float64]:
    """Sum of weight * supervised over segments [ends[i-1], ends[i]), exactly rounded: float64 [len(ends)].

    A product is exact in float64 (24 bits by at most 21), and `math.fsum` rounds once, so the sum does not
    depend on the order of the segments.
    """
    terms = (weights.astype(np.float64) * supervised.astype(np.float64)).tolist()
    sums, start = np.zeros(len(ends)), 0
    for i, end in enumerate(ends):
        sums[i] = fsum(terms[start:end])
        start = end
    return sums


def step_order(tiles: Int, squares: Int, tokens: Int, keys: npt.NDArray[np.uint64], *, batch: int) -> Int:
    """The order int64 [P] that sorts each step's packs by cost, heaviest first; P is a multiple of `batch`.

    Cost is tiles, then the sum of squared segment lengths (what attention costs), then tokens; equal packs
    stand by `keys`, ascending, and then as they came. Empty packs cost nothing and so come last in their
    step.
    """
    if len(tiles) % batch:
        raise ValueError("the last step is not full")
    step = np.arange(len(tiles)) // batch
    return np.lexsort([keys, -tokens, -squares, -tiles, step])


def step_costs(tiles: Int, squares: Int, *, batch: int) -> Int:
    """One number a pack, int64 [P], that never rises within a step: its tiles, or in a step without any tile
    its sum of squared segment lengths. Packs in the order of `step_order`."""
    tiles_SB, squares_SB = tiles.reshape(-1, batch), squares.reshape(-1, batch)
    return np.where(tiles_SB.any(axis=1, keepdims=True), tiles_SB, squares_SB).reshape(-1)


def rank_skews(costs: Int, *, batch: int) -> npt.NDArray[np.float64]:
    """By step, float64 [P / batch]: (heaviest pack - lightest) / mean cost, 0 for a step that costs nothing.

    It bounds (busiest rank - idlest) / mean of the ranks' work for every world size that divides the batch; a
    world of W ranks has batch / W packs a rank and stays below W / batch of it.
    """
    costs_SB = costs.reshape(-1, batch)
    spread = (costs_SB.max(axis=1) - costs_SB.min(axis=1)) * batch
    total = costs_SB.sum(axis=1)
    skews = np.zeros(len(total))
    np.divide(spread, total, out=skews, where=total > 0)
    return skews


def warmup_steps(warmup: int | Fraction, steps: int) -> int:
    """Steps of warm-up: a number, or a part of the stage rounded up (as transformers' `warmup_ratio`), at
    most all.
    """
    return min(steps, warmup if isinstance(warmup, int) else ceil(warmup * steps))
