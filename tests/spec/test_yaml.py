"""YAML to nodes: YAML 1.2 core, exact places, and no input that does more than be refused."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixc.errors import SpecError
from mixc.spec.diagnostics import InvalidSpecError, Span
from mixc.spec.yaml import MAX_BYTES, Mapping, Node, Scalar, Sequence, parse, plain, resolve
from tests.spec.conftest import shown, unmark


def read(text: str) -> Any:
    return plain(parse(text.encode(), "spec.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-12", -12),
        ("+12", 12),
        ("1e-5", 1e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5E+3", -500.0),
        (".", "."),
        ("1e", "1e"),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("Null", None),
        ("nULL", "nULL"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("nan", "nan"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_core_schema(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)
    assert read(f"a: {text}\n") == {"a": value}
    assert read(f"a: '{text}'\n") == {"a": text}


def test_nan_and_absurdly_long_numbers() -> None:
    value = resolve(".NaN")
    assert isinstance(value, float)
    assert math.isnan(value)
    for longest in ("9" * 250, "0x" + "f" * 248):
        found = resolve(longest)
        assert isinstance(found, int)
        assert math.isfinite(found)  # raises OverflowError beyond the largest float
    assert isinstance(resolve("9" * 251), str)
    assert isinstance(resolve("9" * 5000), str)  # int() would refuse it


def test_keys_are_text_as_written() -> None:
    assert read("2024: a\ntrue: b\n1.50: c\nnull: d\n") == {"2024": "a", "true": "b", "1.50": "c", "null": "d"}


def test_byte_order_mark_and_line_breaks() -> None:
    node = parse(b"\xef\xbb\xbfa: 1\r\nb: 2\rc: 3\n", "f")
    assert isinstance(node, Mapping)
    assert plain(node) == {"a": 1, "b": 2, "c": 3}
    assert [str(node.keys[k].place) for k in "abc"] == ["f:1:1", "f:2:1", "f:3:1"]


def test_aliases() -> None:
    assert read("a: &x [1, {b: 2}]\nc: *x\nd: &x 3\ne: *x\n") == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
        "d": 3,
        "e": 3,
    }


MISTAKES = {
    "a tag": ("a: «!!python/object/apply:os.system» [ls]", "tag `!!python/object/apply:os.system`"),
    "a local tag": ("a: [1, «!x» 2]", "tag `!x`"),
    "a core tag": ("a: «!!str» 2", "tag `!!str`"),
    "a tag after an anchor": ("a: &b «!!int» 2", "tag `!!int`"),
    "a second document": ("a: 1\n«---»\nb: 2\n", "second document"),
    "a merge key": ("x: &x {a: 1}\ny:\n  «<<»: *x\n", "merge keys"),
    "a duplicate key": ("a: 1\nb: 2\n«a»: 3\n", "`a` is given twice"),
    "a duplicate key in flow": ("x: {a: 1, «'a'»: 2}\n", "`a` is given twice"),
    "a list as a key": ("? «[»1, 2]\n: 3\n", "a key is text"),
    "no key": ("«»: 3\n", "a key is missing"),
    "an unknown alias": ("a: «*b»\n", "no anchor `&b`"),
    "an alias inside itself": ("a: &b [1, «*b»]\n", "stands inside what it names"),
    "a tab": ("a:\n«\t»b: 1\n", "'\\t'"),
    "an open quote": ("a: 'x\nb: 1\n«»", "unexpected end of stream"),
    "an open bracket": ("a: [1, 2\nb«:» 3\n", "expected ',' or ']'"),
    "two values": ("a: b«:» c\n", "mapping values are not allowed"),
    "bad indentation": ("a: 1\n b«:» 2\n", "mapping values are not allowed"),
    "a reserved character": ("a: «@»x\n", "'@' that cannot start any token"),
    "an old version": ("%YAML 1.1\n«---»\na: 1\n", "%YAML 1.1"),
    "a control character": ("a: «\x1b»[31mred\n", "U+001B"),
    "a line separator": ("a: x«\u2028»y\n", "U+2028"),
    "an escaped NUL": ('a: «"\\0"»\n', "U+0000"),
    "half a surrogate pair": ('a: «"\\ud83d"»\n', "U+D83D"),
    "too deep": ("[" * 32 + "«[»" + "]" * 33, "nested deeper"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_shown_at_their_place(text: str, message: str) -> None:
    marked = unmark(text)
    with pytest.raises(InvalidSpecError) as caught:
        parse(marked.text.encode(), "spec.yaml")
    (diagnostic,) = caught.value.diagnostics
    assert message in diagnostic.message
    line, column, source = shown(diagnostic)
    ((wanted_line, wanted_column, wanted),) = marked.marks
    assert (line, column) == (wanted_line, wanted_column)
    assert source.startswith(wanted)
    assert f"spec.yaml:{line}:{column}: error: " in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_several_mistakes_together() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        read("a: 1\na: 2\nb: !x 3\nc: *y\n")
    assert [d.place.line for d in caught.value.diagnostics if d.place] == [2, 3, 4]
    assert str(caught.value).endswith("3 errors")


@pytest.mark.parametrize(
    ("data", "line", "column", "mend"),
    [
        (b"a: 1\nb: caf\xe9\n", 2, 7, "save it as UTF-8"),
        (b"\xff", 1, 1, "save it as UTF-8"),
        ("a: 1\n".encode("utf-16"), 1, 1, "UTF-16"),
        ("a: €".encode()[:-1], 1, 4, "save it as UTF-8"),
    ],
)
def test_not_utf8(data: bytes, line: int, column: int, mend: str) -> None:
    with pytest.raises(SpecError, match="not UTF-8: byte 0x") as caught:
        parse(data, "f")
    assert caught.value.where == f"f:{line}:{column}"
    assert mend in caught.value.mend


@pytest.mark.parametrize("data", [b"", b"  \n", b"# nothing\n", b"\xef\xbb\xbf"])
def test_empty(data: bytes) -> None:
    with pytest.raises(SpecError, match="the spec is empty"):
        parse(data, "f")


def billion_laughs() -> bytes:
    lines = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]")
    return "\n".join(lines).encode()


def wide_bomb() -> bytes:
    """Few nodes, each a long text."""
    return f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 1000)}]".encode()


@pytest.mark.parametrize(
    "data",
    [
        billion_laughs(),
        wide_bomb(),
        b"[" * 300_000,
        b"{" * 300_000,
        b"- " * 300_000,
        b"? " * 300_000,
        b"".join(b" " * i + b"a:\n" for i in range(900)),
        b"[" + b"1," * 150_000 + b"1]",
        b"x" * (MAX_BYTES + 1),
    ],
    ids=["laughs", "wide", "lists", "mappings", "items", "keys", "indents", "many", "large"],
)
def test_bombs_are_refused_soon(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse(data, "f")
    assert time.process_time() - start < 10
    assert len(str(caught.value)) < 2000


def nodes(node: Node) -> list[Node]:
    if isinstance(node, Sequence):
        return [node, *(n for item in node.items for n in nodes(item))]
    if isinstance(node, Mapping):
        return [node, *(n for item in node.values.values() for n in nodes(item))]
    return [node]


SAFE = st.characters(
    codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="\ufeff\u2028\u2029\ufffe\uffff"
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(SAFE, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(SAFE, max_size=8), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: value is not None)


@given(JSON)
@settings(max_examples=150, deadline=None)
def test_json_is_yaml(value: Any) -> None:
    """JSON is a subset of YAML 1.2, so a second, independent reader says what must come out."""
    node = parse(json.dumps(value, ensure_ascii=False).encode(), "f")
    assert plain(node) == value
    for each in nodes(node):  # every place lies in the text and shows what it says
        place = each.span.place
        assert place.source[place.column - 1 :] or each.span.text.content == ""
        if isinstance(each, Scalar) and isinstance(each.value, int | float):
            assert each.span.text.content[each.span.start : each.span.end] == each.raw


@given(st.binary(max_size=200) | st.text(max_size=120).map(lambda t: t.encode("utf-8", "surrogatepass")))
@example(b'"\\UFFFFFFFF"')
@example(b"%YAML 9.9\n---\n")
@example(b"%TAG ! x\n--- !a b")
@example(b"- &a\n- *a\n- ? *a")
@example(b"\x00")
@settings(max_examples=300, deadline=None)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        plain(parse(data, "f"))
    except SpecError as error:
        assert str(error)


@given(
    st.lists(
        st.sampled_from(
            [
                *[
                    "a",
                    "b: ",
                    "- ",
                    "? ",
                    "\n",
                    "\n  ",
                    "[",
                    "]",
                    "{",
                    "}",
                    ", ",
                    ": ",
                    "&x ",
                    "*x",
                    "!t ",
                    "|\n",
                    ">-\n",
                ],
                *["'", '"', "#", "%", "@", "`", "\\", "~", "1", "<<: ", "---\n", "...\n", "é", "\t", "\\U", "\\x", "0"],
            ]
        ),
        max_size=25,
    ).map("".join)
)
@settings(max_examples=400, deadline=None)
def test_broken_yaml_parses_or_is_refused(text: str) -> None:
    try:
        plain(parse(text.encode(), "f"))
    except InvalidSpecError as error:
        for diagnostic in error.diagnostics:
            place = diagnostic.place
            assert place is not None
            assert 1 <= place.line <= text.count("\n") + 1
            assert 1 <= place.column <= len(place.source) + 1


STYLES = {
    "plain": "k: ab «cd» ef\n",
    "single": "k: 'it''s «cd» ef'\n",
    "double": 'k: "a\\tb \\u00e9 «cd» ef"\n',
    "plain on two lines": "k: ab\n    «cd» ef\n",
    "double on two lines": 'k: "ab\n  «cd» ef"\n',
    "literal": "k: |\n  ab\n  «cd» ef\n",
    "literal, kept": "k: |+2\n    ab\n   «cd» ef\n\n\n",
    "folded": "k: >-\n  ab\n  ab\n\n  «cd» ef\n",
    "folded, commented": "k: > # cd\n  ab\n  «cd» ef\n",
    "anchored": "k: &cd ab «cd» ef\n",
    "anchored and quoted": 'k: &cd "ab «cd» ef"\n',
    "in flow": "{k: ab «cd» ef, l: cd}\n",
    "line continuation": 'k: "ab\\\n   «cd» ef"\n',
}


@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES)
def test_part_of_a_scalar_is_found_in_the_file(text: str) -> None:
    marked = unmark(text)
    node = parse(marked.text.encode(), "f")
    assert isinstance(node, Mapping)
    scalar = node.values["k"]
    assert isinstance(scalar, Scalar)
    at = scalar.raw.index("cd")
    span: Span = scalar.at(at, at + 2)
    assert [(span.place.line, span.place.column, marked.text[span.start : span.end])] == marked.marks
