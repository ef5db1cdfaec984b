"""Pillow's bicubic reduction and enlargement, bit for bit, in a quarter of its time.

Training's meaning is Pillow's filter: antialiased bicubic with a = -0.5, one pass along the rows and one along the
columns, rounded to bytes between them, in fixed point (libImaging/Resample.c). All of that is whole numbers once the
weights are there, so it is the same sum in whatever order it is taken. Pillow takes it a pixel at a time. Here, blocks of
rows are turned on their side, so that both passes add up whole lines of neighbouring bytes, which a compiler turns into
vector instructions; and the second pass writes straight into the tiles.

A pixel is four bytes, the last without meaning, and is moved as one word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.jit import jit

PRECISION_BITS = 32 - 8 - 2
"""Of a weight. Resample.c: 8 bits for the result; a weight, and a sum of them, may exceed 1 in magnitude, but not 2."""
SUPPORT = 2.0
"""Half the width of the bicubic filter, in pixels of the larger image."""
BLOCK = 32
"""Rows that are turned at a time: 128 bytes a column, which two to four vector registers hold as 32-bit sums a step."""
STEP = 4
"""Taps that are added up at a time, so that a sum is loaded and stored once for so many products."""

Weights = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]


def resize_into(pixels_HW4: npt.NDArray[np.uint8], tiles_M3SS: npt.NDArray[np.uint8], *, cols: int, rows: int) -> None:
    """Resize an image, uint8 [H, W, 4], to a grid of `cols` x `rows` tiles and write these, row by row, to
    `tiles_M3SS`, uint8 [cols * rows, 3, side, side], as planes. Both arrays are C-contiguous."""
    height, width, _ = pixels_HW4.shape
    side = tiles_M3SS.shape[-1]
    across, down = weights(width, cols * side), weights(height, rows * side)
    passes()(pixels_HW4.view(np.uint32)[:, :, 0], *across, *down, tiles_M3SS, cols)


@functools.lru_cache(maxsize=256)
def weights(before: int, after: int) -> Weights:
    """How each of `after` pixels is made of `before`: the first that it is made of, int64 [after], and the weights of
    that one and those behind it in 2^-PRECISION_BITS, int32 [after, K]; K is a multiple of STEP, and what is too many is 0.

    As precompute_coeffs and normalize_coeffs_8bpc of Resample.c, operation by operation: float64 is added up in the
    same order.
    """
    scale = before / after
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    center = (np.arange(after) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), before)
    exact = np.zeros((after, -(-int((end - first).max()) // STEP) * STEP))
    total = np.zeros(after)
    for tap in range(exact.shape[1]):
        place = first + tap
        exact[:, tap] = np.where(place < end, _bicubic((place - center + 0.5) * (1.0 / stretch)), 0.0)
        total += exact[:, tap]
    fixed = exact / total[:, None] * (1 << PRECISION_BITS)
    return first, np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32)


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution; https://en.wikipedia.org/wiki/Bicubic_interpolation#Bicubic_convolution_algorithm."""
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _passes(pixels: Any, first_X: Any, weights_XK: Any, first_Y: Any, weights_YK: Any, tiles: Any, cols: int) -> None:
    """Both passes: pixels uint32 [H, W] to tiles uint8 [M, 3, side, side]. Weights beyond an image's last pixel are 0, so
    what is read there, in room left for it, adds nothing."""
    H, W = pixels.shape
    X, across = weights_XK.shape
    Y, down = weights_YK.shape
    side = tiles.shape[-1]
    turned = np.empty((W + across, BLOCK), np.uint32)  # [x, y]
    narrowed = np.empty((X, BLOCK), np.uint32)
    passed = np.empty((H + down, X), np.uint32)
    sums = np.empty(4 * max(X, BLOCK), np.int32)
    for top in range(0, H, BLOCK):
        n = min(BLOCK, H - top)
        _turn(pixels[top : top + n], turned)
        for x in range(X):
            _line(turned.view(np.uint8), first_X[x], weights_XK[x], sums[: 4 * BLOCK], narrowed[x].view(np.uint8))
        _turn(narrowed[:, :n], passed[top : top + n])
    line = np.empty(4 * X, np.uint8)
    for y in range(Y):
        _line(passed.view(np.uint8), first_Y[y], weights_YK[y], sums[: 4 * X], line)
        for col in range(cols):
            _planes(line[4 * col * side :], tiles[y // side * cols + col, :, y % side])


def _turn(lines: Any, columns: Any) -> None:
    """Lines [A, B] to `columns` [B or more, A or more]."""
    for b in range(lines.shape[1]):
        for a in range(lines.shape[0]):
            columns[b, a] = lines[a, b]


def _line(lines: Any, first: int, weights_K: Any, sums_N: Any, line_N: Any) -> None:
    """A line of bytes [N] as the weighted sum of `lines` [..., N] from `first` on; `sums_N` is room to work in."""
    for i in range(len(sums_N)):
        sums_N[i] = 1 << (PRECISION_BITS - 1)
    for k in range(0, len(weights_K), STEP):
        a, b, c, d = weights_K[k], weights_K[k + 1], weights_K[k + 2], weights_K[k + 3]
        at = first + k
        for i in range(len(sums_N)):
            sums_N[i] += (
                np.int32(lines[at, i]) * a
                + np.int32(lines[at + 1, i]) * b
                + np.int32(lines[at + 2, i]) * c
                + np.int32(lines[at + 3, i]) * d
            )
    for i in range(len(sums_N)):
        line_N[i] = min(max(sums_N[i] >> PRECISION_BITS, 0), 255)


def _planes(line: Any, planes_3S: Any) -> None:
    """The first S pixels of a line, four bytes each, as planes."""
    for channel in range(3):
        for x in range(planes_3S.shape[1]):
            planes_3S[channel, x] = line[4 * x + channel]


@functools.cache
def passes() -> Callable[..., None]:
    """`_passes`, compiled when the first image comes, in some two seconds if it is nowhere kept."""
    from numba import types

    ints, fixed = types.Array(types.int64, 1, "C", readonly=True), types.Array(types.int32, 2, "C", readonly=True)
    # a plane of words out of [H, W, 4] bytes is known to be contiguous only to us
    signature = types.void(
        types.Array(types.uint32, 2, "C", readonly=True),
        *(ints, fixed, ints, fixed),
        types.Array(types.uint8, 4, "C"),
        types.int64,
    )
    return jit(_passes, _turn, _line, _planes, signature=signature)
