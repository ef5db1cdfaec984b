"""Packing: which samples share a training sequence. Arrays in, arrays out; no randomness, no I/O.

Best-fit decreasing under two limits, tokens and tiles (vector bin packing with a primary and a secondary
dimension):

1. The primary dimension is the one whose total comes nearer to its limit, that is needs more packs: tokens
   unless tiles bind. The other is secondary.
2. Items are taken largest first: by the larger of tokens/limit and tiles/limit, then primary, then secondary,
   then as the caller gave them.
3. Each goes to the pack with the least room left in the primary dimension among those where it fits in both;
   among these to the one with the least room in the secondary, then to the one that came to this state last.
   When it fits nowhere, a new pack is opened.
4. Where that takes more than 1/200 above the lower bound, as it does where both limits bind, items are packed
   again, taken by tokens, then tiles, then as the caller gave them. The packing with fewer packs stays, the
   first if they are equal.

So the sizes that meet in a pack are a function of the set of items and not of their order, and where the
caller's order is total, so are the items.

Best-fit decreasing needs at most 11/9 of the optimum plus a constant in one dimension (Johnson et al.,
"Worst-case performance bounds for simple one-dimensional packing algorithms", SIAM J. Comput. 3(4), 1974).
docs/planning.md has what it reaches on lengths as they occur; benchmarks/pack.py makes the figures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixc.plan.pack_kernel import WORD, tiles_first, tokens_first

Int = npt.NDArray[np.int64]

CLOSE = 200
"""A packing within one part in so many of the lower bound is good enough to stay."""


def pack(tokens: npt.ArrayLike, tiles: npt.ArrayLike, *, max_tokens: int, max_tiles: int) -> Int:
    """Assign N items to packs: int64 [N], pack numbers from 0 without gaps, in the order in which packs were
    opened.

    `tokens` and `tiles` are integers [N], tokens at least 1. Where items are equal in both, the order of the
    input decides. ValueError when an item alone exceeds a limit.
    """
    tokens, tiles = np.asarray(tokens, np.int64), np.asarray(tiles, np.int64)
    if len(tokens) == 0:
        return np.zeros(0, np.int64)
    if tokens.min() < 1 or tokens.max() > max_tokens or tiles.min() < 0 or tiles.max() > max_tiles:
        raise ValueError("an item does not fit an empty pack")
    limits = {
        "max_tokens": max_tokens,
        "max_tiles": min(max_tiles, int(tiles.max()) * max_tokens + 1),  # as good as none, and products fit int64
    }
    tiles_bind = int(tiles.sum()) * max_tokens > int(tokens.sum()) * limits["max_tiles"]
    packs, number = _best_fit(
        tokens, tiles, _largest_first(tokens, tiles, **limits, tiles_bind=tiles_bind), **limits, tiles_bind=tiles_bind
    )
    if (number - (bound := lower_bound(tokens, tiles, **limits))) * CLOSE > bound:
        again, fewer = _best_fit(tokens, tiles, np.lexsort([-tiles, -tokens]), **limits, tiles_bind=tiles_bind)
        if fewer < number:
            return again
    return packs


def lower_bound(tokens: npt.ArrayLike, tiles: npt.ArrayLike, *, max_tokens: int, max_tiles: int) -> int:
    """No packing can need fewer packs: the total over the limit, and the items of which no two share a
    pack."""
    tokens, tiles = np.asarray(tokens, np.int64), np.asarray(tiles, np.int64)
    if len(tokens) == 0:
        return 0
    by_total = max(-(-int(tokens.sum()) // max_tokens), -(-int(tiles.sum()) // max(max_tiles, 1)))
    alone = max(int((2 * tokens > max_tokens).sum()), int((2 * tiles > max_tiles).sum()))
    return max(by_total, alone)


def _largest_first(tokens: Int, tiles: Int, *, max_tokens: int, max_tiles: int, tiles_bind: bool) -> Int:
    """The order int64 [N] of rule 2."""
    largest = np.maximum(tokens * max_tiles, tiles * max_tokens) if max_tiles else tokens
    primary, secondary = (tiles, tokens) if tiles_bind else (tokens, tiles)
    columns = [column.max() - column for column in (largest, primary, secondary)]
    # All that decides in one number, where 63 bits hold it: one sort, and a fast one.
    widths = [int(column.max()).bit_length() for column in columns]
    index = len(tokens).bit_length()
    if sum(widths) + index > 63:
        return np.lexsort(columns[::-1])
    key = np.zeros(len(tokens), np.int64)
    for column, width in zip(columns, widths, strict=True):
        key = key << width | column
    key = key << index | np.arange(len(tokens))
    key.sort()
    return key & ((1 << index) - 1)


def _best_fit(
    tokens: Int, tiles: Int, order: Int, *, max_tokens: int, max_tiles: int, tiles_bind: bool
) -> tuple[Int, int]:
    """Rule 3 with items taken in `order` int64 [N]: each item's pack int64 [N], and the number of packs."""
    number = len(tokens)
    leaves = 1 << max_tokens.bit_length()
    lists = [np.full(size, -1, np.int64) for size in (max_tokens + 1, number, number, number)]
    placed = np.empty(number, np.int64)
    arguments = (tokens[order], tiles[order], max_tokens, max_tiles, leaves)
    if tiles_bind:
        words = max_tiles // WORD + 1
        tree = np.zeros(2 * leaves * words, np.int64)
        opened = tiles_first(*arguments, words, tree, *lists, placed, work=number + len(tree) // 64)
    else:
        tree = np.full(2 * leaves, -1, np.int64)
        opened = tokens_first(*arguments, tree, *lists, placed, work=number + len(tree) // 64)
    packs = np.empty(number, np.int64)
    packs[order] = placed
    return packs, opened
