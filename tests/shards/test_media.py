"""Media shards: plain tar files, and an index that is never trusted further than a digest."""

from __future__ import annotations

import pickle
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import media
from shards.digest import digest_file
from shards.errors import ShardError
from shards.manifest import MediaEntry
from shards.media import MEDIA_DTYPE, MediaReader, tar_header, write_media_index, write_media_shard

NAME = "media/00000.tar"


def item(data: bytes, extension: str = "jpg") -> tuple[bytes, str, bytes]:
    return blake3(data).digest(), extension, data


def write(build: Path, shards: list[list[bytes]]) -> MediaEntry:
    entries, rows = [], []
    for n, images in enumerate(shards):
        entry, offsets = write_media_shard(build, f"media/{n:05d}.tar", [item(data) for data in images])
        entries.append(entry)
        rows += [(blake3(d).digest(), n, 1, 1, 0, offset, len(d)) for d, offset in zip(images, offsets, strict=True)]
    records = np.array(rows, MEDIA_DTYPE)
    digest = write_media_index(build / "media/index", records)
    return MediaEntry(
        images=len(records),
        bytes=int(records["size"].sum()),
        index="media/index",
        index_file=digest,
        shards=entries,
    )


IMAGES = [bytes([n]) * (n * 100 + 1) for n in range(12)] + [b"x" * 512, b"y" * 1024]


@settings(max_examples=30)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=1500), max_size=5), max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, shards: list[list[bytes]]) -> None:
    seen: set[bytes] = set()
    once = [[data for data in images if not (data in seen or seen.add(data))] for images in shards]
    build = tmp_path_factory.mktemp("media")
    reader = MediaReader(build, write(build, once))
    again = pickle.loads(pickle.dumps(reader))
    assert len(reader) == len(seen)
    for data in seen:
        assert reader.read(blake3(data).digest()) == again.read(blake3(data).digest()) == data
    assert reader.position(bytes(32)) is None
    with pytest.raises(ShardError, match=f"index: image {'ff' * 32}: not in the index"):
        reader.read(b"\xff" * 32)
    assert reader.records["digest"].tobytes() == b"".join(sorted(blake3(data).digest() for data in seen))


def test_any_tar_reads_it(tmp_path: Path) -> None:
    entry, offsets = write_media_shard(tmp_path, NAME, [item(data, "png") for data in IMAGES])
    path = tmp_path / NAME
    names = [f"{blake3(data).hexdigest()}.png" for data in IMAGES]
    out = subprocess.run(["tar", "-tf", path], capture_output=True, check=True, text=True)
    assert out.stdout.splitlines() == names and out.stderr == ""
    with tarfile.open(path) as tar:
        for member, name, data, offset in zip(tar, names, IMAGES, offsets, strict=True):
            assert (member.name, member.size, member.offset_data) == (name, len(data), offset)
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname, member.isreg()) == ("", "", True)
            assert tar.extractfile(member).read() == data
    assert entry.images == len(IMAGES)
    assert (entry.bytes, entry.file) == (path.stat().st_size, digest_file(path))


@given(st.integers(1, 8**11 - 1))
def test_header_is_that_of_the_standard_library(size: int) -> None:
    """tarfile writes the same ustar fields; ours are spelt out so that they cannot change with it."""
    info = tarfile.TarInfo(f"{'ab' * 32}.webp")
    info.size = size
    ours = tarfile.TarInfo.frombuf(tar_header(info.name, size), "ascii", "strict")
    for field in ("name", "size", "mode", "mtime", "uid", "gid", "type", "linkname", "uname", "gname"):
        assert getattr(ours, field) == getattr(info, field)


