"""The division of packs into steps and of a step over ranks, and what its loss is divided by. Pure functions
of arrays.

Step s trains packs [s*B, (s+1)*B). With world size W and micro-batch m, micro-step k of rank r takes those at
s*B + k*W*m + j*W + r: over the step every W-th, from r. So the place of a pack in its step decides its rank in every
world size, and `mixc.plan.balance_ranks` chooses the places.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from mixc.plan.balance_ranks import balanced_order

Int = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

MOST_SUPERVISED = 1 << 20
"""In one segment. The longest sequence that a spec may ask for has as many tokens."""
_POINT = float(1 << 43)
"""Weights are multiples of 1/_POINT: 1/n is at least 2^-20 and has 24 bits as a float32."""


def loss_weights(rule: Literal["token", "sample", "square"], supervised: npt.ArrayLike) -> Float32:
    """Weight float32 [N] of each supervised token in segments with `supervised` [N] of them.

    token 1, sample 1/n, square 1/sqrt(n) (InternVL 2.5, arXiv:2412.05271), computed in float64 and rounded
    once. A segment without a supervised token has weight 0. ValueError for more than MOST_SUPERVISED.
    """
    n = np.asarray(supervised, np.float64)
    if n.max(initial=0) > MOST_SUPERVISED:
        raise ValueError("a segment has more supervised tokens than any sequence")
    if rule == "token":
        weights = np.ones(len(n))
    else:
        at_least_one = np.maximum(n, 1)
        weights = 1 / (at_least_one if rule == "sample" else np.sqrt(at_least_one))
    weights[n == 0] = 0
    return weights.astype(np.float32)


def denominators(
    weights: Float32, supervised: npt.NDArray[np.integer], ends: Int | Sequence[int]
) -> npt.NDArray[np.float64]:
    """Sum of weight * supervised over segments [ends[i-1], ends[i]), exactly rounded: float64 [len(ends)].

    `weights` as `loss_weights` gives them. A product is exact in float64 (24 bits by at most 21) and a multiple of
    2^-43. Its whole part and the rest, in units of 2^-43, are summed as integers, below 2^53 and 2^63 for up to 2^20
    segments in a pack; both sums made floats, only the last addition rounds. So it is what `math.fsum` gives, in
    any order.
    """
    terms = weights.astype(np.float64) * supervised
    whole = np.floor(terms)
    rest = sums((terms - whole) * _POINT, ends)
    carry = rest >> 43
    exact: npt.NDArray[np.float64] = (sums(whole, ends) + carry) + (rest - (carry << 43)) / _POINT
    return exact


def sums(values: npt.NDArray[np.number], ends: Int | Sequence[int]) -> Int:
    """Sums int64 of consecutive runs of whole numbers [N] that end (exclusive) at `ends`, exact; a run may be empty.

    The sum over all may wrap around 2^63; a run's may not.
    """
    upto = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values.astype(np.int64), out=upto[1:])
    return np.diff(upto[np.asarray(ends, np.int64)], prepend=0)


def step_order(costs: Int, keys: npt.NDArray[np.uint64], *, batch: int) -> Int:
    """The order int64 [P] of packs, in which each step of `batch` can be divided into equal work; P is a multiple of
    `batch`, packs stay in their step.

    Each step's packs are sorted by cost, heaviest first, equal ones by `keys`, ascending, and then as they came; then
    exchanged as `balanced_order` says.
    """
    if len(costs) % batch:
        raise ValueError("the last step is not full")
    step = np.arange(len(costs)) // batch
    heaviest = np.lexsort([keys, -costs, step])
    return heaviest[balanced_order(costs[heaviest], batch=batch)]


def warmup_steps(warmup: int | Fraction, steps: int) -> int:
    """Steps of warm-up: a number, or a part of the stage rounded up (as transformers' `warmup_ratio`), at
    most all.
    """
    return min(steps, warmup if isinstance(warmup, int) else ceil(warmup * steps))
