"""Token shards: read by anyone's zstd, equal when written twice, refused when not as written."""

from __future__ import annotations

import pickle
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard
from blake3 import blake3

from shards.digest import digest_file
from shards.errors import ShardError
from shards.manifest import ShardEntry, stage_digest
from shards.pack import EMPTY_PACK, Pack, encode_pack, pack_digest
from shards.packs import Packs
from shards.seekable import SeekableWriter
from shards.stored import encode_stored
from shards.tokens import TokenShard, write_token_shard
from shards.vocabulary import encode_vocabulary, rank_table, vocabulary
from tests.columns import columns

NAME = "tokens/align/00000.tokens.zst"


@pytest.fixture
def packs(tiny_packs: dict[str, list[Pack]]) -> list[Pack]:
    return [*tiny_packs["align"], EMPTY_PACK]


def contents(packs: list[Pack]) -> list[bytes]:
    """Of every frame of the shard of these packs."""
    tokens = np.concatenate([pack.tokens for pack in packs])
    words = vocabulary(tokens)
    ranks = rank_table(words, int(tokens.max()) + 1)
    stored = [encode_stored(pack, pack_digest(encode_pack(pack)), ranks[pack.tokens].tobytes(), b"") for pack in packs]
    return [encode_vocabulary(words), *stored]


def test_columns_are_their_packs(packs: list[Pack]) -> None:
    made = columns(packs)
    assert len(made) == len(packs)
    assert [encode_pack(made[i]) for i in range(len(made))] == [encode_pack(pack) for pack in packs]
    for beyond in (-1, len(packs)):
        with pytest.raises(IndexError):
            made[beyond]


def test_round_trip(tmp_path: Path, packs: list[Pack]) -> None:
    entry, digests = write_token_shard(tmp_path, NAME, columns(packs))
    raw = [encode_pack(pack) for pack in packs]
    assert digests == b"".join(pack_digest(data) for data in raw) == b"".join(blake3(data).digest() for data in raw)
    path = tmp_path / NAME
    assert entry == ShardEntry(
        name=NAME,
        packs=len(packs),
        bytes=path.stat().st_size,
        digest=blake3(digests).hexdigest(),
        seek=entry.seek,
        file=digest_file(path),
    )
    assert entry.digest == stage_digest([digests])
    shard = pickle.loads(pickle.dumps(TokenShard(tmp_path, entry)))
    assert len(shard) == len(packs)
    for i in reversed(range(len(packs))):
        assert shard.raw(i) == raw[i]
        pack, digest = shard.read(i)
        assert encode_pack(pack) == raw[i] and digest == digests[32 * i : 32 * i + 32]
        assert pack.tokens.dtype == np.int32 and not pack.tokens.flags.writeable
    for beyond in (-1, len(packs)):
        with pytest.raises(IndexError):
            shard.pack(beyond)


def test_two_writes_are_equal_and_the_level_is_no_part_of_identity(tmp_path: Path, packs: list[Pack]) -> None:
    one, _ = write_token_shard(tmp_path / "a", NAME, columns(packs))
    two, _ = write_token_shard(tmp_path / "b", NAME, columns(packs))
    other, _ = write_token_shard(tmp_path / "c", NAME, columns(packs), level=19)
    assert one == two
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()
    assert other.file != one.file and other.digest == one.digest
    assert TokenShard(tmp_path / "c", other).raw(2) == encode_pack(packs[2])


def test_more_different_tokens_than_have_a_rank(tmp_path: Path) -> None:
    """The rarest of them, and of these the highest, are kept beside the ranks."""
    rare = np.arange(70_000, dtype=np.int32) * 3
    common = np.full(100, 2**24 - 1, np.int32)
    packs = []
    for tokens in (rare[:40_000], common, rare[40_000:], np.concatenate([common, rare[::-1]])[:60_000]):
        segments = EMPTY_PACK.segments.copy()
        segments.resize(1, refcheck=False)
        packs.append(Pack(tokens=tokens, segments=segments, spans=EMPTY_PACK.spans, images=EMPTY_PACK.images))
    entry, _ = write_token_shard(tmp_path, NAME, columns(packs))
    shard = TokenShard(tmp_path, entry)
    for i, pack in enumerate(packs):
        assert shard.pack(i).tokens.tolist() == pack.tokens.tolist()


def test_any_zstd_reads_it(tmp_path: Path, packs: list[Pack]) -> None:
    write_token_shard(tmp_path, NAME, columns(packs))
    with (
        (tmp_path / NAME).open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
    ):
        assert stream.read() == b"".join(contents(packs))


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed")
def test_the_zstd_program_reads_it(tmp_path: Path, packs: list[Pack]) -> None:
    write_token_shard(tmp_path, NAME, columns(packs))
    out = subprocess.run(["zstd", "-dc", tmp_path / NAME], capture_output=True, check=True)
    assert out.stdout == b"".join(contents(packs))
    subprocess.run(["zstd", "-tq", tmp_path / NAME], check=True)


