"""Signals of text, against values worked out by hand and Datatrove's own."""

from __future__ import annotations

import pytest
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_top_duplicate, get_n_grams
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.signals.batch import Batch
from mixc.signals.names import SIGNALS
from mixc.signals.registry import FACTS, FUNCTIONS
from mixc.signals.words import duplicate_characters, split, top_characters


def batch(*texts: str) -> Batch:
    none = [()] * len(texts)
    return Batch(texts=texts, turns=none, images=none, columns=[{}] * len(texts), rows=range(len(texts)))


def value(name: str, text: str) -> object:
    (found,) = FUNCTIONS[name](batch(text))
    return found


TEN = "one two three four five six seven eight nine ten "


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("words", "Two words, here.", 3),
        ("words", "我们去 park。", 4),  # three characters, and `park` with its stop
        ("words", "ไทย", 3),
        ("words", "", 0),
        ("repetition", TEN, 0.0),
        ("repetition", TEN + TEN, 39 / 98),  # the ten words of the second, of all characters
        ("repetition", TEN * 3, 78 / 147),
        ("duplicate_5gram", "a b c d e a b c d e", 5 / 19),
        ("duplicate_5gram", "我们去公园我们去公园", 0.5),
        ("top_2gram", "a b a b c", 6 / 9),
        ("top_2gram", "a b c", 0.0),
        ("top_3gram", "a b c a b c", 10 / 11),
        ("top_4gram", "a b", 0.0),
        ("duplicate_lines", "same\nother\nsame\n\n\nsame", 8 / 22),
        ("mean_word_length", "ab cdef !!", 3.0),
        ("mean_word_length", "!!", 0.0),
        ("symbol_ratio", "# a # b ...", 2 / 5),
        ("symbol_ratio", "", 0.0),
        ("digit_ratio", "a1٣b", 0.5),  # an Arabic digit is one
        ("alphabetic_ratio", "one 2 !! four", 0.5),
        ("stop_words", "The cat and the dog", 2),
        ("bullet_lines", "- a\n  • b\nc\nd", 0.5),
        ("ellipsis_lines", "a...\nb …  \nc\nd", 0.5),
        ("language", "This is a sentence in plain English about the weather of today.", "en"),
        ("language", "Dies ist ein deutscher Satz über das Wetter von heute Morgen.", "de"),
        ("language", "שלום עולם, זה טקסט קצר בעברית על מזג האוויר", "he"),
        ("language", "今天天气很好，我们去公园散步，然后回家吃饭。", "zh"),
        ("language", "?!? ###", "und"),
        ("language_score", "", 0.0),
    ],
)
def test_by_hand(name: str, text: str, expected: object) -> None:
    assert value(name, text) == expected


def test_language_of_texts_that_the_library_refuses() -> None:
    """Control characters and noncharacters, of every plane."""
    sentence = "This is a sentence in plain English about the weather of today."
    for bad in "\x00\x0b\x7f\x85\ufdd0\uffff\U0001fffe\U0010ffff":
        assert value("language", bad + sentence) == "en"
    assert value("language_score", "\x00" + sentence) == value("language_score", sentence) > 0.9


def test_every_signal_has_what_computes_it() -> None:
    assert set(SIGNALS) == set(FUNCTIONS) | set(FACTS)
    assert not set(FUNCTIONS) & set(FACTS)


letters = st.lists(st.sampled_from("abc"), max_size=40)


@given(letters, st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_repeated_runs_are_datatroves(words: list[str], n: int) -> None:
    """On words of one letter, where Datatrove's joining of words cannot make unlike runs alike."""
    text = split([" ".join(words)])
    assert duplicate_characters(text, n).tolist() == [find_all_duplicate(words, n)]
    grams = get_n_grams(words, n)
    once = len(set(grams)) == len(grams)
    assert top_characters(text, n).tolist() == [0 if once else find_top_duplicate(grams)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_value_depends_on_its_own_text_alone(texts: list[str]) -> None:
    for name in FUNCTIONS:
        assert list(FUNCTIONS[name](batch(*texts))) == [value(name, text) for text in texts], name


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_words_of_texts_with_and_without_unspaced_scripts_are_cut_alike(text: str) -> None:
    """A Han letter at the end sends the text the other way, and is one word more."""
    (plain,), (other,) = split([text]).of, split([text + "\n水"]).of
    assert [*plain, "水"] == other


@given(st.text(st.sampled_from("ab #.…-•\n1我ا"), max_size=60))
@settings(max_examples=200, deadline=None)
def test_shares_are_shares(text: str) -> None:
    for name in ("repetition", "duplicate_5gram", "duplicate_lines", "digit_ratio", "alphabetic_ratio", "bullet_lines"):
        found = value(name, text)
        assert isinstance(found, float) and 0 <= found <= 1, name
