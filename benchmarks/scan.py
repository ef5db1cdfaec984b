"""What a first scan costs, by format: seconds, MB/s of the file, and how often each byte is read.

    python benchmarks/scan.py [--megabytes N] [--folder FOLDER]

Files of captions whose rows name an image by its path, so that the scan must parse every row, and the same file as a text
source, of which it needs the digest alone. Then blake3 by itself, for several sizes of read and numbers of threads. Files
lie in the page cache: on a cold disk it is the number of reads that counts.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from blake3 import blake3

from mixc.sources import files
from mixc.sources.scan import scan
from mixc.spec.schema import Source

WORDS = [
    "a",
    "photograph",
    "of",
    "two",
    "old",
    "bicycles",
    "leaning",
    "on",
    "the",
    "wall",
    "beside",
    "an",
    "open",
    "green",
    "door",
    "in",
    "summer",
]


def main(megabytes: int, folder: Path) -> None:
    draw = random.Random(0)
    rows = []
    size = 0
    while size < megabytes << 20:
        text = " ".join(draw.choices(WORDS, k=120))
        rows.append({"image": f"images/{draw.randrange(1000):04}.jpg", "text": text})
        size += len(text) + 40
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "a.csv").write_text("image,text\n" + "".join(f"{row['image']},{row['text']}\n" for row in rows))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "a.parquet", compression="none", row_group_size=10_000)
    for name in ("a.jsonl", "a.jsonl.zst", "a.json", "a.csv", "a.parquet"):
        for kind in ("caption", "text"):
            _scan(folder, name, Source(path=name, kind=kind))  # type: ignore[arg-type]
    for chunk in (1 << 18, files.CHUNK, 1 << 22):
        for threads in (1, 2, blake3.AUTO):
            _hash(folder / "a.jsonl", chunk, threads)


def _scan(folder: Path, name: str, source: Source) -> None:
    read = _counting()
    size = (folder / name).stat().st_size
    wall, cpu = time.perf_counter(), time.process_time()
    scan("s", source, folder, folder / "no cache" / source.kind)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{name} as {source.kind}: {wall:.2f} s, {cpu:.2f} s of CPU, {size / 1e6 / wall:.0f} MB/s; "
        f"each byte read {read[0] / size:.3f} times",
        flush=True,
    )


def _counting() -> list[int]:
    """Bytes that are read from now on, in the first place of the list."""
    count = [0]

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            count[0] += len(data)
            return data

    def opened(path: str) -> Any:
        return Counted(path, "rb")

    files.open_regular = opened
    return count


def _hash(path: Path, chunk: int, threads: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    hasher = blake3(max_threads=threads)
    with path.open("rb", buffering=0) as file:
        while data := file.read(chunk):
            hasher.update(data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = path.stat().st_size
    name = "all" if threads == blake3.AUTO else str(threads)
    print(
        f"blake3, {chunk >> 10} KiB a read, threads {name}: {size / 1e9 / wall:.2f} GB/s, {size / 1e9 / cpu:.2f} a CPU second"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="mixc-scan-", dir=arguments.folder))
    try:
        main(arguments.megabytes, place)
    finally:
        shutil.rmtree(place)