@pytest.mark.parametrize("packs", [[], [EMPTY_PACK]])
def test_a_shard_without_tokens(tmp_path: Path, packs: list[Pack]) -> None:
    entry, digests = write_token_shard(tmp_path, NAME, columns(packs))
    assert len(digests) == 32 * len(packs) and len(TokenShard(tmp_path, entry)) == len(packs)


def unsorted_spans(arrays: dict[str, np.ndarray]) -> None:
    arrays["spans"] = np.concatenate([arrays["spans"][-1:], arrays["spans"][:1], arrays["spans"][-1:]])


def negative_token(arrays: dict[str, np.ndarray]) -> None:
    arrays["tokens"] = arrays["tokens"].copy()
    arrays["tokens"][0] = -1


def high_token(arrays: dict[str, np.ndarray]) -> None:
    arrays["tokens"] = arrays["tokens"].copy()
    arrays["tokens"][0] = 2**24


def no_segment(arrays: dict[str, np.ndarray]) -> None:
    arrays["segments"] = arrays["segments"][:0]


@pytest.mark.parametrize("spoil", [unsorted_spans, negative_token, high_token, no_segment])
def test_what_is_no_pack_is_not_written(tmp_path: Path, packs: list[Pack], spoil) -> None:
    arrays = {name: getattr(packs[1], name) for name in ("tokens", "segments", "spans", "images")}
    spoil(arrays)
    with pytest.raises(ShardError, match=r"00000\.tokens\.zst: pack 1: pack: "):
        write_token_shard(tmp_path, NAME, columns([packs[0], Pack(**arrays), packs[2]]))
    assert list((tmp_path / NAME).parent.iterdir()) == []


def test_an_error_in_the_middle_leaves_nothing(
    tmp_path: Path, packs: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullError(OSError):
        pass

    write = SeekableWriter.write_frame

    def full(self: SeekableWriter, data: bytes) -> None:
        if len(self) == 2:
            raise FullError
        write(self, data)

    monkeypatch.setattr(SeekableWriter, "write_frame", full)
    with pytest.raises(FullError):
        write_token_shard(tmp_path, NAME, columns(packs))
    assert list((tmp_path / NAME).parent.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/out", "a/../b", "", ".", "a//b", "./a", "a\\b", "a\0b"])
def test_names_stay_inside_the_build(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShardError, match="not a path inside a build"):
        write_token_shard(tmp_path / "build", name, columns([]))


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
    tmp_path: Path, packs: list[Pack], field: str, value: object, message: str
) -> None:
    entry, _ = write_token_shard(tmp_path, NAME, columns(packs))
    with pytest.raises(ShardError, match=message):
        TokenShard(tmp_path, msgspec.structs.replace(entry, **{field: value}))


def written(path: Path, frames: list[bytes]) -> ShardEntry:
    """A shard whose checksums all hold, but written by something else."""
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        writer = SeekableWriter(file)
        for frame in frames:
            writer.write_frame(frame)
        seek = writer.close()
    packs = max(0, len(frames) - 1)
    return ShardEntry(
        name=NAME, packs=packs, bytes=path.stat().st_size, digest="0" * 64, seek=seek, file=digest_file(path)
    )


def test_a_frame_that_is_no_pack_is_named(tmp_path: Path, packs: list[Pack]) -> None:
    words, first, *_ = contents(packs)
    shard = TokenShard(tmp_path, written(tmp_path / NAME, [words, first, b"not a pack"]))
    assert encode_pack(shard.pack(0)) == encode_pack(packs[0])
    with pytest.raises(ShardError, match=r"00000\.tokens\.zst: pack 1: pack: 10 bytes, fewer"):
        shard.pack(1)


def test_a_shard_of_the_form_before_is_refused(tmp_path: Path, packs: list[Pack]) -> None:
    raw = [encode_pack(pack) for pack in packs]
    with pytest.raises(ShardError, match=r"00000\.tokens\.zst: vocabulary: begins with 4d585031"):
        TokenShard(tmp_path, written(tmp_path / NAME, raw))


def test_a_shard_without_a_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"00000\.tokens\.zst: no vocabulary"):
        TokenShard(tmp_path, written(tmp_path / NAME, []))


def test_packs_can_be_any_columns(tmp_path: Path, packs: list[Pack]) -> None:
    """Views, and numbers that are not contiguous."""
    made = columns(packs)
    doubled = Packs(
        tokens=np.repeat(made.tokens.astype(np.int64), 2)[::2],
        segments=np.repeat(made.segments, 2)[::2],
        spans=np.repeat(made.spans, 2)[::2],
        images=made.images,
        token_ends=made.token_ends,
        segment_ends=made.segment_ends,
        span_ends=made.span_ends,
        image_ends=made.image_ends,
    )
    assert write_token_shard(tmp_path, NAME, doubled)[1] == b"".join(pack_digest(encode_pack(pack)) for pack in packs)
