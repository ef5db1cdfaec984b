"""How tokens are best kept in frames: bytes a token, encoding and decoding, by layout, level and packs a frame.

    python benchmarks/frames.py FOLDER [--length 8192]

corpus.py's English documents in Qwen's vocabulary, strung together and cut into packs; FOLDER keeps them and the packages that
they come from. Tokens alone, without tables of segments. Layouts: `u32`, the ids as they are; `planes`, the low 16 bits of
all and then the bits above; `ranks`, 16 bits, by frequency in shards of 4 million tokens (shards/vocabulary.py), their
vocabularies counted. One thread; CPU seconds, the least of three; decoding gives int32 ids. Checksums of zstd's are written and
checked. A random pack is decoded with the whole of its frame.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from corpus import english_tokens

from shards.pack import planes
from shards.vocabulary import encode_vocabulary, rank_table, token_table, vocabulary

SHARD = 4_000_000
CASES = [
    *(("u32", level, 1) for level in (3,)),
    *(("planes", level, packs) for packs in (1, 4) for level in (1, 3, 4)),
    *(("ranks", level, 1) for level in (1, 2, 3, 4, 5, 9)),
    ("ranks", 4, 4),
]


def layouts(ids: np.ndarray) -> dict[str, tuple[list[Any], Callable[[bytes], Any], int]]:
    """Of each layout: the shards' tokens in it, by array or pair of arrays; how a frame is decoded; bytes besides frames."""
    shards = np.split(ids, range(SHARD, len(ids), SHARD))
    words = [vocabulary(shard) for shard in shards]
    ranks = [rank_table(own, int(shard.max()) + 1)[shard] for own, shard in zip(words, shards, strict=True)]
    table = token_table(words[0])

    def from_planes(data: bytes) -> Any:
        count = len(data) // 3
        low, high = np.frombuffer(data, "<u2", count), np.frombuffer(data, "u1", count, 2 * count)
        return low.astype(np.int32) | high.astype(np.int32) << 16

    vocabularies = sum(len(zstandard.compress(encode_vocabulary(own), 4)) for own in words)
    return {
        "u32": ([(shard,) for shard in shards], lambda data: np.frombuffer(data, "<u4").astype(np.int32), 0),
        "planes": ([planes(shard) for shard in shards], from_planes, 0),
        "ranks": ([(shard,) for shard in ranks], lambda data: table.take(np.frombuffer(data, "<u2")), vocabularies),
    }


def frames_of(shards: list[Any], length: int) -> list[bytes]:
    return [
        b"".join(part[at : at + length].tobytes() for part in parts)
        for parts in shards
        for at in range(0, len(parts[0]) - length + 1, length)
    ]


def least(work: Callable[[], Any]) -> tuple[float, Any]:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--length", type=int, default=8192, help="tokens a pack")
    options = parser.parse_args()
    ids, _ = english_tokens(options.folder.absolute())
    print(f"{len(ids):,} tokens, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}")
    print(f"{'layout':8} level packs a frame  bytes/token  encode Mtok/s  decode Mtok/s  one random pack, us")
    found = layouts(ids)
    for layout, level, packs in CASES:
        shards, decode, besides = found[layout]
        frames = frames_of(shards, packs * options.length)
        tokens = len(frames) * packs * options.length / 1e6
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        decompressor = zstandard.ZstdDecompressor()
        encoding, kept = least(lambda: [compressor.compress(frame) for frame in frames])  # noqa: B023
        decoding, _ = least(lambda: [decode(decompressor.decompress(frame)) for frame in kept] and None)  # noqa: B023
        size = (sum(map(len, kept)) + besides) / tokens / 1e6
        one = decoding / len(frames) * 1e6
        print(
            f"{layout:8} {level:5} {packs:13}  {size:11.3f}  {tokens / encoding:13.0f}  {tokens / decoding:13.0f}  {one:19.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
