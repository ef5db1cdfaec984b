"""Token shards: read by anyone's zstd, equal when written twice, refused when not as written."""

from __future__ import annotations

import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from blake3 import blake3

from shards.digest import digest_file
from shards.errors import ShardError
from shards.manifest import ShardEntry, stage_digest
from shards.pack import EMPTY_PACK, Pack, encode_pack, pack_digest
from shards.seekable import SeekableWriter
from shards.tokens import TokenShard, write_token_shard

NAME = "tokens/align/00000.tokens.zst"


@pytest.fixture
def raw(tiny_packs: dict[str, list[Pack]]) -> list[bytes]:
    return [encode_pack(pack) for pack in tiny_packs["align"]] + [encode_pack(EMPTY_PACK)]


def test_round_trip(tmp_path: Path, raw: list[bytes]) -> None:
    entry, digests = write_token_shard(tmp_path, NAME, iter(raw))
    assert digests == [pack_digest(data) for data in raw] == [blake3(data).digest() for data in raw]
    path = tmp_path / NAME
    assert entry == ShardEntry(
        name=NAME,
        packs=len(raw),
        bytes=path.stat().st_size,
        digest=blake3(b"".join(digests)).hexdigest(),
        seek=entry.seek,
        file=digest_file(path),
    )
    assert entry.digest == stage_digest(digests)
    shard = pickle.loads(pickle.dumps(TokenShard(tmp_path, entry)))
    assert len(shard) == len(raw)
    for i in reversed(range(len(raw))):
        assert shard.raw(i) == raw[i]
        assert encode_pack(shard.pack(i)) == raw[i]
    with pytest.raises(IndexError):
        shard.pack(len(raw))


def test_two_writes_are_equal_and_the_level_is_no_part_of_identity(tmp_path: Path, raw: list[bytes]) -> None:
    one, _ = write_token_shard(tmp_path / "a", NAME, raw)
    two, _ = write_token_shard(tmp_path / "b", NAME, iter(raw))
    other, _ = write_token_shard(tmp_path / "c", NAME, raw, level=19)
    assert one == two
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()
    assert other.file != one.file and other.digest == one.digest
    assert TokenShard(tmp_path / "c", other).raw(2) == raw[2]


def test_any_zstd_reads_it(tmp_path: Path, raw: list[bytes]) -> None:
    write_token_shard(tmp_path, NAME, raw)
    with (
        (tmp_path / NAME).open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
    ):
        assert stream.read() == b"".join(raw)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed")
def test_the_zstd_program_reads_it(tmp_path: Path, raw: list[bytes]) -> None:
    write_token_shard(tmp_path, NAME, raw)
    out = subprocess.run(["zstd", "-dc", tmp_path / NAME], capture_output=True, check=True)
    assert out.stdout == b"".join(raw)
    subprocess.run(["zstd", "-tq", tmp_path / NAME], check=True)


def test_an_empty_shard(tmp_path: Path) -> None:
    entry, digests = write_token_shard(tmp_path, NAME, [])
    assert digests == [] and len(TokenShard(tmp_path, entry)) == 0


def test_what_is_no_pack_is_not_written(tmp_path: Path, raw: list[bytes]) -> None:
    with pytest.raises(ShardError, match=r"00000\.tokens\.zst: pack 1: pack: "):
        write_token_shard(tmp_path, NAME, [raw[0], raw[1][:-1]])
    assert list((tmp_path / NAME).parent.iterdir()) == []


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path, raw: list[bytes]) -> None:
    def packs() -> Iterator[bytes]:
        yield raw[0]
        raise RuntimeError("the source of packs failed")

    with pytest.raises(RuntimeError):
        write_token_shard(tmp_path, NAME, packs())
    assert list((tmp_path / NAME).parent.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/out", "a/../b", "", ".", "a//b", "./a", "a\\b", "a\0b"])
def test_names_stay_inside_the_build(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShardError, match="not a path inside a build"):
        write_token_shard(tmp_path / "build", name, [])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("packs", 3, "5 packs, the manifest says 3"),
        ("bytes", 3, "bytes, the manifest says 3"),
        ("seek", "0" * 64, "seek table: blake3"),
        ("name", "tokens/align/00009.tokens.zst", "missing"),
    ],
)
def test_the_entry_is_checked_on_opening(
    tmp_path: Path, raw: list[bytes], field: str, value: object, message: str
) -> None:
    entry, _ = write_token_shard(tmp_path, NAME, raw)
    with pytest.raises(ShardError, match=message):
        TokenShard(tmp_path, msgspec.structs.replace(entry, **{field: value}))


def test_a_frame_that_is_no_pack_is_named(tmp_path: Path) -> None:
    """A shard whose checksums all hold, but written by something else."""
    path = tmp_path / NAME
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        writer = SeekableWriter(file)
        writer.write_frame(encode_pack(EMPTY_PACK))
        writer.write_frame(b"not a pack")
        seek = writer.close()
    entry = ShardEntry(
        name=NAME, packs=2, bytes=path.stat().st_size, digest="0" * 64, seek=seek, file=digest_file(path)
    )
    shard = TokenShard(tmp_path, entry)
    assert len(shard.pack(0).tokens) == 0
    with pytest.raises(ShardError, match=r"00000\.tokens\.zst: pack 1: pack: 10 bytes, fewer"):
        shard.pack(1)
