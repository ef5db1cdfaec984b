"""The filter against Pillow's, bit for bit, and against itself run as plain Python."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import MonkeyPatch

import runtime.resize
from runtime.resize import PRECISION_BITS, resize_into, weights


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Of full contrast: nothing is harder on rounding and clipping."""
    random = np.random.default_rng(seed)
    levels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    return levels if seed % 2 else np.where(levels > 127, 255, 0).astype(np.uint8)


def resized(pixels: np.ndarray, cols: int, rows: int, side: int) -> np.ndarray:
    """[rows * side, cols * side, 3]"""
    tiles = np.full((cols * rows, 3, side, side), 77, np.uint8)
    resize_into(pixels, tiles, cols=cols, rows=rows)
    whole = tiles.reshape(rows, cols, 3, side, side).transpose(0, 3, 1, 4, 2)
    return whole.reshape(rows * side, cols * side, 3)


def by_pillow(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Along the rows, then along the columns: the order of Pillow before 13.0, whatever Pillow is installed."""
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    cols=st.integers(1, 4),
    rows=st.integers(1, 4),
    side=st.sampled_from([1, 3, 14, 56]),
    seed=st.integers(0, 99),
)
def test_every_bit_is_pillows(width: int, height: int, cols: int, rows: int, side: int, seed: int) -> None:
    pixels = noise(width, height, seed)
    assert np.array_equal(resized(pixels, cols, rows, side), by_pillow(pixels, cols * side, rows * side))


@pytest.mark.parametrize(
    ("width", "height", "cols", "rows"),
    [(640, 480, 4, 3), (1280, 960, 4, 3), (4032, 3024, 4, 3), (2480, 3508, 2, 3), (3000, 200, 12, 1), (448, 448, 1, 1)],
)
def test_real_sizes(width: int, height: int, cols: int, rows: int) -> None:
    pixels = noise(width, height, 1)
    found = resized(pixels, cols, rows, 448)
    assert np.array_equal(found, by_pillow(pixels, cols * 448, rows * 448))
    if (height - rows * 448) <= 2 * max(0, width - cols * 448):  # the passes of 13.0 are in the same order
        whole = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
        assert np.array_equal(found, np.asarray(whole.resize((cols * 448, rows * 448), Image.Resampling.BICUBIC)))


@given(before=st.integers(1, 3000), after=st.integers(1, 3000))
@settings(max_examples=200, deadline=None)
def test_weights_are_whole_and_add_up_to_one(before: int, after: int) -> None:
    first, weights_XK = weights(before, after)
    used = weights_XK.shape[1] - np.argmax(weights_XK[:, ::-1] != 0, axis=1)
    assert (first >= 0).all() and (first + used <= before).all()
    one = 1 << PRECISION_BITS
    assert abs(weights_XK.sum(axis=1) - one).max() <= weights_XK.shape[1]  # half a unit each
    assert np.abs(weights_XK.astype(np.int64)).sum(axis=1).max() < 2 * one  # so sums of bytes stay within 32 bits
    if before == after:
        assert (weights_XK.max(axis=1) == one).all() and (weights_XK.min(axis=1) == 0).all()


def test_the_compiled_loops_are_the_plain_ones(monkeypatch: MonkeyPatch) -> None:
    pixels = noise(23, 40)
    compiled = resized(pixels, 2, 1, 9)
    monkeypatch.setattr(runtime.resize, "passes", lambda: runtime.resize._passes)
    with np.errstate(over="ignore"):
        assert np.array_equal(resized(pixels, 2, 1, 9), compiled)


def test_threads_do_not_show() -> None:
    pixels = [noise(300 + 7 * i, 200, i) for i in range(12)]
    alone = [resized(each, 3, 2, 56) for each in pixels]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: resized(each, 3, 2, 56), pixels))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_place_to_keep_what_was_compiled(monkeypatch: MonkeyPatch) -> None:
    real = numba.njit

    def njit(*given: Any, cache: bool = False, **more: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*given, **more)

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.setattr(runtime.resize, "passes", runtime.resize.passes.__wrapped__)
    pixels = noise(23, 40)
    assert np.array_equal(resized(pixels, 2, 1, 9), by_pillow(pixels, 18, 9))
