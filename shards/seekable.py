"""The zstd seekable format: frames that stand alone, and a table at the end that finds each.

    frame 0 | frame 1 | ... | seek table, a skippable frame, which decompressors pass over

Format: "Zstandard Seekable Format" 0.1.0, contrib/seekable_format/zstd_seekable_compression_format.md in
github.com/facebook/zstd, always with checksums: each table entry has the low 32 bits of XXH64 of the frame's
content. Every frame states its content size and ends with zstd's own checksum of its content. `zstd -d` reads
such a file.
"""

from __future__ import annotations

import struct
import threading
from typing import Protocol

import numpy as np
import zstandard
from xxhash import xxh64_intdigest

from shards.digest import digest
from shards.errors import ShardError
from shards.handles import open_file
from shards.store import Place

SKIPPABLE_MAGIC = 0x184D2A5E
SEEKABLE_MAGIC = 0x8F92EAB1
CHECKSUM_FLAG = 0x80
TABLE_HEADER = struct.Struct("<II")  # skippable magic, size of what follows
TABLE_ENTRY = struct.Struct("<III")  # compressed size, content size, checksum
TABLE_FOOTER = struct.Struct("<IBI")  # frames, descriptor, seekable magic
_ENTRY_DTYPE = np.dtype([("compressed", "<u4"), ("content", "<u4"), ("checksum", "<u4")])

MAX_FRAMES = 1 << 22
"""Frames of a file at most: a table of 48 MiB."""
MAX_CONTENT = 1 << 27
"""Bytes of a frame's content at most: more than any pack of 2^20 tokens, the longest a spec may ask for. With
MAX_FRAMES, this bounds what a damaged or hostile file can make a reader allocate."""


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def checksum(data: bytes | memoryview) -> int:
    """What a seek table keeps of a frame's content: the low 32 bits of XXH64, seed 0."""
    return int(xxh64_intdigest(data)) & 0xFFFFFFFF


