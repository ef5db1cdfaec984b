"""A scan reads each byte of a source once, and a compile twice: counted at the files that are opened."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from blake3 import blake3

from mixc.errors import SourceError
from mixc.sources import files
from mixc.sources.read import read
from mixc.sources.scan import scan
from mixc.spec.schema import Source

DETECTING = 512 + 4
"""Bytes that `detect` reads of a file: a tar's first block, and Parquet's last magic."""
ROWS, TEXT_BYTES = 200, 4_000


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes that were read of each file, by its name: real files, opened by the real opener."""
    counts: Counter[str] = Counter()
    open_regular = files.open_regular

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            counts[Path(str(self.name)).name] += len(data)
            return data

        def readinto(self, buffer: Any) -> int:
            count = super().readinto(buffer)
            counts[Path(str(self.name)).name] += count
            return count

        def readall(self) -> bytes:
            raise AssertionError("a file is read in pieces")

    def opened(path: str) -> Any:
        open_regular(path).close()  # what it refuses is still refused
        return Counted(path, "rb")

    monkeypatch.setattr(files, "open_regular", opened)
    return counts


def rows() -> list[dict[str, str]]:
    draw = random.Random(0)
    return [{"text": draw.randbytes(TEXT_BYTES // 2).hex(), "image": f"{index % 3}.png"} for index in range(ROWS)]


def jsonl() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows())


def table(delimiter: str) -> bytes:
    lines = [delimiter.join(("text", "image")), *(delimiter.join(row.values()) for row in rows())]
    return "\n".join(lines).encode()


def arrow(image: list[Any]) -> bytes:
    sink = io.BytesIO()
    whole = pa.table({"text": [row["text"] for row in rows()], "image": image})
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole, max_chunksize=50)
    return sink.getvalue()


def parquet(image: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [row["text"] for row in rows()], "image": image}), sink, row_group_size=50)
    return sink.getvalue()


PATHS = [row["image"] for row in rows()]
SEQUENTIAL: dict[str, Callable[[], bytes]] = {
    "a.jsonl": jsonl,
    "a.jsonl.gz": lambda: gzip.compress(jsonl()),
    "two members.jsonl.gz": lambda: gzip.compress(jsonl()) + gzip.compress(jsonl()) + b"\0" * 1000,
    "a.jsonl.zst": lambda: zstandard.compress(jsonl()),
    "broken off.jsonl.zst": lambda: zstandard.compress(jsonl())[:-1000],
    "corrupt.jsonl.gz": lambda: gzip.compress(jsonl())[:50_000] + b"\xff" * 2_000_000,
    "a.json": lambda: json.dumps(rows()).encode(),
    "padded.json": lambda: json.dumps(rows()).encode() + b"\n" * 3_000_000,
    "cut.json": lambda: json.dumps(rows()).encode()[:-10],
    "a.csv": lambda: table(","),
    "a.csv.gz": lambda: gzip.compress(table(",")),
    "a.tsv.zst": lambda: zstandard.compress(table("\t")),
    "a.arrow": lambda: arrow(PATHS),
    "cut.arrow": lambda: arrow(PATHS)[:-5_000],
    "inside.arrow": lambda: arrow([b"\x89PNG"] * ROWS),
}


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_scan_reads_each_byte_once_and_a_compile_twice(tmp_path: Path, name: str, bytes_read: Counter[str]) -> None:
    content = SEQUENTIAL[name]()
    (tmp_path / name).write_bytes(content)
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"\x89PNG %d" % index)
    source = Source(path=name, kind="caption")
    if name.endswith("arrow"):
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        source = Source(path=".", kind="caption", format="huggingface")
    [fragment] = scan("s", source, tmp_path, tmp_path / "cache")
    assert len(content) < bytes_read[name] <= len(content) + DETECTING
    assert fragment.digest == fragment_digest(
        content, tmp_path, [] if name.startswith("inside") else sorted(set(PATHS))
    )
    bytes_read.clear()
    list(read(fragment, source))
    assert bytes_read[name] <= len(content)


