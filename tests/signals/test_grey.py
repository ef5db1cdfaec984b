"""Signals of pixels, against the plain definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mixc.signals.grey import SIDE, commonest_level, grey, laplacian_variance

from .conftest import Picture


@given(arrays(np.uint8, (6, 7), elements=st.integers(0, 255)))
@settings(max_examples=100, deadline=None)
def test_variance_is_the_exact_one_rounded_once(image: np.ndarray) -> None:
    g = image.tolist()
    inner = [
        g[y - 1][x] + g[y + 1][x] + g[y][x - 1] + g[y][x + 1] - 4 * g[y][x] for y in range(1, 5) for x in range(1, 6)
    ]
    mean = Fraction(sum(inner), len(inner))
    assert laplacian_variance(image) == float(sum((x - mean) ** 2 for x in inner) / len(inner))


def test_sharp_above_blurred_above_flat(picture: Picture) -> None:
    sharp, flat = grey(picture(300, 200)), grey(picture(300, 200, noise=False))
    smooth = (sharp.astype(int) + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1) + np.roll(sharp, 1, (0, 1))) // 4
    assert sharp.shape == (SIDE, SIDE)
    assert laplacian_variance(sharp) > laplacian_variance(smooth.astype(np.uint8)) > laplacian_variance(flat) == 0
    assert commonest_level(flat) == 1 > commonest_level(sharp) > 0
