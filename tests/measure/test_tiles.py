"""The tile rule against an independent statement of it."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from mixc.measure.tiles import Grid, grid, image_tokens, msac
from shards.manifest import Geometry


@cache
def every(least: int, most: int) -> list[tuple[int, int]]:
    """All grids of so many tiles, in order of size."""
    sizes = range(1, most + 1)
    return sorted({(i, j) for i in sizes for j in sizes if least <= i * j <= most}, key=lambda g: (g[0] * g[1], g))


def published(width: int, height: int, tile: int, least: int, most: int) -> tuple[int, int]:
    return closest(width, height, tile, every(least, most))


def closest(width: int, height: int, tile: int, grids: Collection[tuple[int, int]]) -> tuple[int, int]:
    """The rule as a definition, not a scan: among the closest grids, the last in order of size that is first in order
    or is less than twice covered by the image. One tile where there is no grid."""
    if not grids:
        return 1, 1
    difference = {g: abs(width / height - g[0] / g[1]) for g in grids}
    closest = [g for g in grids if difference[g] == min(difference.values())]
    large_enough = [g for g in closest[1:] if 2 * width * height > tile * tile * g[0] * g[1]]
    return (closest[:1] + large_enough)[-1]


@given(
    width=st.integers(1, 12_000),
    height=st.integers(1, 12_000),
    most=st.sampled_from([1, 2, 4, 6, 10, 12, 24, 40]),
)
@example(width=448, height=448, most=12)
@example(width=800, height=400, most=12)  # 2:1 is 2x1 and 4x2: the area decides
@example(width=635, height=634, most=12)
def test_equals_the_published_rule(shape: Geometry, width: int, height: int, most: int) -> None:
    found = grid(width, height, replace(shape, max_tiles=most))
    assert (found.cols, found.rows) == published(width, height, 448, 1, most)


def test_equals_the_published_rule_on_a_sweep_of_sizes(shape: Geometry) -> None:
    """Thousands of sizes, with every exact tie of areas on both sides of its threshold."""
    sizes = [(w, h) for w in range(1, 2200, 37) for h in range(1, 2200, 41)]
    for scale in range(1, 20):  # exact ratios, where ties occur
        sizes += [(97 * scale * i, 97 * scale * j) for i in range(1, 7) for j in range(1, 7)]
    for tiles in range(1, 13):  # area just below, at and above half of `tiles` tiles, at ratio 1, 2 and 1/2
        half = tiles * 448 * 448 / 2
        for delta in (-1, 0, 1):
            side = int(half**0.5) + delta
            short = int((half / 2) ** 0.5) + delta
            sizes += [(side, side), (2 * short, short), (short, 2 * short)]
    assert len(sizes) > 3000
    for width, height in sizes:
        found = grid(width, height, shape)
        assert (found.cols, found.rows) == published(width, height, 448, 1, 12), (width, height)


def sizes_at_random(count: int) -> list[tuple[int, int]]:
    """Half of them evenly over their logarithms, half small multiples of one length, where ties are."""
    random = np.random.default_rng(5)
    even = np.exp(random.uniform(0, np.log(12_000), (count // 2, 2))).astype(int)
    multiples = random.integers(1, 9, (count - count // 2, 2)) * random.integers(1, 700, (count - count // 2, 1))
    return [(int(width), int(height)) for width, height in np.concatenate([even, multiples])]


def test_equals_the_published_rule_on_ten_thousand_sizes_and_every_limit(shape: Geometry) -> None:
    ties = 0
    for number, (width, height) in enumerate(sizes_at_random(10_000)):
        most = number % 24 + 1
        found = grid(width, height, shape, max_tiles=most)
        assert (found.cols, found.rows) == published(width, height, 448, 1, most), (width, height, most)
        assert found == grid(width, height, replace(shape, max_tiles=most))
        ties += sum(i / j == width / height for i, j in every(1, most)) > 1
    assert ties > 500


Tile = tuple[int, int, int]
"""Of a grid of so many columns and rows, the tile with this number, row by row. The whole image is of the grid 1, 1."""


def tiles_of(cols: int, rows: int) -> list[Tile]:
    return [(cols, rows, number) for number in range(cols * rows)]


def test_msac_equals_its_published_rule(shape: Geometry) -> None:
    """Tiles once with the thumbnail and once without, of a grid that does not both ways divide the first; all but the last of the
    first, all of the second, the last of the first."""
    for number, (width, height) in enumerate(sizes_at_random(4_000)):
        most = number % 24 + 1
        first = published(width, height, 448, 1, most)
        others = [g for g in every(1, most) if not (first[0] % g[0] == 0 and first[1] % g[1] == 0)]
        once = tiles_of(*first) + (tiles_of(1, 1) if first != (1, 1) else [])
        expected = once[:-1] + tiles_of(*closest(width, height, 448, others)) + once[-1:]

        grids = msac(grid(width, height, shape, max_tiles=most), width, height, shape, max_tiles=most)
        found = [tile for each in grids for tile in tiles_of(each.cols, each.rows) + [(1, 1, 0)] * each.thumbnail]
        assert found == expected, (width, height, most)
        assert not any(each.thumbnail for each in grids[:-1])
        assert sum(each.tiles for each in grids) == len(expected)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (448, 448, Grid(1, 1, False)),
        (1, 1, Grid(1, 1, False)),
        (1344, 1344, Grid(3, 3, True)),  # ratio 1 ties 1x1, 2x2, 3x3: large enough for the largest
        (896, 896, Grid(2, 2, True)),
        (900, 450, Grid(2, 1, True)),  # ratio 2 ties 2x1 and 4x2; half of 4x2 tiles is 802,816 pixels
        (1268, 634, Grid(4, 2, True)),  # 803,912 pixels
        (5000, 100, Grid(12, 1, True)),
        (100, 5000, Grid(1, 12, True)),
        (1280, 960, Grid(4, 3, True)),
    ],
)
def test_known_sizes(shape: Geometry, width: int, height: int, expected: Grid) -> None:
    assert grid(width, height, shape) == expected


def test_the_thumbnail_is_one_more_tile_only_beside_others(shape: Geometry) -> None:
    assert grid(896, 896, shape).tiles == 5
    assert grid(448, 448, shape).tiles == 1
    without = replace(shape, thumbnail=False)
    assert grid(896, 896, without) == Grid(2, 2, False)
    assert grid(896, 896, without).tiles == 4
    assert image_tokens(grid(896, 896, shape), shape) == 5 * 256 + 2


def test_the_order_among_grids_of_equal_size_never_matters() -> None:
    """What the published code leaves to the order of a set: with every limit up to 64, no two grids of equal size can
    both be closest to one ratio, since a third grid lies between them, closer to their midpoint."""
    for most in range(1, 65):
        ratios = {Fraction(i, j) for i in range(1, most + 1) for j in range(1, most // i + 1)}
        for tiles in range(1, most + 1):
            own = sorted(Fraction(i, tiles // i) for i in range(1, tiles + 1) if tiles % i == 0)
            for low, high in pairwise(own):
                midpoint, reach = (low + high) / 2, (high - low) / 2
                assert any(abs(ratio - midpoint) < reach for ratio in ratios), (most, low, high)
