"""Best fit under two limits: the search for a pack. Kernels of `mixc.plan.compiled`, integers only.

Packs with room left hang on their room in tokens: `first[room]` is a list of *states*, one for each room in
tiles that a pack there has, least first. A state is a stack of packs, linked by `under`; the pack on top stands
for it and has in `right` the top of the next state. A segment tree over the rooms in tokens (Bentley, "Solutions to
Klee's rectangle problems", 1977; node 1 is the root, node n has the children 2n and 2n + 1, leaf `leaves + room`)
tells in O(log limit) where a pack is that an item fits, however many packs there are.
"""

from __future__ import annotations

from typing import Any

from mixc.plan.compiled import Kernel

WORD = 62
"""Rooms in a word of a set, so that no word is negative as int64."""

Ints = Any
"""int64 [N], or a list of as many integers."""


def _pop(first: Ints, under: Ints, right: Ints, tile_room: Ints, room: int, least: int) -> Any:
    """Take the top pack of the first state at `room` that has room for `least` tiles: (pack, whether the state is
    gone with it)."""
    before, top = -1, first[room]
    while tile_room[top] < least:
        before, top = top, right[top]
    after = under[top]
    gone = after < 0
    if gone:
        after = right[top]
    else:
        right[after] = right[top]
    if before < 0:
        first[room] = after
    else:
        right[before] = after
    return top, gone


def _push(first: Ints, under: Ints, right: Ints, tile_room: Ints, room: int, tiles: int, pack: int) -> None:
    """Put a pack with room for `room` tokens and `tiles` tiles on top of its state."""
    before, top = -1, first[room]
    while top >= 0 and tile_room[top] < tiles:
        before, top = top, right[top]
    if top >= 0 and tile_room[top] == tiles:
        under[pack], right[pack] = top, right[top]
    else:
        under[pack], right[pack] = -1, top
    tile_room[pack] = tiles
    if before < 0:
        first[room] = pack
    else:
        right[before] = pack


def _tokens_first(
    tokens: Ints,
    tiles: Ints,
    max_tokens: int,
    max_tiles: int,
    leaves: int,
    most: Ints,
    first: Ints,
    under: Ints,
    right: Ints,
    tile_room: Ints,
    packs: Ints,
) -> int:
    """Place items [N] in their order: `packs` [N] becomes each one's pack. Returns the number of packs.

    Each goes to the pack with the least room in tokens that it fits, of these to the one with the least room in
    tiles. `leaves` is a power of two above `max_tokens`. Filled with -1: `most` [2 * leaves], the tree, each node
    with the most room in tiles below it; `first` [max_tokens + 1]; `under`, `right` and `tile_room` [N].
    """
    opened = 0
    for i in range(len(tokens)):
        need, other = tokens[i], tiles[i]
        node = leaves + need
        while most[node] < other:
            while node & 1:  # a right child: its parent's right neighbour is next
                node >>= 1
            if node == 0:
                break
            node += 1
        if node == 0:
            pack, room, room_other = opened, max_tokens, max_tiles
            opened += 1
        else:
            while node < leaves:
                node <<= 1
                if most[node] < other:
                    node += 1
            room = node - leaves
            pack, gone = _pop(first, under, right, tile_room, room, other)
            room_other = tile_room[pack]
            if gone and most[node] == room_other:
                left, top = -1, first[room]
                while top >= 0:
                    left, top = tile_room[top], right[top]
                while True:
                    most[node] = left
                    if node == 1:
                        break
                    left = max(left, most[node ^ 1])
                    node >>= 1
                    if most[node] == left:
                        break
        packs[i] = pack
        room, room_other = room - need, room_other - other
        if room:
            _push(first, under, right, tile_room, room, room_other, pack)
            node = leaves + room
            while node and most[node] < room_other:
                most[node] = room_other
                node >>= 1
    return opened


def _tiles_first(
    tokens: Ints,
    tiles: Ints,
    max_tokens: int,
    max_tiles: int,
    leaves: int,
    words: int,
    rooms: Ints,
    first: Ints,
    under: Ints,
    right: Ints,
    tile_room: Ints,
    packs: Ints,
) -> int:
    """As `_tokens_first`, but each goes to the pack with the least room in tiles, of these to the one with the least
    in tokens.

    In place of `most`, `rooms` [2 * leaves * words] of zeros: each node has the set of the rooms in tiles below it,
    bit room % WORD of word room // WORD.
    """
    opened = 0
    for i in range(len(tokens)):
        need, other = tokens[i], tiles[i]
        # The least room in tiles of a pack with room for the tokens: in no word before `word`, there the lowest bit.
        word, bit = other // WORD, 0
        above = ((1 << WORD) - 1) >> (other % WORD) << (other % WORD)
        while word < words:
            node = leaves + need
            found = rooms[node * words + word]
            while node > 1:
                if node & 1 == 0:
                    found |= rooms[(node + 1) * words + word]
                node >>= 1
            found &= above
            if found:
                bit = found & -found
                break
            above = (1 << WORD) - 1
            word += 1
        if bit == 0:
            pack, room, room_other = opened, max_tokens, max_tiles
            opened += 1
        else:
            node = leaves + need
            while rooms[node * words + word] & bit == 0:
                while node & 1:
                    node >>= 1
                node += 1
            while node < leaves:
                node <<= 1
                if rooms[node * words + word] & bit == 0:
                    node += 1
            room = node - leaves
            least = word * WORD
            while bit > 1:
                bit >>= 1
                least += 1
            pack, gone = _pop(first, under, right, tile_room, room, least)
            room_other = tile_room[pack]
            if gone:
                bit = 1 << (room_other % WORD)
                rooms[node * words + word] ^= bit
                while node > 1 and rooms[(node ^ 1) * words + word] & bit == 0:
                    node >>= 1
                    rooms[node * words + word] ^= bit
        packs[i] = pack
        room, room_other = room - need, room_other - other
        if room:
            _push(first, under, right, tile_room, room, room_other, pack)
            node, word, bit = leaves + room, room_other // WORD, 1 << (room_other % WORD)
            while node and rooms[node * words + word] & bit == 0:
                rooms[node * words + word] |= bit
                node >>= 1
    return opened


PLAIN = 30_000
"""Items and tree nodes below which plain Python, at some microseconds each, is sooner done than numba is imported."""

tokens_first = Kernel(_tokens_first, _pop, _push, plain=PLAIN)
tiles_first = Kernel(_tiles_first, _pop, _push, plain=PLAIN)