def fragment_digest(content: bytes, folder: Path, images: list[str]) -> str:
    """docs/sources.md, "Digests"."""
    if not images:
        return blake3(content).hexdigest()
    hasher = blake3(b"mixc fragment 1\0" + blake3(content).digest())
    for image in images:
        for part in (image.encode(), blake3((folder / image).read_bytes()).hexdigest().encode()):
            hasher.update(len(part).to_bytes(4, "little") + part)
    return hasher.hexdigest()


@pytest.mark.parametrize("kind", ["text", "caption"])
def test_images_and_texts_of_a_folder_are_read_once(tmp_path: Path, kind: Any, bytes_read: Counter[str]) -> None:
    sizes = {}
    for index in range(5):
        for suffix, content in ((".png", b"\x89PNG" * (1000 + index)), (".txt", b"words " * (3000 + index))):
            path = tmp_path / "folder" / f"{index}{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            sizes[path.name] = len(content)
    scan("s", Source(path="folder", kind=kind, format="imagefolder"), tmp_path, tmp_path / "cache")
    read_of = {name: size for name, size in sizes.items() if kind == "caption" or name.endswith(".txt")}
    assert dict(bytes_read) == read_of


def test_an_image_that_rows_share_is_read_once(tmp_path: Path, bytes_read: Counter[str]) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl())
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"\x89PNG" * 2000)
    scan("s", Source(path="a.jsonl", kind="caption"), tmp_path, tmp_path / "cache")
    assert [bytes_read[f"{index}.png"] for index in range(3)] == [8000] * 3


FOOTER = 1 << 17
"""Parquet's footer is read by pyarrow in at most a first guess of 64 KiB and the rest."""


@pytest.mark.parametrize(
    ("image", "columns"),
    [
        (PATHS, ["image"]),
        ([[path] for path in PATHS], ["image.list.element"]),
        ([{"bytes": None, "path": path} for path in PATHS], ["image.bytes", "image.path"]),
        ([{"bytes": b"\x89PNG" * 500, "path": path} for path in PATHS], []),
        ([b"\x89PNG" * 500] * ROWS, []),
    ],
    ids=["paths", "lists", "structs of paths", "structs of bytes", "bytes"],
)
def test_of_parquet_only_the_chunks_of_image_paths_are_read_twice(
    tmp_path: Path, image: list[Any], columns: list[str], bytes_read: Counter[str]
) -> None:
    content = parquet(image)
    (tmp_path / "a.parquet").write_bytes(content)
    meta = pq.ParquetFile(tmp_path / "a.parquet").metadata
    chunks = [meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)]
    twice = sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in columns)
    source = Source(path="a.parquet", kind="caption")
    scan("s", source, tmp_path, tmp_path / "cache")
    assert len(content) < bytes_read["a.parquet"] <= len(content) + twice + DETECTING + FOOTER
    assert twice < 0.02 * len(content)


def test_a_tar_is_read_once(tmp_path: Path, tar: Callable[..., Path], bytes_read: Counter[str]) -> None:
    path = tar([(f"{index}.{suffix}", b"x" * 3000) for index in range(50) for suffix in ("txt", "png")])
    scan("s", Source(path=path.name, kind="caption"), tmp_path, tmp_path / "cache")
    assert bytes_read[path.name] == path.stat().st_size + DETECTING


def test_a_file_that_breaks_off_the_scan_is_not_read_to_its_end(tmp_path: Path, bytes_read: Counter[str]) -> None:
    (tmp_path / "a.json").write_bytes(b"[] and more" + b" " * (8 * files.CHUNK))
    with pytest.raises(SourceError, match="text after the list"):
        scan("s", Source(path="a.json", kind="caption"), tmp_path, tmp_path / "cache")
    assert bytes_read["a.json"] <= 4 * files.CHUNK
