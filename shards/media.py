"""Media shards: encoded images, unchanged, once each, in plain tar files; and the index that finds one by its
digest.

A member is `<blake3 of its bytes>.<extension>`, with nothing of the machine that wrote it: time 0, owner 0,
mode 0644. The index is sorted records of fixed size, so a reader maps it and bisects: opening costs nothing,
whatever the number of images.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from shards.atomic import atomic_write
from shards.digest import DIGEST_BYTES
from shards.errors import ShardError
from shards.handles import File, HandleCache, open_file
from shards.layout import inside
from shards.manifest import MediaEntry, MediaShardEntry
from shards.store import Place

MEDIA_DTYPE = np.dtype(
    [
        ("digest", "V32"),  # blake3 of the encoded image
        ("shard", "<u4"),  # number in the manifest's list of media shards
        ("width", "<u4"),  # pixels, as decoded
        ("height", "<u4"),
        ("reserved", "<u4"),  # 0
        ("offset", "<u8"),  # of its first byte in the shard
        ("size", "<u8"),  # bytes
    ]
)
BLOCK = 512
END = bytes(2 * BLOCK)  # two zero blocks end a tar
MAX_IMAGE_BYTES = 1 << 28
"""Of one encoded image. Bounds what a damaged index can make a reader allocate."""
OPEN_SHARDS = 32
"""Media shards that a reader keeps open."""
_EXTENSION = re.compile(r"[a-z0-9]{1,16}")


def tar_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member: POSIX.1-1988 ustar, every field fixed but name, size and checksum.

    Written here, not by `tarfile`, for its bytes are part of the format and must not move with Python's
    version.
    """
    header = bytearray(BLOCK)
    header[0 : len(name)] = name.encode("ascii")
    header[100:108] = b"0000644\0"  # mode
    header[108:116] = header[116:124] = b"0000000\0"  # uid, gid
    header[124:136] = b"%011o\0" % size
    header[136:148] = b"%011o\0" % 0  # mtime
    header[148:156] = b" " * 8  # the checksum counts itself as spaces
    header[156:157] = b"0"  # a regular file
    header[257:265] = b"ustar\00000"  # magic, version
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padding(size: int) -> bytes:
    """The zeros after a member of `size` bytes, to the next block."""
    return bytes(-size % BLOCK)


