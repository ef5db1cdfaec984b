"""Texts in words, and repeated runs of words.

A word is a run of characters that are not white space, punctuation included, except that in scripts without spaces
(shingles.py) each letter is a word of its own. Runs are compared word by word, never by a hash alone, so that no result
hangs on a collision, nor on which texts share a batch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.clean.shingles import ALONE, classes
from shards.jit import jit

Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Words:
    of: list[list[str]]
    """The words of each text, in order."""
    ids: Int
    """int64 [W]: of all texts end to end, a number for each distinct word."""
    lengths: Int
    """int64 [W]: code points."""
    ends: Int
    """int64 [N]: where each text's words end."""


def split(texts: Sequence[str]) -> Words:
    unspaced, word = _patterns()
    of = [
        # white space is the same to both, and `split` is several times faster
        text.split() if text.isascii() or not unspaced.search(text) else word.findall(text)
        for text in texts
    ]
    flat = [word for words in of for word in words]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(flat))}
    return Words(
        of,
        np.fromiter(map(numbers.__getitem__, flat), np.int64, len(flat)),
        np.fromiter(map(len, flat), np.int64, len(flat)),
        np.cumsum(np.fromiter(map(len, of), np.int64, len(of))),
    )


def duplicate_characters(words: Words, n: int) -> Int:
    """int64 [N]: code points of the words in n-grams that occurred before in their text. From left to right: a repeated
    n-gram is counted and passed over whole, so that nothing counts twice (Datatrove's `find_all_duplicate`)."""
    found = np.zeros(len(words.ends), np.int64)
    _kernels()[0](words.ids, words.lengths, words.ends, n, found)
    return found


def top_characters(words: Words, n: int) -> Int:
    """int64 [N]: occurrences of the most frequent n-gram, the earliest of equals, times its length in code points, n - 1
    spaces counted; 0 where none occurs twice."""
    found = np.zeros(len(words.ends), np.int64)
    _kernels()[1](words.ids, words.lengths, words.ends, n, found)
    return found


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A letter of a script without spaces; a word."""
    alone = np.flatnonzero(np.diff(np.concatenate([[0], classes() == ALONE, [0]]).astype(np.int8)))
    ranges = "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in alone.reshape(-1, 2).tolist())
    return re.compile(f"[{ranges}]"), re.compile(f"[{ranges}]|[^\\s{ranges}]+")


@functools.cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    return jit(_duplicates, _slot, _table), jit(_tops, _slot, _table)


def _table(count: Any) -> Any:
    """An empty table for up to `count` n-grams, at most half full."""
    size = 8
    while size < 2 * count:
        size *= 2
    return np.full(size, -1, np.int64)


def _slot(ids: Any, n: Any, at: Any, table: Any) -> Any:
    """The place in an open-addressed `table` (a power of two long, of positions, -1 free) of the n-gram at `at`."""
    h = np.uint64(n)
    for j in range(n):
        h = (h ^ np.uint64(ids[at + j])) * np.uint64(0x9E3779B97F4A7C15)
        h = h ^ (h >> np.uint64(29))
    mask = len(table) - 1
    slot = np.int64(h >> np.uint64(20)) & mask
    while table[slot] >= 0:
        other = table[slot]
        same = True
        for j in range(n):
            if ids[other + j] != ids[at + j]:
                same = False
                break
        if same:
            break
        slot = (slot + 1) & mask
    return slot


def _duplicates(ids: Any, lengths: Any, ends: Any, n: Any, found: Any) -> None:
    start = 0
    for i in range(len(ends)):
        table = _table(ends[i] - start)
        at = start
        while at + n <= ends[i]:
            slot = _slot(ids, n, at, table)
            if table[slot] < 0:
                table[slot] = at
                at += 1
            else:
                for j in range(n):
                    found[i] += lengths[at + j]
                at += n
        start = ends[i]


def _tops(ids: Any, lengths: Any, ends: Any, n: Any, found: Any) -> None:
    start = 0
    for i in range(len(ends)):
        table = _table(ends[i] - start)
        counts = np.zeros(len(table), np.int64)
        most, first = 1, -1
        for at in range(start, ends[i] - n + 1):
            slot = _slot(ids, n, at, table)
            if table[slot] < 0:
                table[slot] = at
            counts[slot] += 1
            if counts[slot] > most or (counts[slot] == most and most > 1 and table[slot] < first):
                most, first = counts[slot], table[slot]
        if first >= 0:
            length = n - 1
            for j in range(n):
                length += lengths[first + j]
            found[i] = most * length
        start = ends[i]
