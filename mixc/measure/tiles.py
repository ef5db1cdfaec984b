"""The tile rule: which grid of tiles an image is cut into.

The published rule of the SAIL-VL family (`dynamic_preprocess` in SAIL-VL2-2B's image_processing_sailvl.py, which is
InternVL's): of all grids of `cols` x `rows` tiles with min_tiles <= cols*rows <= max_tiles, in ascending order of
cols*rows, take the one whose cols/rows is closest to width/height. On an exact tie move to the later grid only if the
image has more than half that grid's pixels. Everything is in IEEE doubles, as the published code computes it: what is
"closest" and what is "an exact tie" are decided by rounded values, which are the same on every machine.

The published code leaves the order among grids of equal cols*rows to a Python set. With min_tiles = 1 that order never
matters (tests/measure/test_tiles.py shows it for every max_tiles up to 64); here it is ascending `cols`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from shards.manifest import Geometry


class Grid(NamedTuple):
    cols: int
    rows: int
    thumbnail: bool
    """The whole image comes as one more tile, last."""

    @property
    def tiles(self) -> int:
        """Tiles that the vision encoder sees, thumbnail counted."""
        return self.cols * self.rows + self.thumbnail


ONE_TILE = Grid(1, 1, False)
"""Of a video's frame, whatever its size: "video 1 tile per frame" in the family's evaluation and InternVL 2."""


def grid(width: int, height: int, geometry: Geometry, max_tiles: int | None = None) -> Grid:
    """The grid of an image of `width` x `height` pixels (both >= 1), of at most `max_tiles` (the geometry's).

    The thumbnail is added when the geometry asks for it and the grid has more than one tile.
    """
    most = geometry.max_tiles if max_tiles is None else max_tiles
    cols, rows = _closest(width, height, geometry.tile_size, _candidates(geometry.min_tiles, most))
    return Grid(cols, rows, geometry.thumbnail and cols * rows > 1)


def msac(first: Grid, width: int, height: int, geometry: Geometry, max_tiles: int | None = None) -> tuple[Grid, ...]:
    """The grids of an image at inference with MSAC (SAIL-VL 1.5 and later), given `first`, which `grid` gave: the tiles of `first`
    but its last, those of the closest of the grids that do not both ways divide it, and then that last.

    The last is the thumbnail, or a grid of one tile itself, as published (`load_image_msac` in SAIL-VL2-2B's
    image_processing_sailvl.py). Where every grid divides the first, the second is of one tile.
    """
    most = geometry.max_tiles if max_tiles is None else max_tiles
    others = tuple(
        each for each in _candidates(geometry.min_tiles, most) if first.cols % each[0] or first.rows % each[1]
    )
    cols, rows = _closest(width, height, geometry.tile_size, others)
    if first.tiles == 1:
        return Grid(cols, rows, False), first
    return Grid(first.cols, first.rows, False), Grid(cols, rows, first.thumbnail)


def image_tokens(grid: Grid, geometry: Geometry) -> int:
    """Tokens of an image in a training sequence: start, every tile's context tokens, end."""
    return grid.tiles * geometry.tokens_per_tile + 2


@lru_cache(maxsize=64)
def _candidates(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int, float], ...]:
    """All (cols, rows, cols / rows), ascending by (cols * rows, cols)."""
    found = [
        (cols * rows, cols, rows)
        for cols in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // cols + 1)
        if cols * rows >= min_tiles
    ]
    return tuple((cols, rows, cols / rows) for _, cols, rows in sorted(found))


@lru_cache(maxsize=1 << 16)
def _closest(
    width: int, height: int, tile_size: int, candidates: tuple[tuple[int, int, float], ...]
) -> tuple[int, int]:
    ratio = width / height
    area = width * height
    best, best_difference = (1, 1), float("inf")
    for cols, rows, candidate in candidates:
        difference = abs(ratio - candidate)
        if difference < best_difference:
            best, best_difference = (cols, rows), difference
        elif difference == best_difference and area > 0.5 * tile_size * tile_size * cols * rows:
            best = (cols, rows)
    return best
