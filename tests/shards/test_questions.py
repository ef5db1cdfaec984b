"""The file of prepared questions: named by its bytes, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from shards import questions
from shards.errors import ShardError
from shards.questions import Picture, Question, Questions, encode, read, write
from tests.runtime.small import GEOMETRY

ASKED = Questions(
    format=questions.FORMAT,
    geometry=GEOMETRY,
    tokenizer="0" * 64,
    template="1" * 64,
    vocabulary=b"{}",
    stop=[3],
    max_new_tokens=4,
    questions=[
        Question(
            id="a",
            text="?",
            tokens=[1, 2],
            pictures=[Picture(image=0, grids=[(2, 3), (1, 1)], thumbnail=True)],
            reference=None,
        ),
        Question(id=2, text="\u00e9", tokens=[1], pictures=[], reference="\u00e9"),
    ],
    images=[b"\x00\xff"],
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "questions", ASKED)
    assert read(path) == ASKED
    assert path.name == encode(ASKED)[0] == blake3(path.read_bytes()).hexdigest() + ".msgpack"
    assert write(path.parent, ASKED) == path and list(path.parent.iterdir()) == [path]
    assert ASKED.questions[0].pictures[0].tiles == 2 * 3 + 1 + 1


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    def named(data: bytes) -> Path:
        path = tmp_path / (blake3(data).hexdigest() + ".msgpack")
        path.write_bytes(data)
        return path

    with pytest.raises(ShardError, match="cannot be read: No such file"):
        read(tmp_path / "none")
    _, data = encode(ASKED)
    path = named(data)
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(ShardError, match="or they are damaged"):
        read(path)
    (tmp_path / "q.jsonl").write_text('{"question": "?"}')
    with pytest.raises(ShardError, match="no questions that `mixc train --eval-questions` has prepared"):
        read(tmp_path / "q.jsonl")
    for wrong in (b"", b"\x80", msgspec.msgpack.encode(msgspec.structs.replace(ASKED, questions=[]))):
        with pytest.raises(ShardError, match="prepared by another version"):
            read(named(wrong))
    with pytest.raises(ShardError, match="of format 9, this version reads 1"):
        read(named(encode(msgspec.structs.replace(ASKED, format=9))[1]))
