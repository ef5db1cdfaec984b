"""JSON lines, plain and compressed: what is a row, and what is left of a damaged file."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.sources.formats.json_value import BadJSONError, parse, parse_utf8
from mixc.sources.formats.jsonl import lines
from mixc.sources.formats.jsonl import rows as jsonl_rows
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow
from mixc.sources.sample import Reject, Sample

TEXTS = [f"line {index}: " + "Grüße, 世界! " * (index % 7) for index in range(500)]
CONTENT = "".join(json.dumps({"text": text}, ensure_ascii=index % 2 == 0) + "\n" for index, text in enumerate(TEXTS))


def compressed(kind: str, content: bytes) -> bytes:
    match kind:
        case "gz":
            return gzip.compress(content, mtime=0)
        case "zst":
            return zstandard.ZstdCompressor(write_checksum=True).compress(content)
        case _:
            return content


@pytest.mark.parametrize("kind", ["", "gz", "zst"])
def test_rows_in_file_order(tmp_path: Path, rows_of, kind: str) -> None:
    (tmp_path / f"a.jsonl{'.' * bool(kind)}{kind}").write_bytes(compressed(kind, CONTENT.encode()))
    rows = rows_of("a.jsonl*")
    assert [row.text for row in rows] == TEXTS
    assert [row.row for row in rows] == list(range(500))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_concatenated_streams_and_empty_ones(tmp_path: Path, rows_of, kind: str) -> None:
    parts = [b'{"text": "a"}\n{"te', b"", b'xt": "b"}\n', b'{"text": "c"}']
    (tmp_path / f"a.jsonl.{kind}").write_bytes(b"".join(compressed(kind, part) for part in parts))
    assert [row.text for row in rows_of("a.*")] == ["a", "b", "c"]


def test_skippable_zstd_frames_are_passed_over(tmp_path: Path, rows_of) -> None:
    skippable = b"\x5e\x2a\x4d\x18" + (9).to_bytes(4, "little") + b"seektable"
    frame = compressed("zst", b'{"text": "a"}\n')
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + frame + skippable + frame)
    assert [row.text for row in rows_of("a.*")] == ["a", "a"]


def test_padding_after_gzip_is_no_row_and_garbage_is_a_reject(tmp_path: Path, rows_of, outcome) -> None:
    whole = compressed("gz", b'{"text": "a"}\n')
    (tmp_path / "pad.jsonl.gz").write_bytes(whole + bytes(1000))
    (tmp_path / "rubbish.jsonl.gz").write_bytes(whole + b"rubbish")
    assert outcome(rows_of("pad*")) == ["a"]
    assert outcome(rows_of("rubbish*")) == ["a", "broken_row"]


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_truncated_streams_keep_their_rows_and_say_so(tmp_path: Path, rows_of, kind: str, keep: float) -> None:
    # random hex, so that the stream is long and is cut in the middle of its text
    import random

    texts = [random.Random(index).randbytes(200).hex() for index in range(2000)]
    whole = compressed(kind, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    (tmp_path / f"a.jsonl.{kind}").write_bytes(whole[: int(len(whole) * keep)])
    *kept, last = rows_of("a.*")
    assert [row.text for row in kept] == texts[: len(kept)]
    assert isinstance(last, Reject) and last.reason == "broken_row" and last.row == len(kept)
    assert "truncated" in last.detail
    assert len(kept) > (keep - 0.15) * len(texts)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_flipped_byte_in_a_stream_is_found(tmp_path: Path, rows_of, kind: str) -> None:
    whole = bytearray(compressed(kind, CONTENT.encode()))
    whole[-3] ^= 0x40  # in the checksum
    (tmp_path / f"a.jsonl.{kind}").write_bytes(whole)
    assert rows_of("a.*")[-1].reason == "broken_row"


def test_bad_lines_are_counted_and_do_not_stop(tmp_path: Path, rows_of, outcome) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf"
        b'{"text": "bom and crlf"}\r\n'
        b"\r\n  \n"
        b'{"text": "broken\n'
        b'{"text": "\xff"}\n'
        b'{"text": "\\ud800"}\n'
        b'{"text": "\xed\xa0\x80"}\n'  # a surrogate written as UTF-8
        b"[1, 2]\n"
        b"null\n"
        b'{"text": 3}\n'
        b'{"text": null}\n'
        b'{"tex": "t"}\n'
        b'{"text": " \\n\\t"}\n'
        b'{"text": "first", "text": "last"}\n'
        b'{"text": "nan", "score": NaN, "big": 1e999}\n'
        b'{"text": "nul \\u0000 byte"}\n'
        b'{"text": "two"} {"text": "objects"}\n'
        b'{"text": "line\xe2\x80\xa8separator"}\n'
        b'{"text": "no newline at the end"}'
    )
    rows = rows_of("a.jsonl")
    assert outcome(rows) == [
        "bom and crlf",
        "broken_row",
        "not_utf8",
        "not_utf8",
        "not_utf8",
        "wrong_type",
        "wrong_type",
        "wrong_type",
        "missing_value",
        "missing_value",
        "empty_text",
        "last",
        "nan",
        "nul \x00 byte",
        "broken_row",
        "line\u2028separator",
        "no newline at the end",
    ]
    assert [row.row for row in rows] == list(range(17))
    assert rows[12].columns == {"big": float("inf"), "score": None}
    assert "line 4:" in rows[1].detail  # as an editor counts


def test_deep_nesting_does_not_overflow_and_does_not_depend_on_the_stack(tmp_path: Path, rows_of, outcome) -> None:
    deep = [f'{{"text": "t", "x": {"[" * depth}{"]" * depth}}}' for depth in (200, 255, 256, 900, 100_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(deep))
    assert outcome(rows_of("a.jsonl")) == ["t", "t", "broken_row", "broken_row", "broken_row"]


def test_a_line_of_50_mb_is_one_reject_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    rows = list(jsonl_rows(str(path), "jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [getattr(row, "reason", "row") for row in rows] == ["row", "broken_row", "row"]
    assert f"{ROW_BYTES_LIMIT >> 20} MiB" in rows[1].detail  # type: ignore[union-attr]
    assert peak < 3 * ROW_BYTES_LIMIT


def test_a_zstd_bomb_stays_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "a"}\n' + bytes(1 << 29)))  # 16 KiB on disk
    tracemalloc.start()
    rows = list(jsonl_rows(str(path), "jsonl.zst"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(row) for row in rows] == [RawRow, Reject]
    assert peak < 512 << 20


def test_an_empty_plain_file_has_no_rows_and_an_empty_compressed_one_is_an_error(tmp_path: Path, rows_of) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "a.jsonl.gz").write_bytes(b"")
    assert rows_of("*.jsonl") == []
    with pytest.raises(SourceError, match="empty"):
        rows_of("*.gz")


@given(
    texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)),
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_lines_do_not_depend_on_how_the_stream_is_cut(
    texts: list[str], end: bytes, last: bool, cuts: list[int]
) -> None:
    encoded = [json.dumps(text).encode() for text in texts]
    whole = end.join(encoded) + (end if last else b"")
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[start:stop] for start, stop in pairwise(places)]
    got = [line.content for line in lines(iter(pieces))]
    assert got == (encoded if encoded or not last else [b""])


@given(st.binary(max_size=400))
def test_any_bytes_give_rows_or_rejects(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        for format in ("jsonl", "jsonl.gz", "jsonl.zst"):
            for number, row in enumerate(jsonl_rows(file.name, format)):
                assert isinstance(row, RawRow | Reject) and row.row == number


def test_samples_are_samples(tmp_path: Path, rows_of) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": " kept as it came \\n", "lang": "de", "meta": {"a": 1}, "n": 3}')
    assert rows_of("a.jsonl") == [Sample(row=0, text=" kept as it came \n", columns={"lang": "de", "n": 3})]


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: json.dumps({"a": text, "b": [text]}).encode()))
@example(b'{"a": "\\ud800"}')
@example(b'{"a": "\xed\xa0\x80"}')
@example(b'{"a": NaN, "a": 1}')
@example(b'{"a": "\xff"}')
@example(b"[" * 300 + b"]" * 300)
@example(b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}")
def test_bytes_are_read_as_their_text(data: bytes) -> None:
    def outcome(read: Callable[[], object]) -> object:
        try:
            return repr(read())
        except (BadJSONError, UnicodeDecodeError) as error:
            return type(error), str(error)

    assert outcome(lambda: parse_utf8(data)) == outcome(lambda: parse(data.decode()))