def write_media_shard(
    build: Path, name: str, items: Iterable[tuple[bytes, str, bytes]]
) -> tuple[MediaShardEntry, list[int]]:
    """Write (digest, extension, image bytes) as members of the tar `name` of `build`, whole or not at all.

    Holds one image at a time. Returns the shard's entry for the manifest, and the offset in the tar of each
    image's first byte. Raises ShardError for an image that is empty, too large, a duplicate, or not of its
    digest.
    """
    path = inside(build, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    offsets: list[int] = []
    seen: set[bytes] = set()
    with atomic_write(path) as file:
        for digest, extension, data in items:
            where = f"{path}: image {digest.hex()}"
            if blake3(data).digest() != digest:
                raise ShardError(f"{where}: its bytes have blake3 {blake3(data).hexdigest()}")
            if digest in seen:
                raise ShardError(f"{where}: given twice")
            if not 0 < len(data) <= MAX_IMAGE_BYTES:
                raise ShardError(f"{where}: {len(data)} bytes, not 1 to {MAX_IMAGE_BYTES}")
            if not _EXTENSION.fullmatch(extension):
                raise ShardError(f"{where}: {extension!r} is not an extension of 1 to 16 letters a-z and digits")
            seen.add(digest)
            file.write(tar_header(f"{digest.hex()}.{extension}", len(data)))
            offsets.append(file.bytes)
            file.write(data)
            file.write(padding(len(data)))
        file.write(END)
    return MediaShardEntry(name=name, bytes=file.bytes, images=len(offsets), file=file.digest), offsets


def write_media_index(path: Path, records: npt.NDArray[np.void]) -> str:
    """Write MEDIA_DTYPE records, in any order, sorted by digest. Returns blake3 of the file. Raises
    ShardError for a digest that comes twice."""
    if records.dtype != MEDIA_DTYPE or records.ndim != 1:
        raise ShardError(f"{path}: records are {records.dtype}, not {MEDIA_DTYPE}")
    words = np.frombuffer(records["digest"].tobytes(), ">u8").reshape(-1, DIGEST_BYTES // 8)
    order = np.lexsort(words.T[::-1])  # big-endian words in order compare as their bytes do
    twice = np.flatnonzero((words[order[1:]] == words[order[:-1]]).all(axis=1))
    if len(twice):
        raise ShardError(f"{path}: image {records['digest'][order[twice[0]]].tobytes().hex()} comes twice")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(records[order].tobytes())
    return file.digest


class MediaReader:
    """Images by digest.

    Opening checks the index's size alone and opens no shard; `read` checks each image against its digest, so
    a fault of the index cannot give a wrong image. At most OPEN_SHARDS files are open. Safe in threads, forks
    and, by pickling, spawned processes.
    """

    def __init__(self, build: Place, entry: MediaEntry) -> None:
        self._build = build
        self._entry = entry
        self.path = inside(build, entry.index)
        self._index = open_file(self.path, in_order=False)
        size = self._index.size
        if size != entry.images * MEDIA_DTYPE.itemsize:
            needed = entry.images * MEDIA_DTYPE.itemsize
            raise ShardError(f"{self.path}: {size} bytes, {needed} needed for {entry.images} images")
        self._shards: HandleCache[int, File] = HandleCache(self._open, OPEN_SHARDS)

    @cached_property
    def records(self) -> npt.NDArray[np.void]:
        """The index, MEDIA_DTYPE [images], read-only, sorted by digest; mapped if it is a file of this machine."""
        if not len(self):  # which cannot be mapped
            return np.zeros(0, MEDIA_DTYPE)
        if isinstance(self.path, Path):
            return np.memmap(self.path, MEDIA_DTYPE, mode="r")
        return np.frombuffer(self._index.read_at(0, self._index.size, "index"), MEDIA_DTYPE)

    def __len__(self) -> int:
        return self._entry.images

    def __reduce__(self) -> tuple[object, ...]:
        return MediaReader, (self._build, self._entry)

    def _open(self, shard: int) -> File:
        entry = self._entry.shards[shard]
        path = inside(self._build, entry.name)
        file = open_file(path)
        if file.size != entry.bytes:
            raise ShardError(f"{path}: {file.size} bytes, the manifest says {entry.bytes}")
        return file

    def _digest(self, i: int) -> bytes:
        return self._index.read_at(i * MEDIA_DTYPE.itemsize, DIGEST_BYTES, f"record {i}")

    def position(self, digest: bytes) -> int | None:
        """Number in the index of the image with this digest (32 bytes); None when there is none.

        Digests are as good as random, so one stands where its value says, give or take the root of their number: in
        a store, that is one block to read, where bisecting all would read one a step. If it does not, all are bisected.
        """
        n = len(self)
        about = int.from_bytes(digest[:8], "big") * n >> 64
        spread = 2 * math.isqrt(n) + 16  # four standard deviations or more
        low, high = max(0, about - spread), min(n, about + spread)
        if low > 0 and self._digest(low - 1) >= digest:
            low = 0
        if high < n and self._digest(high) <= digest:
            high = n
        i = bisect_left(range(low, high), digest, key=self._digest) + low
        return i if i < n and self._digest(i) == digest else None

    def read(self, digest: bytes) -> bytes:
        """The encoded image whose blake3 is `digest` (32 bytes). Raises ShardError, naming the file and the
        image, when it is not in the index, cannot be read or has another digest."""
        name = f"image {digest.hex()}"
        position = self.position(digest)
        if position is None:
            raise ShardError(f"{self.path}: {name}: not in the index")
        size_of = MEDIA_DTYPE.itemsize
        record = np.frombuffer(self._index.read_at(position * size_of, size_of, name), MEDIA_DTYPE)[0]
        shard, offset, size = int(record["shard"]), int(record["offset"]), int(record["size"])
        if shard >= len(self._entry.shards) or size > MAX_IMAGE_BYTES:
            raise ShardError(f"{self.path}: {name}: its record points to shard {shard}, {size} bytes")
        file = self._shards.get(shard)
        data = file.read_at(offset, size, name)
        if blake3(data).digest() != digest:
            path = inside(self._build, self._entry.shards[shard].name)
            raise ShardError(f"{path}: {name}: its bytes have blake3 {blake3(data).hexdigest()}")
        return data