def encode_seek_table(entries: bytes) -> bytes:
    """The skippable frame for a TABLE_ENTRY of each frame."""
    footer = TABLE_FOOTER.pack(len(entries) // TABLE_ENTRY.size, CHECKSUM_FLAG, SEEKABLE_MAGIC)
    return TABLE_HEADER.pack(SKIPPABLE_MAGIC, len(entries) + len(footer)) + entries + footer


class SeekableWriter:
    """Writes frames to `fileobj`, which it does not close. Holds one frame and the table in memory."""

    def __init__(self, fileobj: Writable, level: int = 3) -> None:
        self._file = fileobj
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        self._entries = bytearray()

    def __len__(self) -> int:
        return len(self._entries) // TABLE_ENTRY.size

    def write_frame(self, data: bytes) -> None:
        """Append one frame with `data`. Raises ShardError beyond MAX_CONTENT or MAX_FRAMES."""
        if len(data) > MAX_CONTENT:
            raise ShardError(f"frame {len(self)}: {len(data)} bytes, more than {MAX_CONTENT}")
        if len(self) >= MAX_FRAMES:
            raise ShardError(f"frame {len(self)}: more than {MAX_FRAMES} frames in one file")
        compressed = self._compressor.compress(data)
        self._file.write(compressed)
        self._entries += TABLE_ENTRY.pack(len(compressed), len(data), checksum(data))

    def close(self) -> str:
        """Append the seek table. Returns blake3, in hex, of the table's frame."""
        table = encode_seek_table(bytes(self._entries))
        self._file.write(table)
        return digest(table)


class SeekableReader:
    """Random access to the frames of one file.

    Opening reads the table alone. Frames can be read from several threads and in forked processes at once;
    pickling carries the path and opens the file again. Whatever is wrong becomes a ShardError that names the
    file and the frame.
    """

    def __init__(self, path: Place, *, seek_digest: str | None) -> None:
        """`seek_digest`: blake3 of the table's frame, as `SeekableWriter.close` gave it; None trusts the
        file."""
        self.path = path
        self._seek_digest = seek_digest
        self._file = open_file(path)
        table = self._read_table()
        if seek_digest is not None and digest(table) != seek_digest:
            raise ShardError(f"{path}: seek table: blake3 is {digest(table)}, not {seek_digest}")
        entries = np.frombuffer(table, _ENTRY_DTYPE, self._frames, TABLE_HEADER.size)
        if self._frames and int(entries["content"].max()) > MAX_CONTENT:
            raise ShardError(f"{path}: seek table: a frame of more than {MAX_CONTENT} bytes")
        self._entries = entries
        self._offsets = np.zeros(self._frames + 1, np.int64)
        np.cumsum(entries["compressed"], dtype=np.int64, out=self._offsets[1:])
        if int(self._offsets[-1]) != self._file.size - len(table):
            raise ShardError(
                f"{path}: seek table: its frames take {int(self._offsets[-1])} bytes, "
                f"the file has {self._file.size - len(table)}"
            )

    def _read_table(self) -> bytes:
        """The table's frame, with everything but its entries checked."""
        file, path = self._file, self.path
        if file.size < TABLE_HEADER.size + TABLE_FOOTER.size:
            raise ShardError(f"{path}: seek table: {file.size} bytes are too few for one: truncated")
        footer = file.read_at(file.size - TABLE_FOOTER.size, TABLE_FOOTER.size, "seek table")
        frames, descriptor, magic = TABLE_FOOTER.unpack(footer)
        if magic != SEEKABLE_MAGIC:
            raise ShardError(f"{path}: seek table: missing; truncated, or not a token shard")
        if descriptor != CHECKSUM_FLAG:
            raise ShardError(f"{path}: seek table: unknown descriptor {descriptor:#04x}")
        size = TABLE_HEADER.size + frames * TABLE_ENTRY.size + TABLE_FOOTER.size
        if frames > MAX_FRAMES or size > file.size:
            raise ShardError(f"{path}: seek table: claims {frames} frames in a file of {file.size} bytes")
        table = file.read_at(file.size - size, size, "seek table")
        if TABLE_HEADER.unpack_from(table) != (SKIPPABLE_MAGIC, size - TABLE_HEADER.size):
            raise ShardError(f"{path}: seek table: not a skippable frame of its own size")
        self._frames = int(frames)
        return table

    def __len__(self) -> int:
        return self._frames

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._seek_digest)

    def begin(self) -> None:
        """Say that frames will be read from the first on; a file in a store then comes ahead."""
        self._file.begin()

    def frame(self, i: int) -> bytes:
        """The content of frame `i`. IndexError beyond the last."""
        if not 0 <= i < self._frames:
            raise IndexError(f"{self.path}: frame {i} of {self._frames}")
        start, end = int(self._offsets[i]), int(self._offsets[i + 1])
        size, expected = int(self._entries["content"][i]), int(self._entries["checksum"][i])
        if end - start > _compress_bound(size):
            raise ShardError(f"{self.path}: frame {i}: {end - start} bytes for {size} of content")
        compressed = self._file.read_at(start, end - start, f"frame {i}")
        try:
            header = zstandard.get_frame_parameters(compressed)
            if header.content_size != size or not header.has_checksum or header.dict_id:
                # Also keeps the decompressor from allocating what a damaged header asks for.
                raise ShardError(f"{self.path}: frame {i}: its header is not as the seek table has it")
            data = _decompressor().decompress(compressed, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ShardError(f"{self.path}: frame {i}: {error}") from error
        if len(data) != size or checksum(data) != expected:
            raise ShardError(f"{self.path}: frame {i}: content is not what the seek table has a checksum of")
        return data


_own = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's, for two cannot share one; to make one for every frame takes a third of the time of 16 KB."""
    if not hasattr(_own, "decompressor"):
        _own.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _own.decompressor
    return found


def _compress_bound(size: int) -> int:
    """ZSTD_COMPRESSBOUND of zstd.h, and 4 bytes for the checksum."""
    return size + (size >> 8) + (((1 << 17) - size) >> 11 if size < 1 << 17 else 0) + 4


def _reopen(path: Place, seek_digest: str | None) -> SeekableReader:
    return SeekableReader(path, seek_digest=seek_digest)