def test_two_writes_are_equal(tmp_path: Path) -> None:
    one = write(tmp_path / "a", [IMAGES[:5], IMAGES[5:]])
    two = write(tmp_path / "b", [IMAGES[:5], IMAGES[5:]])
    assert one == two
    for name in ("media/00000.tar", "media/00001.tar", "media/index"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_image_at_all(tmp_path: Path) -> None:
    reader = MediaReader(tmp_path, write(tmp_path, []))
    assert len(reader) == 0 and len(reader.records) == 0
    with pytest.raises(ShardError, match="not in the index"):
        reader.read(bytes(32))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((bytes(32), "jpg", b"data"), "its bytes have blake3"),
        (item(b"one"), "given twice"),
        (item(b""), "0 bytes, not 1 to"),
        (item(b"data", "j/pg"), "not an extension"),
        (item(b"data", ""), "not an extension"),
        (item(b"data", "JPG"), "not an extension"),
    ],
)
def test_bad_items_are_refused_and_leave_nothing(tmp_path: Path, bad: tuple[bytes, str, bytes], message: str) -> None:
    with pytest.raises(ShardError, match=f"00000.tar: image {bad[0].hex()}: .*{message}"):
        write_media_shard(tmp_path, NAME, [item(b"one"), bad])
    assert list((tmp_path / "media").iterdir()) == []


def test_writing_streams(tmp_path: Path) -> None:
    """One image is asked for at a time, and is on its way to the file before the next."""
    seen = []

    def items() -> Iterator[tuple[bytes, str, bytes]]:
        for n in range(3):
            partial = next(iter((tmp_path / "media").iterdir()))
            seen.append(partial.stat().st_size)
            yield item(bytes([n]) * 100_000)

    write_media_shard(tmp_path, NAME, items())
    assert seen[0] < seen[1] < seen[2]


def test_index_refuses_duplicates_and_sorts_as_bytes(tmp_path: Path) -> None:
    records = np.zeros(4, MEDIA_DTYPE)
    records["digest"] = [
        b"\xff" + bytes(31),
        b"\x01" + bytes(31),
        b"\x01" + bytes(30) + b"\x80",
        b"\x7f" * 32,
    ]
    write_media_index(tmp_path / "index", records)
    stored = np.fromfile(tmp_path / "index", MEDIA_DTYPE)["digest"]
    assert [d.tobytes() for d in stored] == sorted(d.tobytes() for d in records["digest"])
    records["digest"][3] = records["digest"][0]
    with pytest.raises(ShardError, match=f"image ff{'00' * 31} comes twice"):
        write_media_index(tmp_path / "twice", records)
    with pytest.raises(ShardError, match="records are"):
        write_media_index(tmp_path / "wrong", np.zeros(3))
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "OPEN_SHARDS", 3)
    reader = MediaReader(tmp_path, write(tmp_path, [[data] for data in IMAGES]))
    before = len(list(Path("/dev/fd").iterdir()))
    for data in IMAGES * 2:
        assert reader.read(blake3(data).digest()) == data
        assert len(list(Path("/dev/fd").iterdir())) <= before + 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shard", 1, "points to shard 1"),
        ("size", 1 << 40, "points to shard 0, 1099511627776 bytes"),
        ("size", 1 << 20, "truncated"),
        ("offset", 1 << 62, "truncated"),
        ("offset", 0, "its bytes have blake3"),
        ("digest", b"\0" * 32, "not in the index"),
    ],
)
def test_a_wrong_index_cannot_give_a_wrong_image(tmp_path: Path, field: str, value: object, message: str) -> None:
    entry = write(tmp_path, [[b"image"]])
    index = np.fromfile(tmp_path / "media/index", MEDIA_DTYPE)
    index[0][field] = value
    index.tofile(tmp_path / "media/index")
    with pytest.raises(ShardError, match=f"image {blake3(b'image').hexdigest()}: .*{message}"):
        MediaReader(tmp_path, entry).read(blake3(b"image").digest())


def test_sizes_are_checked_on_opening(tmp_path: Path) -> None:
    entry = write(tmp_path, [IMAGES])
    with pytest.raises(ShardError, match="index: 896 bytes, 832 needed for 13 images"):
        MediaReader(tmp_path, msgspec.structs.replace(entry, images=13))
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"00000\.tar: .* bytes, the manifest says"):
        MediaReader(tmp_path, entry).read(blake3(IMAGES[0]).digest())
    (tmp_path / NAME).unlink()
    with pytest.raises(ShardError, match=r"00000\.tar: missing"):
        MediaReader(tmp_path, entry).read(blake3(IMAGES[0]).digest())
    (tmp_path / "media/index").unlink()
    with pytest.raises(ShardError, match="index: missing"):
        MediaReader(tmp_path, entry)
