"""What a mistake looks like."""

from __future__ import annotations

import pickle

import pytest

from mixc.errors import MixcError, SpecError
from mixc.spec.diagnostics import (
    SHOWN,
    WIDTH,
    Diagnostic,
    InvalidSpecError,
    Span,
    Text,
    fail,
    in_order,
    printable,
    render,
    suggest,
)


def at(content: str, marked: str, name: str = "a.yaml") -> Span:
    start = content.index(marked)
    return Span(Text(name, content), start, start + len(marked))


def test_rendered_like_a_compiler() -> None:
    place = at("name: x\nstages:\n  - budgte: 2 epochs\n", "budgte").place
    shown = Diagnostic(message="unknown key `budgte`", place=place, why="because", mend="did you mean `budget`?")
    assert shown.render() == (
        "a.yaml:3:5: error: unknown key `budgte`\n"
        "    3 |   - budgte: 2 epochs\n"
        "      |     ^^^^^^\n"
        "  why:  because\n"
        "  mend: did you mean `budget`?"
    )


@pytest.mark.parametrize(
    ("content", "marked", "caret"),
    [
        ("k: 中文 x", "x", "        ^"),  # each 2 columns wide
        ("k: e\u0301 x", "x", "     ^"),  # a combining accent has none
        ("\tk: x", "x", "    ^"),
        ("k: 中文", "中文", "   ^^^^"),
        ("k: \u202ex", "x", "    ^"),  # a direction mark is shown as one replacement character
    ],
)
def test_carets_stand_under_the_text(content: str, marked: str, caret: str) -> None:
    line = Diagnostic(message="m", place=at(content, marked).place).render().splitlines()[2]
    assert line == f"      | {caret}"


def test_long_lines_are_cut_around_the_caret() -> None:
    content = "a" * 5000 + "HERE" + "b" * 5000
    _, source, caret = Diagnostic(message="m", place=at(content, "HERE").place).render().splitlines()
    assert len(source) < WIDTH + 20
    assert source[caret.index("^") : caret.rindex("^") + 1] == "HERE"


def test_span_of_several_lines_is_marked_on_its_first() -> None:
    place = at("a: [1,\n 2]\n", "[1,\n 2]").place
    assert (place.line, place.column, place.length, place.source) == (1, 4, 3, "a: [1,")


def test_span_at_the_end_of_the_text() -> None:
    place = Span(Text("f", "a: 1\n"), 99, 100).place
    assert (place.line, place.column, place.length) == (2, 1, 1)


def test_terminal_sequences_are_not_printed() -> None:
    text = Diagnostic(message=printable("\x1b[31mred\u202e\n"), place=at("k: \x1b[31m", "k").place).render()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(printable("x" * 1000)) == 60


def test_an_error_of_several_mistakes() -> None:
    content = "a: 1\nb: 2\n"
    error = InvalidSpecError(
        [
            Diagnostic(message="unused", place=at(content, "a").place, severity="warning"),
            Diagnostic(message="wrong", place=at(content, "b").place, mend="right it"),
        ]
    )
    assert isinstance(error, SpecError)
    assert isinstance(error, MixcError)
    assert (error.what, error.where, error.mend) == ("wrong", "a.yaml:2:1", "right it")
    assert "a.yaml:1:1: warning: unused" in str(error)
    assert "a.yaml:2:1: error: wrong" in str(error)
    assert str(error).endswith("1 error and 1 warning")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert type(again) is InvalidSpecError


def test_many_mistakes_are_counted() -> None:
    text = render([Diagnostic(message=f"m{i}") for i in range(SHOWN + 5)])
    assert f"m{SHOWN - 1}" in text
    assert f"m{SHOWN}" not in text
    assert text.endswith(f"{SHOWN + 5} errors, 5 not shown")


def test_in_order() -> None:
    content = "a: 1\nb: 2\n"
    first, second = (Diagnostic(message=m, place=at(content, m).place) for m in "ab")
    assert in_order([second, first, second, Diagnostic(message="c")]) == (Diagnostic(message="c"), first, second)


def test_fail_without_a_place() -> None:
    assert str(fail("no such file", mend="make one")) == "error: no such file\n  mend: make one"


def test_suggest() -> None:
    assert suggest("budgte", ["budget", "batch"]) == "did you mean `budget`?"
    assert suggest("Captions", ["captions"]) == "did you mean `captions`?"
    assert suggest("zzz", ["budget", "batch"]) == "there is `batch`, `budget`"
    assert suggest("zzz", [f"n{i:02}" for i in range(20)]).endswith("`n11` and 8 more")
    assert suggest("zzz", []) == ""
