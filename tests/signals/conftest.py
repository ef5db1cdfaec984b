"""A small corpus of every kind, and makers of batches."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixc.measure.family import geometry
from mixc.measure.run import ObjectRef, measure
from mixc.measure.template import TEMPLATES
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from mixc.signals.run import compute_signals
from mixc.sources.scan import scan
from mixc.spec.schema import Spec

Picture = Callable[..., bytes]

TEXTS = [
    "The cat sat on the mat and that was all that it could do.",
    "!!! ### ... ???",
    "هذا نص عربي قصير عن الطقس في المدينة اليوم وهو جميل جدا",
    "今天天气很好，我们去公园散步，然后回家吃饭。",
    "one two three four five six seven eight nine ten " * 4,
    "- a point\n- another point\n• a third …\nand a line",
    "\u0000 a control character, \U0001fffe and a noncharacter in the text",
    "x",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer("qwen2.5", base=Path(), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def picture() -> Picture:
    """`picture(width, height, seed)`: a PNG of noise; of one colour with `noise=False`."""

    def make(width: int, height: int, seed: int = 0, *, noise: bool = True) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels if noise else np.full_like(pixels, 100)).save(file, "PNG")
        return file.getvalue()

    return make


@dataclass(frozen=True)
class Corpus:
    folder: Path
    cache: Path
    tokenizer: Tokenizer

    def spec(self, **keys: Any) -> Spec:
        return msgspec.convert(
            {
                "mixture": "m",
                "seed": 1,
                "model": "sail-vl-2b",
                "sources": {
                    "text": {"path": "text-*.jsonl", "kind": "text"},
                    "chat": {"path": "chat-*.json", "kind": "chat", "image_root": "images"},
                },
                "stages": [],
                **keys,
            },
            Spec,
        )

    def objects(self, spec: Spec) -> list[ObjectRef]:
        fragments = [f for name, source in spec.sources.items() for f in scan(name, source, self.folder, self.cache)]
        return measure(
            fragments,
            spec,
            geometry=geometry(spec, self.tokenizer),
            tokenizer=self.tokenizer,
            template=TEMPLATES["univl-chat"],
            cache=self.cache,
        )

    def compute(self, spec: Spec, **options: Any) -> tuple[list[ObjectRef], dict[str, dict[str, Path]]]:
        refs = self.objects(spec)
        return refs, compute_signals(refs, spec, base=self.folder, cache=self.cache, **options)

    def values(self, spec: Spec, **options: Any) -> dict[tuple[str, str], list[Any]]:
        """By (signal, sample id): its values, sorted, a copy of a sample each."""
        refs, paths = self.compute(spec, **options)
        found: dict[tuple[str, str], list[Any]] = {}
        for ref in refs:
            ids = pq.read_table(ref.path / "facts.parquet", columns=["id"])["id"].to_pylist()
            for name, path in paths[ref.info.digest].items():
                table = pq.read_table(path)
                assert table.column_names == ["value"] and len(table) == len(ids)
                for identity, value in zip(ids, table["value"].to_pylist(), strict=True):
                    found.setdefault((name, str(identity)), []).append(value)
        return {key: sorted(values, key=repr) for key, values in sorted(found.items())}


def write_corpus(folder: Path, picture: Picture) -> None:
    (folder / "images").mkdir(parents=True)
    for i in range(3):
        (folder / "images" / f"{i}.png").write_bytes(picture(64 + 8 * i, 48, i))
    (folder / "images" / "flat.png").write_bytes(picture(40, 40, noise=False))
    (folder / "images" / "cut.png").write_bytes(picture(64, 64, 9)[:-900])
    for part in range(2):
        rows = [json.dumps({"text": text, "score": i}) for i, text in enumerate(TEXTS[part::2])]
        (folder / f"text-{part}.jsonl").write_text("\n".join([rows[0], "{broken", *rows[1:]]) + "\n")
    chats = [
        {
            "image": image,
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is picture {image}?"},
                {"from": "gpt", "value": "A first answer."},
                {"from": "human", "value": "And more?"},
                {"from": "gpt", "value": "A second answer."},
            ],
        }
        for image in ("0.png", "cut.png", "1.png", "2.png", "flat.png")
    ]
    (folder / "chat-0.json").write_text(json.dumps(chats))


@pytest.fixture
def corpus(tmp_path: Path, picture: Picture, tokenizer: Tokenizer) -> Corpus:
    write_corpus(tmp_path / "data", picture)
    return Corpus(tmp_path / "data", tmp_path / "cache", tokenizer)


def folders(cache: Path) -> dict[str, bytes]:
    """Every byte of every signal."""
    root = cache / "signals"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def names_of(paths: Mapping[str, Mapping[str, Path]]) -> set[str]:
    return {name for own in paths.values() for name in own}
