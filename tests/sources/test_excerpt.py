"""The line of a bad row is shown with a caret under the fault, and nothing in it can harm a terminal."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.rejects import rejected
from mixc.sources.caret import WIDTH, shown
from mixc.sources.excerpt import excerpt, reason
from mixc.sources.fragment import Fragment
from mixc.sources.read import read
from mixc.sources.sample import Reject
from mixc.sources.scan import scan
from mixc.spec.schema import Source


def width(text: str) -> int:
    """Columns on a terminal."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(c) in ("W", "F"))
        for c in text
    )


CHAT: dict[str, Any] = {"kind": "chat"}
TEXT: dict[str, Any] = {"kind": "text"}


def first_reject(folder: Path, content: bytes, name: str = "a.jsonl", **source: Any) -> tuple[Fragment, Source, Reject]:
    (folder / name).write_bytes(content)
    spec = Source(path=name, **source)
    [fragment] = scan("s", spec, folder, folder / "cache")
    return fragment, spec, next(row for row in read(fragment, spec) if isinstance(row, Reject))


def marked(lines: list[str]) -> str:
    """What stands over the caret, of a line without wide characters."""
    line, caret = lines
    return line[caret.index("^") : caret.rindex("^") + 1]


@pytest.mark.parametrize(
    ("line", "source", "over"),
    [
        ('{"text": "a" "b": 1}', TEXT, '"'),
        ('{"text": nul}', TEXT, "n"),
        ('["a"]', TEXT, "["),
        ('{"n": {"text": 1}, "text": 12.5, "z": 1}', TEXT, "12.5"),
        ('{"text": 1, "text": [2]}', TEXT, "[2]"),
        ('{"text": " "}', TEXT, '" "'),
        ('{"text": null}', TEXT, "null"),
        ('{"title": "t"}', TEXT, "}"),
        ('{"body": {"text": 7}}', {**TEXT, "text": "t", "columns": {"t": "body"}}, '{"text": 7}'),
        ('{"text": "\\ud800", "x": 1}', TEXT, '"\\ud800"'),
        ('{"it\'s": 3}', {**TEXT, "text": "it's"}, "3"),
        ('{"conversations": "hello"}', CHAT, '"hello"'),
        ('{"conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}]}', CHAT,
         '{"from": "human", "value": "q"}'),
        ('{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": 5}], "n": 1}', CHAT,
         '{"from": "gpt", "value": 5}'),
        ('{"messages": [{"role":"system","content":""},{"role":"user","content":"q"},{}]}',
         CHAT, '[{"role":"system","content":""},{"role":"user","content":"q"},{}]'),
        ('{"text": "t", "image": "gone.png", "n": 1}', {"kind": "caption"}, '"gone.png"'),
        ('{"text": "t", "image": "../../x.png"}', {"kind": "caption"}, '"../../x.png"'),
    ],
)  # fmt: skip
def test_the_caret_stands_under_the_fault(tmp_path: Path, line: str, source: dict[str, Any], over: str) -> None:
    good = '{"text": "fine", "body": "fine", "it\'s": "fine", "conversations": [{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}'
    # a blank line is no row, but a line
    content = "\n".join([*([good] if source["kind"] != "caption" else []), "", line, ""]).encode()
    where, spec, reject = first_reject(tmp_path, content, **source)
    lines = excerpt(where, spec, reject)
    number = 3 if source["kind"] != "caption" else 2
    assert lines[0].startswith(f"{number:>5} | ") and marked(lines) == over


def test_the_json_that_breaks_off_is_marked_at_its_end(tmp_path: Path) -> None:
    line = '{"text": "' + "x" * 10
    assert excerpt(*first_reject(tmp_path, line.encode(), **TEXT)) == [
        f"    1 | {line}",
        "      |          ^",
    ]


def test_a_line_of_a_part_and_of_a_compressed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.dumps({"text": f"{n} " * 20}) for n in range(40)]
    rows[33] = '{"text": 33}'
    content = "\n".join(rows).encode()
    found = first_reject(tmp_path, gzip.compress(content), "a.jsonl.gz", **TEXT)
    assert excerpt(*found)[0] == '   34 | {"text": 33}'
    monkeypatch.setattr("mixc.sources.parts.PART_BYTES", 512)
    (tmp_path / "b.jsonl").write_bytes(content)
    spec = Source(path="b.jsonl", kind="text")
    fragments = scan("s", spec, tmp_path, tmp_path / "other")
    assert len(fragments) > 3
    [(part, reject)] = [(f, row) for f in fragments for row in read(f, spec) if isinstance(row, Reject)]
    assert reject.row == 33 and excerpt(part, spec, reject)[0] == '   34 | {"text": 33}'


