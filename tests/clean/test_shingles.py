"""Words, normalisation and shingles, against a plain model of docs/cleaning.md."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.clean.shingles import ALONE, BETWEEN, LETTER, classes, shingles

MASK = (1 << 64) - 1
TEXTS = (
    st.text()
    | st.text("ab c.\n")
    | st.lists(st.sampled_from(["fox", "the", "é", "日本", "ไทย", "x1", "—", "𝔸"])).map(" ".join)
)


def words_of(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words, open_word = [], ""
    for character in folded:
        kind = classes()[ord(character)]
        if kind == LETTER:
            open_word += character
            continue
        if open_word:
            words.append(open_word)
            open_word = ""
        if kind == ALONE:
            words.append(character)
    return [*words, open_word] if open_word else words


def fnv(word: str) -> int:
    value = 0xCBF29CE484222325
    for byte in word.encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def model(text: str, ngram: int) -> list[int]:
    hashes = [fnv(word) for word in words_of(text)]
    grams = [hashes[i : i + ngram] for i in range(max(1, len(hashes) - ngram + 1))] if hashes else []
    base = 0x9E3779B97F4A7C15
    return [mix(sum(h * base ** (len(g) - 1 - i) for i, h in enumerate(g)) & MASK) for g in grams]


@given(st.lists(TEXTS, max_size=6), st.integers(1, 6))
def test_shingles_are_those_of_the_model(texts: list[str], ngram: int) -> None:
    found, ends = shingles(texts, ngram=ngram)
    starts = [0, *ends[:-1].tolist()] if len(ends) else []
    assert [found[a:b].tolist() for a, b in zip(starts, ends.tolist(), strict=True)] == [model(t, ngram) for t in texts]


@given(st.text(st.sampled_from("aEÉ= \u0301\u0308\u0338éßﬁİi\u1100\u1161\u11a8가\u0345Σς©¶\u2203™²\ud800\u00a0—日")))
def test_runs_are_normalised_as_the_whole_text_would_be(text: str) -> None:
    for ngram in (1, 3):
        assert shingles(["x", text, text], ngram=ngram)[0].tolist() == model("x", 1) + 2 * model(text, ngram)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("ﬁne", "fine"),
        ("e\u0301té", "ÉTÉ"),
        ("well-known, fact!", "Well known fact"),
        ("Ｆｕｌｌ width", "full WIDTH"),
        ("日本語", "日、本。語"),
    ],
)
def test_texts_that_count_as_one(one: str, other: str) -> None:
    assert shingles([one], ngram=2)[0].tolist() == shingles([other], ngram=2)[0].tolist()


def test_classes_are_pythons() -> None:
    table = classes()
    for code in [*range(0x3000), *range(0xA000, 0xABFF), *range(0x1D400, 0x1D7FF)]:
        letter = unicodedata.category(chr(code))[0] in "LMN"
        assert (table[code] != BETWEEN) == letter, hex(code)
    for character in "ดກတខ々あア一豈𠀀𰀀":
        assert table[ord(character)] == ALONE, character
    assert len(table) == 0x110000 and table.dtype == np.uint8
