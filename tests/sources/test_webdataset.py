"""WebDataset tars: grouping, what is passed over, and damage."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.sources.formats import webdataset
from mixc.sources.formats.tar import Member, TarError, members
from mixc.sources.formats.webdataset import split
from mixc.sources.raw import RawRow
from mixc.sources.read import columns
from mixc.sources.sample import Reject
from mixc.spec.schema import Source

CAPTION = Source(path="x", kind="caption")


def rows(path: Path, source: Source = CAPTION) -> list[RawRow | Reject]:
    return list(webdataset.rows(str(path), source))


def test_samples_are_members_with_one_key(tar, rows_of, outcome) -> None:
    tar(
        [
            ("a/1.jpg", b"J1"),
            ("a/1.txt", "eins ü\n".encode()),
            ("a/1.json", b'{"score": 2, "nested": [1], "name": "n"}'),
            ("a/2.TXT", b"two"),
            ("a/2.PNG", b"P2"),
            ("b/2.webp", b"W"),
            ("b/2.txt", b"three"),
        ]
    )
    got = rows_of("rows.tar", "caption")
    assert outcome(got) == ["eins ü\n", "two", "three"]
    assert [row.images for row in got] == [(b"J1",), (b"P2",), (b"W",)]
    assert got[0].columns == {"name": "n", "score": 2}


def test_text_from_a_json_field_or_another_member(tar, rows_of, outcome) -> None:
    tar([("1.jpg", b"J"), ("1.json", b'{"caption": "from json", "text": "default"}'), ("1.html", b"<p>")])
    assert outcome(rows_of("rows.tar", "caption", text="caption")) == ["from json"]
    assert outcome(rows_of("rows.tar", "caption", text="html")) == ["<p>"]
    assert outcome(rows_of("rows.tar", "caption")) == ["default"]


def test_chat_in_json_with_numbered_images_in_the_order_of_their_numbers(tar, rows_of) -> None:
    turns = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "b"}]
    chat = json.dumps({"conversations": turns, "image": "/etc/passwd"}).encode()
    tar([("x.1.jpg", b"first"), ("x.0.jpg", b"second"), ("x.json", chat), ("x.seg.png", b"mask")])
    [row] = rows_of("rows.tar", "chat")
    assert row.images == (b"second", b"first") and row.turns[0].text == "<image> or <image>?"
    [row] = rows_of("rows.tar", "chat", image="0.jpg .seg.png")
    assert row.images == (b"second", b"mask")


def test_missing_members_and_bad_ones_are_rejects(tar, rows_of, outcome) -> None:
    tar(
        [
            ("1.txt", b"no image"),
            ("2.jpg", b"no text"),
            ("3.jpg", b"J"),
            ("3.txt", b"\xff"),
            ("4.jpg", b"J"),
            ("4.txt", b""),
            ("5.jpg", b""),
            ("5.txt", b"t"),
            ("6.jpg", b"J"),
            ("6.txt", b"t"),
            ("6.json", b"{broken"),
            ("7.json", b"\xff"),
            ("8.json", b"[]"),
            ("9.txt", b"a"),
            ("9.txt", b"b"),
            ("10.jpg", b"J"),
            ("10.txt", b"\xef\xbb\xbfgood"),
        ]
    )
    got = rows_of("rows.tar", "caption")
    assert outcome(got) == [
        "missing_value",
        "missing_value",
        "not_utf8",
        "empty_text",
        "image_empty",
        "broken_row",
        "not_utf8",
        "wrong_type",
        "broken_row",
        "good",
    ]
    assert [row.row for row in got] == list(range(10))


HOSTILE = [
    "../../etc/passwd.txt",
    "/etc/passwd.txt",
    "a\nb\x1b[31m.txt",
    "名前/ключ.txt",
    "k" * 3000 + ".txt",
    "a b;$(rm -rf x).txt",
    "..a/...txt",
]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_hostile_names_are_only_keys(tar, tmp_path: Path, format: int) -> None:
    path = tar([(name, b"t%d" % index) for index, name in enumerate(HOSTILE)], format=format)
    before = sorted(tmp_path.rglob("*"))
    got = rows(path, Source(path="x", kind="text"))
    assert [row.values["txt"] for row in got] == [f"t{index}" for index in range(6)]  # type: ignore[union-attr]
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("é.txt", "è.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    assert len(rows(path, Source(path="x", kind="text"))) == 2


def test_what_is_no_regular_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.DIRTYPE,
            tarfile.FIFOTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
        ):
            info = tarfile.TarInfo("1.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("1.txt", "README", ".hidden.txt", "._1.txt", "2.txt"):
            info = tarfile.TarInfo(name)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"ok"))
    got = rows(path, Source(path="x", kind="text"))
    assert [row.values for row in got if isinstance(row, RawRow)] == [{"txt": "ok"}, {"txt": "ok"}]


def test_a_sparse_member_is_not_blown_up(tmp_path: Path) -> None:
    """GNU tar stores a file of a terabyte of zeros in a block; such a member is passed over, unread."""
    info = tarfile.TarInfo("1.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % (1 << 32)
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    good = tarfile.TarInfo("2.txt")
    good.size = 1
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(512) + good.tobuf() + b"g".ljust(512, b"\0") + bytes(1024))
    got = rows(tmp_path / "a.tar", Source(path="x", kind="text"))
    assert [row.values for row in got if isinstance(row, RawRow)] == [{"txt": "g"}]


def test_truncated_anywhere_keeps_whole_samples_and_adds_one_reject(tar) -> None:
    sample = [[(f"{index}.jpg", b"J" * 700), (f"{index}.txt", b"t%d" % index)] for index in range(6)]
    path = tar([member for group in sample for member in group])
    whole = path.read_bytes()
    for cut in [*range(1, 6 * 2560, 171), 512 * 5, 512 * 7]:
        path.write_bytes(whole[:cut])
        *kept, last = rows(path)
        assert isinstance(last, Reject) and last.reason == "broken_row" and last.row == len(kept)
        assert [row.values["txt"] for row in kept if "txt" in row.values] == [  # type: ignore[union-attr]
            f"t{index}"
            for index in range(sum("txt" in row.values for row in kept))  # type: ignore[union-attr]
        ]
        # a sample takes five blocks of 512; the last before a cut header may lack a member, and is given up
        assert cut // 2560 - 1 <= len(kept) <= cut // 2560 + 1


def test_a_damaged_header_in_the_middle_is_not_the_end(tar) -> None:
    path = tar([(f"{index}.txt", b"t") for index in range(4)])
    data = bytearray(path.read_bytes())
    data[2 * 1024 + 3] ^= 0xFF
    path.write_bytes(data)
    got = rows(path, Source(path="x", kind="text"))
    assert [type(row) for row in got] == [RawRow, Reject]  # the second may be incomplete: no one can tell
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 2  # tarfile says nothing: why there is a reader of ours


def test_tars_joined_with_cat_are_not_lost_without_a_word(tar) -> None:
    path = tar([("1.txt", b"t")])
    path.write_bytes(path.read_bytes() * 2)
    got = rows(path, Source(path="x", kind="text"))
    assert [type(row) for row in got] == [RawRow, Reject] and "joined" in got[1].detail  # type: ignore[union-attr]


def test_an_archive_without_members_and_one_without_end_mark(tar, tmp_path: Path) -> None:
    assert rows(tar([])) == []
    path = tar([("1.txt", b"t")])
    path.write_bytes(path.read_bytes()[:1024])
    assert [type(row) for row in rows(path, Source(path="x", kind="text"))] == [RawRow, Reject]


def test_a_header_that_asks_for_exabytes(tmp_path: Path) -> None:
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("1.txt")
        info.type, info.size = kind, 1 << 62
        (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        [row] = rows(tmp_path / "a.tar")
        assert isinstance(row, Reject) and "truncated" in row.detail


def test_limits(tar, monkeypatch) -> None:
    monkeypatch.setattr(webdataset, "IMAGE_BYTES_LIMIT", 10)
    monkeypatch.setattr(webdataset, "IMAGES_LIMIT", 2)
    monkeypatch.setattr(webdataset, "ROW_BYTES_LIMIT", 10)
    path = tar(
        [
            ("1.jpg", b"J" * 11),
            ("2.0.jpg", b""),
            ("2.1.jpg", b""),
            ("2.2.jpg", b""),
            ("3.txt", b"t" * 11),
            ("4.txt", b"t"),
        ]
    )
    assert [getattr(row, "reason", "row") for row in rows(path)] == [
        "image_bomb",
        "image_bomb",
        "broken_row",
        "row",
    ]


def test_not_a_tar(tmp_path: Path, rows_of) -> None:
    (tmp_path / "a.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(SourceError, match="not a tar"):
        rows_of("a.tar", "caption")


def test_a_member_that_no_sample_has(tar, rows_of) -> None:
    tar([("1.jpg", b"J"), ("1.caption", b"t")])
    with pytest.raises(SourceError) as error:
        rows_of("rows.tar", "caption")
    assert "caption, image" in error.value.why


def test_columns_of_a_tar(tar, fragments) -> None:
    tar(
        [
            ("1.jpg", b"J"),
            ("1.txt", b"t"),
            ("1.json", b'{"a": 1, "b": [1]}'),
            ("2.json", b'{"a": 1.5, "c": "x"}'),
        ]
    )
    [fragment] = fragments("rows.tar", "caption")
    assert columns(fragment, CAPTION) == {"a": "double", "c": "string"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b.c/1.tar.gz", ("a/b.c/1", "tar.gz")),
        ("1.JPG", ("1", "jpg")),
        ("dir.x/none", None),
        ("dir/.hidden", None),
        ("dir/", None),
        ("", None),
        ("x.", ("x", "")),
    ],
)
def test_split(name: str, parts: tuple[str, str] | None) -> None:
    assert split(name) == parts


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=150),
            st.binary(max_size=1200),
        ),
        max_size=8,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_members_are_those_of_tarfile(written: list[tuple[str, bytes]], format: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogatepass") as archive:
        for name, content in written:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        expected = [(info.name.rstrip("/"), archive.extractfile(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]
    assert [(member.name.rstrip("/"), member.read()) for member in members(buffer) if member.plain] == expected


@given(st.integers(0, 2**32))
def test_damage_never_crashes(seed: int) -> None:
    rng = random.Random(seed)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as archive:
        for index in range(4):
            info = tarfile.TarInfo("é" * rng.choice([1, 200]) + f"{index}.txt")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    data = bytearray(buffer.getvalue())
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(6000)] = rng.randrange(256)
    try:
        for member in members(io.BytesIO(bytes(data[: rng.randrange(len(data))]))):
            assert isinstance(member, Member)
            member.read()
    except TarError as error:
        assert str(error)
