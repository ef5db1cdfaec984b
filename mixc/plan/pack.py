"""Packing: which samples share a training sequence. Arrays in, arrays out; no randomness, no I/O.

Best-fit decreasing under two limits, tokens and tiles (vector bin packing with a primary and a secondary
dimension):

1. The primary dimension is the one whose total comes nearer to its limit, that is needs more packs: tokens
   unless tiles
   bind. The other is secondary.
2. Items are taken largest first: by the larger of tokens/limit and tiles/limit, then primary, then secondary,
   then the
   caller's tie-breakers. So the result is a function of the set of items and not of their order.
3. Each goes to the pack with the least room left in the primary dimension among those where it fits in both;
   among
   these to the one with the least room in the secondary, then to the one that came to this state last. When
   it fits nowhere, a new pack is opened.

Equal items are placed together, which gives the same result: having taken one item, a pack has less room than
before and so is again the best fit for an equal item until it is full.

The search for the best pack is a walk in a segment tree over "room left in the primary dimension" whose
leaves hold the most room left in the secondary among the packs there: O(log limit) whatever the number of
packs. Best-fit decreasing needs at most 11/9 of the optimum plus a constant in one dimension (Johnson et al.,
"Worst-case performance bounds for simple one-dimensional packing algorithms", SIAM J. Comput. 3(4), 1974); on
real length distributions a window of some thousands fills to better than 99.5 % (docs/planning.md has
figures, benchmarks/plan.py makes them).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]


def pack(
    tokens: npt.ArrayLike,
    tiles: npt.ArrayLike,
    *,
    max_tokens: int,
    max_tiles: int,
    ties: Sequence[npt.ArrayLike] = (),
) -> Int:
    """Assign N items to packs: int64 [N], pack numbers from 0 without gaps, in the order in which packs were
    opened.

    `tokens` and `tiles` are integers [N], tokens at least 1. `ties` are further arrays [N], the first the
    most significant, that tell items of equal size apart; where they do not, the order of the input decides.
    ValueError when an item alone exceeds a limit.
    """
    tokens, tiles = np.asarray(tokens, np.int64), np.asarray(tiles, np.int64)
    if len(tokens) == 0:
        return np.zeros(0, np.int64)
    if tokens.min() < 1 or tokens.max() > max_tokens or tiles.min() < 0 or tiles.max() > max_tiles:
        raise ValueError("an item does not fit an empty pack")
    tiles_bind = int(tiles.sum()) * max_tokens > int(tokens.sum()) * max_tiles
    primary, secondary = (tiles, tokens) if tiles_bind else (tokens, tiles)
    limits = (max_tiles, max_tokens) if tiles_bind else (max_tokens, max_tiles)
    largest = np.maximum(tokens * max(max_tiles, 1), tiles * max_tokens)
    order = np.lexsort([*reversed([np.asarray(tie) for tie in ties]), -secondary, -primary, -largest])
    assigned = np.empty(len(tokens), np.int64)
    assigned[order] = _best_fit(primary[order], secondary[order], *limits)
    return assigned


def lower_bound(tokens: npt.ArrayLike, tiles: npt.ArrayLike, *, max_tokens: int, max_tiles: int) -> int:
    """No packing can need fewer packs: the total over the limit, and the items of which no two share a
    pack."""
    tokens, tiles = np.asarray(tokens, np.int64), np.asarray(tiles, np.int64)
    if len(tokens) == 0:
        return 0
    by_total = max(-(-int(tokens.sum()) // max_tokens), -(-int(tiles.sum()) // max(max_tiles, 1)))
    alone = max(int((2 * tokens > max_tokens).sum()), int((2 * tiles > max_tiles).sum()))
    return max(by_total, alone)


def _best_fit(primary: Int, secondary: Int, primary_limit: int, secondary_limit: int) -> Int:
    """Packs int64 [N] of items in the order in which they are to be placed."""
    change = np.flatnonzero((np.diff(primary) != 0) | (np.diff(secondary) != 0)) + 1
    starts = np.concatenate([[0], change])
    runs = np.diff(np.concatenate([starts, [len(primary)]]))

    leaves = 1 << primary_limit.bit_length()
    tree = [-1] * (2 * leaves)  # node -> most secondary room among packs below it; leaf `leaves + room`
    rooms: dict[int, int] = {}  # primary room -> bit set of the secondary rooms of its packs
    packs: dict[tuple[int, int], list[int]] = {}  # (primary room, secondary room) -> packs, a stack
    opened = 0
    into: list[int] = []  # packs and how many of the items each takes, in the order of the items
    taken: list[int] = []

    def set_leaf(room: int, value: int) -> None:
        node = leaves + room
        tree[node] = value
        while node > 1:
            left, right = tree[node & ~1], tree[node | 1]
            node >>= 1
            value = left if left > right else right
            if tree[node] == value:
                return
            tree[node] = value

    def put(room: int, other: int, stack: list[int]) -> None:
        if room == 0 and other == 0:
            return
        held = packs.get((room, other))
        if held:
            held.extend(stack)
            return
        packs[room, other] = stack
        bits = rooms.get(room, 0)
        rooms[room] = bits | (1 << other)
        if other >= bits.bit_length():
            set_leaf(room, other)

    def best(need: int, other: int) -> int:
        """The least primary room >= need where a pack has secondary room >= other; -1 without one."""
        node = leaves + need
        while tree[node] < other:
            while node & 1:  # a right child: its parent's right neighbour is next
                node >>= 1
            if node == 0:
                return -1
            node += 1
        while node < leaves:
            node <<= 1
            if tree[node] < other:
                node += 1
        return node - leaves

    for need, other, count in zip(primary[starts].tolist(), secondary[starts].tolist(), runs.tolist(), strict=True):
        while count:
            room = best(need, other)
            if room < 0:
                room, room_other, fresh = primary_limit, secondary_limit, True
            else:
                bits = rooms[room] >> other
                room_other, fresh = other + (bits & -bits).bit_length() - 1, False
            each = min(room // need if need else count, room_other // other if other else count)
            if each > count:
                each = count
            number = count // each
            if fresh:
                chosen = list(range(opened, opened + number))
                opened += number
            else:
                stack = packs[room, room_other]
                if number < len(stack):
                    chosen = stack[-number:]
                    del stack[-number:]
                else:
                    chosen = stack
                    number = len(stack)
                    del packs[room, room_other]
                    bits = rooms[room] ^ (1 << room_other)
                    rooms[room] = bits
                    if room_other >= bits.bit_length():
                        set_leaf(room, bits.bit_length() - 1)
            into += chosen
            taken += [each] * number
            count -= each * number
            put(room - each * need, room_other - each * other, chosen.copy())
    return np.repeat(np.array(into, np.int64), np.array(taken, np.int64))
