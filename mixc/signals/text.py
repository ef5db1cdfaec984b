"""Signals of text. Every ratio is one division of two integers, which IEEE 754 rounds the same everywhere."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable

from mixc.signals.batch import BATCH_SAMPLES, Batch
from mixc.signals.words import duplicate_characters, top_characters

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
"""Gopher, arXiv:2112.11446, appendix A1.1."""
_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")
_RENAMED = {"iw": "he", "in": "id", "jw": "jv", "un": "und"}
"""CLD2's codes that ISO 639-1 has withdrawn, and its own for what it cannot tell."""
_NOT_INTERCHANGED = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)
"""Control characters and noncharacters: CLD2 refuses a text that has one."""


def words(batch: Batch) -> list[int]:
    return [len(own) for own in batch.words.of]


def duplicate(n: int) -> Callable[[Batch], list[float]]:
    return lambda batch: _shares(duplicate_characters(batch.words, n).tolist(), map(len, batch.texts))


def top(n: int) -> Callable[[Batch], list[float]]:
    return lambda batch: _shares(top_characters(batch.words, n).tolist(), map(len, batch.texts))


def duplicate_lines(batch: Batch) -> list[float]:
    return _shares(
        (
            sum(len(line) * (count - 1) for line, count in Counter(filter(None, text.split("\n"))).items())
            for text in batch.texts
        ),
        map(len, batch.texts),
    )


def language(batch: Batch) -> list[str]:
    return [code for code, _ in map(detect, batch.texts)]


def language_score(batch: Batch) -> list[float]:
    return [percent / 100 for _, percent in map(detect, batch.texts)]


@functools.lru_cache(maxsize=BATCH_SAMPLES)
def detect(text: str) -> tuple[str, int]:
    """CLD2's first language and the percentage of the text in it, 0 where it holds that unreliable."""
    import pycld2

    try:
        reliable, _, found = pycld2.detect(text.encode(), bestEffort=True)
    except pycld2.error:
        try:
            reliable, _, found = pycld2.detect(_NOT_INTERCHANGED.sub(" ", text).encode(), bestEffort=True)
        except pycld2.error:
            return "und", 0
    _, code, percent, _ = found[0]
    return _RENAMED.get(code, code), percent if reliable else 0


def mean_word_length(batch: Batch) -> list[float]:
    spoken = [[word for word in own if any(map(str.isalnum, word))] for own in batch.words.of]
    return _shares((sum(map(len, own)) for own in spoken), map(len, spoken))


def symbol_ratio(batch: Batch) -> list[float]:
    return _shares(
        (max(text.count("#"), text.count("...") + text.count("…")) for text in batch.texts),
        map(len, batch.words.of),
    )


def digit_ratio(batch: Batch) -> list[float]:
    return _shares((sum(map(str.isdecimal, text)) for text in batch.texts), map(len, batch.texts))


def alphabetic_ratio(batch: Batch) -> list[float]:
    return _shares(
        (sum(any(map(str.isalpha, word)) for word in own) for own in batch.words.of), map(len, batch.words.of)
    )


def stop_words(batch: Batch) -> list[int]:
    return [len(STOP_WORDS & {word.lower() for word in own}) for own in batch.words.of]


def bullet_lines(batch: Batch) -> list[float]:
    lines = [text.splitlines() for text in batch.texts]
    return _shares((sum(line.lstrip().startswith(_BULLETS) for line in own) for own in lines), map(len, lines))


def ellipsis_lines(batch: Batch) -> list[float]:
    lines = [text.splitlines() for text in batch.texts]
    return _shares((sum(line.rstrip().endswith(_ELLIPSES) for line in own) for own in lines), map(len, lines))


def _shares(parts: Iterable[int], wholes: Iterable[int]) -> list[float]:
    """part / whole, 0 of nothing."""
    return [part / whole if whole else 0.0 for part, whole in zip(parts, wholes, strict=True)]
