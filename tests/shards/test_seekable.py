"""The seekable container, against the official format and against damage."""

from __future__ import annotations

import io
import pickle
import random
import struct
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from shards import seekable
from shards.digest import digest
from shards.errors import ShardError
from shards.seekable import SeekableReader, SeekableWriter, encode_seek_table

FRAMES = [b"", b"a", b"the quick brown fox " * 50, bytes(range(256)) * 3]


def write(path: Path, frames: list[bytes], level: int = 3) -> str:
    with path.open("wb") as file:
        writer = SeekableWriter(file, level)
        for frame in frames:
            writer.write_frame(frame)
        return writer.close()


def read(path: Path, seek: str | None) -> list[bytes]:
    reader = SeekableReader(path, seek_digest=seek)
    return [reader.frame(i) for i in range(len(reader))]


@settings(max_examples=50)
@given(frames=st.lists(st.binary(max_size=300), max_size=8), level=st.sampled_from([1, 3, 19]))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, frames: list[bytes], level: int) -> None:
    path = tmp_path_factory.mktemp("seekable") / "file.zst"
    seek = write(path, frames, level)
    assert read(path, seek) == read(path, None) == frames
    whole = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True).read()
    assert whole == b"".join(frames)


def test_layout_is_the_official_one(tmp_path: Path) -> None:
    """Parsed here by hand, after the specification and without the module's constants."""
    path = tmp_path / "file.zst"
    seek = write(path, FRAMES)
    data = path.read_bytes()
    count, descriptor, magic = struct.unpack("<IBI", data[-9:])
    assert (count, descriptor, magic) == (len(FRAMES), 0x80, 0x8F92EAB1)
    table = data[-(8 + 12 * count + 9) :]
    assert struct.unpack("<II", table[:8]) == (0x184D2A5E, 12 * count + 9)
    assert digest(table) == seek
    at = 0
    for i, frame in enumerate(FRAMES):
        compressed, size, checksum = struct.unpack_from("<III", table, 8 + 12 * i)
        assert (size, checksum) == (len(frame), xxh64_intdigest(frame) & 0xFFFFFFFF)
        header = zstandard.get_frame_parameters(data[at : at + compressed])
        assert header.has_checksum and header.content_size == size
        assert zstandard.ZstdDecompressor().decompress(data[at : at + compressed]) == frame
        at += compressed
    assert data[at:] == table


def test_index_errors(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    write(path, FRAMES)
    reader = SeekableReader(path, seek_digest=None)
    for i in (-1, len(FRAMES)):
        with pytest.raises(IndexError):
            reader.frame(i)


def test_pickles_and_threads(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    frames = [bytes([i]) * 5000 for i in range(50)]
    reader = SeekableReader(path, seek_digest=write(path, frames))
    again = pickle.loads(pickle.dumps(reader))
    found: dict[int, list[bytes]] = {}

    def work(k: int) -> None:
        found[k] = [(reader if k % 2 else again).frame(i) for i in range(len(frames))]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[k] == frames for k in range(4))


@pytest.mark.parametrize("known", [True, False])
def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path, known: bool) -> None:
    """With the seek table's digest and without: the checksums in the frames and the table stand alone too."""
    path = tmp_path / "file.zst"
    seek = write(path, FRAMES)
    good = path.read_bytes()
    harmless = 0
    for at in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            try:
                assert read(path, seek if known else None) == FRAMES
                harmless += 1
            except ShardError as error:
                assert str(error).startswith(f"{path}: ")
                assert "frame" in str(error) or "seek table" in str(error)
    assert harmless < 30  # zstd has a few bits that say nothing; `verify` digests the file


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    seek = write(path, FRAMES)
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        for expected in (seek, None):
            with pytest.raises(ShardError, match="seek table"):
                SeekableReader(path, seek_digest=expected)
    path.write_bytes(good + b"\0")
    with pytest.raises(ShardError, match="seek table"):
        SeekableReader(path, seek_digest=seek)


def test_cut_while_open(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    reader = SeekableReader(path, seek_digest=write(path, FRAMES))
    with path.open("r+b") as file:
        file.truncate(20)
    with pytest.raises(ShardError, match=r"file\.zst: frame 2: truncated"):
        reader.frame(2)


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"none\.zst: missing"):
        SeekableReader(tmp_path / "none.zst", seek_digest=None)
    with pytest.raises(ShardError, match="not a file"):
        SeekableReader(tmp_path, seek_digest=None)


def forged(entries: list[tuple[int, int, int]], body: bytes) -> bytes:
    return body + encode_seek_table(b"".join(struct.pack("<III", *entry) for entry in entries))


def test_claims_beyond_the_caps_are_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.zst"
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1000))
    # A table that claims 2^32 - 1 frames.
    path.write_bytes(frame + struct.pack("<IBI", 0xFFFFFFFF, 0x80, 0x8F92EAB1))
    with pytest.raises(ShardError, match="claims 4294967295 frames"):
        SeekableReader(path, seek_digest=None)
    # A frame that claims 4 GB of content.
    path.write_bytes(forged([(len(frame), 0xFFFFFFFF, 0)], frame))
    with pytest.raises(ShardError, match="a frame of more than"):
        SeekableReader(path, seek_digest=None)
    # A zstd header that claims 2^60 bytes, under a table that does not.
    bomb = b"\x28\xb5\x2f\xfd\xe4" + struct.pack("<Q", 1 << 60) + frame[7:]
    path.write_bytes(forged([(len(bomb), 1000, 0)], bomb))
    with pytest.raises(ShardError, match="frame 0: its header"):
        SeekableReader(path, seek_digest=None).frame(0)
    # Far more compressed bytes than the content can need.
    path.write_bytes(forged([(5000, 10, 0)], bytes(5000)))
    with pytest.raises(ShardError, match="frame 0: 5000 bytes for 10"):
        SeekableReader(path, seek_digest=None).frame(0)
    # Writers refuse what readers would.
    monkeypatch.setattr(seekable, "MAX_CONTENT", 10)
    monkeypatch.setattr(seekable, "MAX_FRAMES", 1)
    path.write_bytes(forged([(len(frame), 0, 0)] * 2, frame * 2))
    with pytest.raises(ShardError, match="claims 2 frames"):
        SeekableReader(path, seek_digest=None)
    writer = SeekableWriter(io.BytesIO())
    with pytest.raises(ShardError, match="11 bytes"):
        writer.write_frame(bytes(11))
    writer.write_frame(bytes(10))
    with pytest.raises(ShardError, match="more than 1 frames"):
        writer.write_frame(b"")


def test_two_frames_where_the_table_has_one(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 100)
    path = tmp_path / "file.zst"
    path.write_bytes(forged([(2 * len(frame), 100, xxh64_intdigest(b"x" * 100) & 0xFFFFFFFF)], frame * 2))
    with pytest.raises(ShardError, match="frame 0"):
        SeekableReader(path, seek_digest=None).frame(0)


def test_incompressible_content_fits_the_bound(tmp_path: Path) -> None:
    noise = random.Random(0)
    frames = [noise.randbytes(size) for size in (0, 1, 127, 1000, 131071, 131072, 300_000)]
    path = tmp_path / "file.zst"
    assert read(path, write(path, frames)) == frames
