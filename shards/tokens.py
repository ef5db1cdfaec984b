"""Token shards: files of packs, one zstd frame each, so that one pack is read without inflating its
neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shards.atomic import atomic_write
from shards.errors import ShardError
from shards.layout import inside
from shards.manifest import ShardEntry, stage_digest
from shards.pack import Pack, decode_pack, pack_digest
from shards.seekable import SeekableReader, SeekableWriter


def write_token_shard(build: Path, name: str, packs: Iterable[bytes], level: int = 3) -> tuple[ShardEntry, list[bytes]]:
    """Write packs, as `encode_pack` gave them, to the file `name` of `build`, whole or not at all.

    Holds one pack at a time, and 44 bytes for each written. Returns the shard's entry for the manifest, and
    the pack digests, 32 bytes each. Raises ShardError for bytes that are not a pack, so that no reader ever
    meets them.
    """
    path = inside(build, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    digests: list[bytes] = []
    with atomic_write(path) as file:
        writer = SeekableWriter(file, level)
        for data in packs:
            try:
                decode_pack(data)
            except ShardError as error:
                raise ShardError(f"{path}: pack {len(writer)}: {error}") from error
            writer.write_frame(data)
            digests.append(pack_digest(data))
        seek = writer.close()
    entry = ShardEntry(
        name=name,
        packs=len(digests),
        bytes=file.bytes,
        digest=stage_digest(digests),
        seek=seek,
        file=file.digest,
    )
    return entry, digests


class TokenShard:
    """The packs of one token shard, by number within it.

    Opening checks the file's size, its number of packs and the digest of its seek table against `entry`;
    reading checks the frame's two checksums and the pack's rules. Raises ShardError with the file and the
    pack. Safe in threads, forks and, by pickling, spawned processes.
    """

    def __init__(self, build: Path, entry: ShardEntry) -> None:
        self.entry = entry
        self.path = inside(build, entry.name)
        self._reader = SeekableReader(self.path, seek_digest=entry.seek)
        if self._reader.size != entry.bytes:
            raise ShardError(f"{self.path}: {self._reader.size} bytes, the manifest says {entry.bytes}")
        if len(self._reader) != entry.packs:
            raise ShardError(f"{self.path}: {len(self._reader)} packs, the manifest says {entry.packs}")

    def __len__(self) -> int:
        return len(self._reader)

    def raw(self, i: int) -> bytes:
        """The canonical bytes of pack `i`. IndexError beyond the last."""
        return self._reader.frame(i)

    def pack(self, i: int) -> Pack:
        """Pack `i`, its tables views into its own bytes. IndexError beyond the last."""
        data = self.raw(i)
        try:
            return decode_pack(data)
        except ShardError as error:
            raise ShardError(f"{self.path}: pack {i}: {error}") from error
