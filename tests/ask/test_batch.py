"""The questions' file, line by line, and lines that are none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mixc.ask.batch import read
from mixc.errors import MixcError


def test_lines_are_kept_as_they_are_written(tmp_path) -> None:
    line = b'{"id": 123456789012345678901234567890, "x": 1.10, "question": "a\\u0041", "images": ["b/c.jpg", "/d.jpg"], "y": {"z": [1e3]}}'
    (tmp_path / "q.jsonl").write_bytes(b"\n" + line + b"\r\n  \n" + b'{"question": "", "frames": ["f"]}')
    first, second = read(tmp_path / "q.jsonl")
    assert (first.text, first.images, first.frames) == ("aA", [tmp_path / "b/c.jpg", Path("/d.jpg")], [])
    assert (second.text, second.images, second.frames) == ("", [], [tmp_path / "f"])
    kept = msgspec.json.encode({**first.fields, "answer": "b"})
    assert b'"id":123456789012345678901234567890,"x":1.10,"question":"a\\u0041"' in kept and b'"z": [1e3]' in kept


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'"question"', "Expected `object`"),
        (b"{}", "missing required field `question`"),
        (b'{"question": 1}', r"$.question"),
        (b'{"question": null}', r"$.question"),
        (b'{"question": "a", "images": "b.jpg"}', r"$.images"),
        (b'{"question": "a", "frames": [1]}', r"$.frames[0]"),
        (b'{"question": "a"} {}', "malformed"),
        (b'{"question": "\\ud800"}', "truncated"),
        (b'{"question": "\xff"}', "utf-8"),
        (b'\xef\xbb\xbf{"question": "a"}', "malformed"),
        (b'{"question": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"question": "a", "answer": "b"}', "would be lost"),
        (b'{"question": "a", "error": "b"}', "would be lost"),
        (b'{"question": "a", "images": ["b"], "frames": ["c"]}', "not both"),
    ],
)
def test_a_line_that_is_no_question_is_told_with_its_number(tmp_path, line, says) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "a"}\n\n' + line + b"\n")
    with pytest.raises(MixcError) as error:
        list(read(tmp_path / "q.jsonl"))
    assert says.lower() in str(error.value).lower() and error.value.where.endswith("q.jsonl:3")


def test_no_file(tmp_path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MixcError, match="cannot read the questions"):
            list(read(path))
