"""A small real mixture, to be edited: photographs with captions, conversations and pages of manuals, out of the demo's data."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixc.compile import compile_spec

REPO = Path(__file__).resolve().parents[2]
DATA = REPO / "specs/demo/data"

SPEC: dict[str, Any] = {
    "mixture": "edits",
    "seed": 7,
    "model": "sail-vl-tiny",
    "tiles": {"max": 2},
    "dedup": {"exact": True, "minhash": {"threshold": 0.75}},
    "sources": {
        "photos": {"path": "data/photos/*.parquet", "kind": "caption", "text": "caption", "where": "quality >= 0.7"},
        "chats": {"path": "data/chats.jsonl", "kind": "chat"},
        "prose": {"path": "data/prose/*", "kind": "text", "where": "characters >= 200"},
        "news": {"path": "data/news.jsonl", "kind": "text"},
    },
    "stages": [
        {
            "name": "align",
            "budget": "9k tokens",
            "mix": {"photos": 0.5, "prose": 0.4, "news": 0.1},
            "sequence_length": 1024,
            "train": {"lr": {"projector": 1e-3}, "batch": 2},
        },
        {
            "name": "sft",
            "reuse": True,
            "budget": "15k tokens",
            "mix": {"chats": {"weight": 0.7, "where": "complexity <= 2", "max_epochs": 2}, "photos": 0.3},
            "on_exhausted": "renormalise",
            "sequence_length": 1024,
            "train": {"lr": {"projector": 1e-3, "language": 1e-4}, "batch": 2},
        },
    ],
}


@dataclass(frozen=True)
class Project:
    """A folder with a spec and its data, and the build of it."""

    folder: Path
    spec: Path
    build: Path


def read_lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    return [json.loads(line) for line in data.splitlines()]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)


def write_data(folder: Path) -> None:
    """Data of the base spec."""
    (folder / "photos").mkdir(parents=True)
    (folder / "prose").mkdir()
    photos = pq.read_table(DATA / "captions/photographs.parquet").select(["image", "caption", "quality"])
    pq.write_table(photos.slice(0, 8), folder / "photos/first.parquet")
    pq.write_table(photos.slice(8, 8), folder / "photos/second.parquet")
    chats = [
        {
            "complexity": row["complexity"],
            "conversations": [
                {**turn, "value": turn["value"].replace("<image>", "").strip()} for turn in row["conversations"]
            ],
        }
        for row in json.loads((DATA / "chat/knowledge.json").read_text())[:40]
    ]
    write_lines(folder / "chats.jsonl", chats)
    english = [{"text": row["text"][:1800]} for row in read_lines(DATA / "prose/libreoffice-help.en.jsonl.zst")[:20]]
    words = english[3]["text"].split()
    near = " ".join(word if n % 40 else word.upper() + "x" for n, word in enumerate(words, 1))
    german = [{"text": row["text"][:1500]} for row in read_lines(DATA / "prose/libreoffice-help.de.jsonl.zst")[:12]]
    write_lines(folder / "prose/english.jsonl", [*english, english[0], {"text": near}])
    write_lines(folder / "prose/german.jsonl", german)
    news = [{"text": row["text"][:900]} for row in read_lines(DATA / "prose/python.jsonl.zst")[:10]]
    write_lines(folder / "news.jsonl", news)


Edit = Callable[[dict[str, Any], Path], None]
"""Changes a spec as it will be written, and the data in a folder. `comment` of a spec stands before it."""


def compiled(folder: Path, edit: Edit | None = None) -> Project:
    """The base, or an edit of it, with its build."""
    write_data(folder / "data")
    spec = copy.deepcopy(SPEC)
    if edit is not None:
        edit(spec, folder / "data")
    (folder / "spec.yaml").write_text(spec.pop("comment", "") + json.dumps(spec, indent=1))
    compile_spec(folder / "spec.yaml", folder / "build")
    return Project(folder, folder / "spec.yaml", folder / "build")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that all edits share."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("MIXC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def base(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return compiled(tmp_path_factory.mktemp("base"))


def retype(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Write a Parquet file anew."""
    pq.write_table(change(pq.read_table(path)), path, **options)
