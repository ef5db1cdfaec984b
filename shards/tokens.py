"""Token shards: files of packs, one zstd frame each, so that one pack is read without inflating its neighbours; and before
them, in a frame of its own, the vocabulary by which their tokens are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from blake3 import blake3

from shards import pack_kernel
from shards.atomic import atomic_write
from shards.errors import ShardError
from shards.layout import inside
from shards.manifest import ShardEntry, stage_digest
from shards.pack import (
    IMAGE_DTYPE,
    SEGMENT_DTYPE,
    SPAN_DTYPE,
    TOKEN_LIMIT,
    Pack,
    canonical_parts,
    check_pack,
    encode_pack,
    fault,
)
from shards.packs import Packs
from shards.seekable import SeekableReader, SeekableWriter
from shards.store import Place
from shards.stored import decode_stored, encode_stored
from shards.vocabulary import EXCEPTION, decode_vocabulary, encode_vocabulary, rank_table, token_table, vocabulary


def write_token_shard(build: Path, name: str, packs: Packs, level: int = 3) -> tuple[ShardEntry, bytes]:
    """Write packs to the file `name` of `build`, whole or not at all.

    Returns the shard's entry for the manifest, and the pack digests, 32 bytes each. Raises ShardError, with the number
    of the pack, for what breaks a rule of a pack's: no reader ever meets it.
    """
    path = inside(build, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(len(packs)) if _odd(packs) else ():
        _check(packs[number], path, number)  # one of them raises
    tokens = np.ascontiguousarray(packs.tokens, np.int32)
    words = vocabulary(tokens)
    table = rank_table(words, int(tokens.max(initial=0)) + 1)
    longest = int(np.diff(packs.token_ends, prepend=0).max(initial=0))
    ranks, low, high = np.empty(longest, np.uint16), np.empty(longest, np.uint16), np.empty(longest, np.uint8)
    split = pack_kernel.split()
    digests = bytearray()
    start = 0
    with atomic_write(path) as file:
        writer = SeekableWriter(file, level)
        writer.write_frame(encode_vocabulary(words))
        # a pack at a time, for what is made of its tokens then stays in a processor's cache
        for number, end in enumerate(packs.token_ends.tolist()):
            pack, own, T = packs[number], tokens[start:end], end - start
            if broken := fault(pack):
                raise ShardError(f"{path}: pack {number}: pack: {broken}")
            lacking = split(own, table, ranks, low, high)
            exceptions = own[ranks[:T] == EXCEPTION].astype("<u4") if lacking else own[:0]
            digest = blake3(b"".join(canonical_parts(pack, low[:T].data, high[:T].data))).digest()
            writer.write_frame(encode_stored(pack, digest, ranks[:T].data, exceptions.tobytes()))
            digests += digest
            start = end
        seek = writer.close()
    return (
        ShardEntry(
            name=name,
            packs=len(packs),
            bytes=file.bytes,
            digest=stage_digest([bytes(digests)]),
            seek=seek,
            file=file.digest,
        ),
        bytes(digests),
    )


def _odd(packs: Packs) -> bool:
    """Whether there is something of a kind that no pack has, or a token that no vocabulary can count."""
    tokens = packs.tokens
    tables = ((packs.segments, SEGMENT_DTYPE), (packs.spans, SPAN_DTYPE), (packs.images, IMAGE_DTYPE))
    kind = tokens.dtype.kind not in "iu" or tokens.ndim != 1 or any(table.dtype != dtype for table, dtype in tables)
    return kind or bool(len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) >= TOKEN_LIMIT))


def _check(pack: Pack, path: Path, number: int) -> None:
    try:
        check_pack(pack)
    except ShardError as error:
        raise ShardError(f"{path}: pack {number}: {error}") from error


class TokenShard:
    """The packs of one token shard, by number within it.

    Opening reads the seek table and the vocabulary, and checks the file's size, its number of packs and the digest of its
    seek table against `entry`; reading checks the frame's two checksums and the pack's rules. Raises ShardError with the
    file and the pack. Safe in threads, forks and, by pickling, spawned processes.
    """

    def __init__(self, build: Place, entry: ShardEntry) -> None:
        self.entry = entry
        self.path = inside(build, entry.name)
        self._reader = SeekableReader(self.path, seek_digest=entry.seek)
        if self._reader.size != entry.bytes:
            raise ShardError(f"{self.path}: {self._reader.size} bytes, the manifest says {entry.bytes}")
        if not len(self._reader):
            raise ShardError(f"{self.path}: no vocabulary: not one frame")
        if len(self) != entry.packs:
            raise ShardError(f"{self.path}: {len(self)} packs, the manifest says {entry.packs}")
        try:
            self._tokens = token_table(decode_vocabulary(self._reader.frame(0)))
        except ShardError as error:
            raise ShardError(f"{self.path}: {error}") from error

    def __len__(self) -> int:
        return len(self._reader) - 1

    def begin(self) -> None:
        """Say that packs will be read from the first on; a shard in a store then comes ahead."""
        self._reader.begin()

    def read(self, i: int) -> tuple[Pack, bytes]:
        """Pack `i` and its digest (32 bytes), as it is stored beside it. IndexError beyond the last."""
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: pack {i} of {len(self)}")
        data = self._reader.frame(i + 1)
        try:
            return decode_stored(data, self._tokens)
        except ShardError as error:
            raise ShardError(f"{self.path}: pack {i}: {error}") from error

    def pack(self, i: int) -> Pack:
        """Pack `i`, its tables views into its own bytes. IndexError beyond the last."""
        return self.read(i)[0]

    def raw(self, i: int) -> bytes:
        """The canonical bytes of pack `i`. IndexError beyond the last."""
        return encode_pack(self.pack(i))