def test_without_the_line_nothing_is_shown(tmp_path: Path) -> None:
    where, spec, reject = first_reject(tmp_path, b'{"text": 1}\n', **TEXT)
    (tmp_path / "a.jsonl").write_text("")
    assert excerpt(where, spec, reject) == []
    (tmp_path / "a.jsonl").unlink()
    assert excerpt(where, spec, reject) == []
    huge = b'{"text": "' + b"x" * (33 << 20) + b'"}\n'
    where, spec, reject = first_reject(tmp_path, huge, **TEXT)
    assert "longer than" in reject.detail and excerpt(where, spec, reject) == []


def safe(lines: list[str]) -> None:
    assert len(lines) == 2 and all(character.isprintable() for line in lines for character in line)
    assert all(width(line) <= WIDTH for line in lines)
    assert set(lines[1]) <= set(" |^") and "^" in lines[1]


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": \x1b[2J\x1b]0;title\x07 1}',
        b'{"te\x00xt": 1}',
        b'{"text": "\xff\xfe"}',
        b'{"text": ' + b"9" * 5000 + b"}",
        b'{"text": ' + b" " * (1 << 20) + b"12" + b" " * (1 << 20) + b"}",
        b'{"x": "' + b"y" * (2 << 20) + b'", "text": [' + b"1," * (1 << 19) + b"1]}",
        '{"text": ["\u202e\u200b\u0301'.encode() + "\u0301".encode() * 100_000 + b'"]}',
        '{"x": "文字文字'.encode() * 40 + b"1",
        b"[" * 100_000,
        b'{"text": ' + b"[" * 300 + b"]" * 300 + b"}",
        b"\xc2\x85\xe2\x80\xa8{",
    ],
)  # fmt: skip
def test_hostile_lines_are_safe(tmp_path: Path, line: bytes) -> None:
    where, spec, reject = first_reject(tmp_path, b'{"text": "fine"}\n' + line + b"\n", **TEXT)
    lines = excerpt(where, spec, reject)
    safe(lines)
    assert reason(reject).isprintable() and str(rejected("s", where.path, reject)).isprintable()


@settings(max_examples=200, deadline=None)
@given(line=st.binary(min_size=1, max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_line_that_is_rejected_is_shown_safely(tmp_path_factory: Any, line: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line)
    spec = Source(path="a.jsonl", kind="text")
    [fragment] = scan("s", spec, folder, folder / "cache")
    for row in read(fragment, spec):
        if isinstance(row, Reject):
            safe(excerpt(fragment, spec, row))


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    start=st.integers(0, 300),
    length=st.integers(0, 400),
)
def test_a_shown_line_is_narrow_and_marks_its_place(text: str, start: int, length: int) -> None:
    start = min(start, len(text))
    lines = shown(7, text, (start, min(len(text), start + length)))
    safe(lines)
    if start < len(text) and text[start].isprintable() and unicodedata.category(text[start]) not in ("Mn", "Me"):
        column = lines[1].index("^")
        at = next(n for n in range(len(lines[0]) + 1) if width(lines[0][:n]) >= column)
        assert text[start] in lines[0][at : at + 2 + _combining(lines[0][at:])]


def _combining(text: str) -> int:
    return next((n for n, c in enumerate(text) if unicodedata.category(c) not in ("Mn", "Me")), len(text))


def test_broken_json_in_a_list_shows_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n  {"text": "one"},\n  {"text": "two" "x"}\n]\n')
    spec = Source(path="a.json", kind="text")
    with pytest.raises(SourceError) as caught:
        [fragment] = scan("s", spec, tmp_path, tmp_path / "cache")
        list(read(fragment, spec))
    assert caught.value.where.endswith("a.json:3:18")
    assert caught.value.why.split("\n")[1:] == [
        '    3 |   {"text": "two" "x"}',
        "      | " + " " * 17 + "^",
    ]
