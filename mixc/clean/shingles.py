"""Texts as sets of hashed n-grams of words: what MinHash and decontamination compare.

A text is brought to NFKC and case-folded, so that look-alikes are alike. Words are runs of letters, marks and digits
(Unicode categories L, M, N); each character of a script that is written without spaces (Han, Hiragana, Katakana, Thai,
Lao, Khmer, Myanmar) is a word of its own; everything else only parts words. A shingle is the hash of `ngram` words in a
row; a text of fewer words has one shingle, of all of them; a text without a word has none.

    word     FNV-1a of its UTF-8 bytes, 64 bits (Fowler, Noll, Vo; offset 0xcbf29ce484222325, prime 0x100000001b3)
    shingle  mix64(sum of word[i] * B^(n-1-i) mod 2^64, over its n words),  B = 0x9e3779b97f4a7c15

mix64 is SplitMix64's finaliser. All of it is integer arithmetic: the same on every machine. What counts as a letter is
for Python's version of Unicode to say, so SHINGLE_VERSION names it.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.jit import jit

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
Int = npt.NDArray[np.int64]

SHINGLE_VERSION = f"1-unicode{unicodedata.unidata_version}"
"""Changes whenever shingles can."""
BETWEEN, LETTER, ALONE = 0, 1, 2

_UNSPACED = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x19E0, 0x19FF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    *((0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xF900, 0xFAFF), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF)),
)
"""Code points, inclusive: Thai, Lao, Myanmar, Khmer; Han with its marks and extensions, Hiragana, Katakana."""


@functools.cache
def classes() -> U8:
    """BETWEEN, LETTER or ALONE of every code point, uint8 [0x110000]."""
    category = unicodedata.category
    table = np.frombuffer(bytes(category(chr(c))[0] in "LMN" for c in range(0x30000)), np.uint8)
    table = np.concatenate([table, np.zeros(0x110000 - len(table), np.uint8)])
    table[0xE0100:0xE01F0] = LETTER  # variation selectors are marks
    for first, last in _UNSPACED:
        part = table[first : last + 1]
        part[part == LETTER] = ALONE
    table[0x30000:0x33480] = ALONE  # Han extensions G to J
    return table


def joined(texts: Sequence[str]) -> tuple[U8, Int]:
    """The texts end to end in UTF-8, uint8 [B], and where each ends, int64 [N]: in NFKC, case-folded and in NFKC again, as
    far as their words are concerned. The case of ASCII is left to the kernel; a lone surrogate stands as itself.

    Only runs of characters that have a say in it take the long way, each with the character before it, which it may
    combine with. ASCII is in NFKC and never combines with what stands before it; and punctuation and symbols that stay
    such need not be changed at all, for they only part words.
    """
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum(np.fromiter(map(len, raw), np.int64, len(raw)))
    data = b"".join(raw)
    array = np.frombuffer(data, np.uint8)
    if all(map(str.isascii, texts)):
        return array, ends
    runs = np.empty((len(array) // 2 + 1, 2), np.int64)
    runs = runs[: _runs_kernel()(array, ends, _inert(), runs)]
    parts: list[bytes] = []
    last = 0
    grown = np.zeros(len(runs), np.int64)
    for i, (start, end) in enumerate(runs.tolist()):
        run = data[start:end]
        folded = _folded(run) if len(run) <= _SHORT else _folded.__wrapped__(run)
        parts += (data[last:start], folded)
        grown[i] = len(folded) - (end - start)
        last = end
    parts.append(data[last:])
    of = np.searchsorted(ends, runs[:, 0], side="right")
    np.add.at(growth := np.zeros(len(ends), np.int64), of, grown)
    return np.frombuffer(b"".join(parts), np.uint8), ends + np.cumsum(growth)


@functools.cache
def _inert() -> npt.NDArray[np.bool_]:
    """Code points that normalising leaves to part words, or as they are, whatever stands beside them: ASCII, and
    punctuation and symbols of one kind before and after. bool [0x110000]."""
    table = classes()
    inert = np.zeros(0x110000, bool)
    inert[:0x80] = True
    for code in range(0x80, 0x3400):
        if unicodedata.category(chr(code))[0] in "PSZ":
            inert[code] = all(table[ord(c)] == BETWEEN for c in _folded(chr(code).encode()).decode())
    return inert


_SHORT = 256
"""Bytes of a run that is kept, folded, for the next time."""


@functools.lru_cache(1 << 14)
def _folded(run: bytes) -> bytes:
    text = run.decode("utf-8", "surrogatepass")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.encode("utf-8", "surrogatepass")


def shingles(texts: Sequence[str], *, ngram: int) -> tuple[U64, Int]:
    """The shingles of each text, in order and with repetition: uint64 [S], those of text i at [ends[i-1], ends[i]),
    int64 [N]."""
    data, ends = joined(texts)
    found = np.empty(len(data) // 2 + len(texts) + 1, np.uint64)
    bounds = np.empty(len(texts), np.int64)
    count = _kernel()(data, ends, classes(), ngram, found, bounds)
    return found[:count], bounds


@functools.cache
def _runs_kernel() -> Callable[..., int]:
    return jit(_find_runs, _character)


def _find_runs(data: Any, ends: Any, inert: Any, runs: Any) -> int:
    """Runs [start, end) of bytes of characters that are not inert, each with the character before it unless a text
    begins or the last run ends there; into `runs`, their number."""
    count = 0
    start = 0
    for i in range(len(ends)):
        at = before = start
        inside = False
        while at < ends[i]:
            code, size = _character(data, at)
            if inert[code]:
                inside = False
            elif inside:
                runs[count - 1, 1] = at + size
            else:
                first = before
                if count and runs[count - 1, 1] > first:
                    first = at
                runs[count, 0], runs[count, 1] = first, at + size
                count += 1
                inside = True
            before = at
            at += size
        start = ends[i]
    return count


@functools.cache
def _kernel() -> Callable[..., int]:
    return jit(_shingles, _character, _mix)


def _character(data: Any, at: Any) -> tuple[Any, Any]:
    """The code point that begins at `at`, and its bytes."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, 1
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    code = lead & (0xFF >> (size + 1))
    for j in range(1, size):
        code = code << 6 | (np.int64(data[at + j]) & 0x3F)
    return code, size


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _shingles(data: Any, ends: Any, table: Any, ngram: Any, found: Any, bounds: Any) -> int:
    base = np.uint64(0x9E3779B97F4A7C15)
    drop = np.uint64(1)  # base^ngram: takes the word that leaves out of the sum
    for _ in range(ngram):
        drop = drop * base
    ring = np.zeros(ngram, np.uint64)
    count = 0
    start = 0
    for i in range(len(ends)):
        total = np.uint64(0)
        words = 0
        word = np.uint64(0xCBF29CE484222325)
        last = BETWEEN  # of the word that is open, what it is of
        at, end = start, ends[i]
        while at <= end:
            kind, size = BETWEEN, 1
            if at < end:
                code, size = _character(data, at)
                kind = table[code]
            if last == ALONE or (last == LETTER and kind != LETTER):  # a word ends here
                slot = words % ngram
                total = total * base + word - ring[slot] * drop
                ring[slot] = word
                words += 1
                last = BETWEEN
                if words >= ngram:
                    found[count] = _mix(total)
                    count += 1
            if kind != BETWEEN:
                if last == BETWEEN:
                    word = np.uint64(0xCBF29CE484222325)
                for j in range(size):
                    byte = np.uint64(data[at + j])
                    if 0x41 <= byte <= 0x5A:  # an ASCII capital
                        byte += np.uint64(0x20)
                    word = (word ^ byte) * np.uint64(0x100000001B3)
                last = kind
            at += size
        if 0 < words < ngram:
            found[count] = _mix(total)
            count += 1
        for j in range(ngram):
            ring[j] = np.uint64(0)
        bounds[i] = count
        start = end
    return count
