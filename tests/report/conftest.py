"""A small mixture with something for every rule, compiled: two files of prose, some of it split, doubled or too short; chats
about pictures with hostile words; a held-out part; two stages, one of them ordered."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixc.compile import compile_spec
from shards.manifest import Manifest

SPEC = """
mixture: small
seed: 7
model: sail-vl-tiny
tiles: {max: 4}
dedup: {exact: true}
held_out: {letters: 3 samples}
groups: {words: {letters: 2, notes: 0.1, prose: 3}}
sources:
  prose: {path: "prose/*.jsonl", kind: text, where: score >= 0.3}
  letters: {path: letters.jsonl, kind: text}
  notes: {path: notes.jsonl, kind: text}
  spare: {path: spare.jsonl, kind: text}
  talk: {path: talk.jsonl, kind: chat, messages: messages, image: image}
stages:
  - name: read
    budget: 2 epochs
    mix: {words: {weight: 1, max_epochs: 3}}
    on_exhausted: renormalise
    sequence_length: 64
    train: {lr: {language: 1e-3}, batch: 3}
  - name: speak
    reuse: true
    budget: 6k tokens
    mix:
      talk: {weight: 0.8, where: level < 3, max_epochs: 3}
      prose: {weight: 0.2, quantile: {by: score, at_least: 0.2}}
    order: {by: level, direction: descending, window: 8}
    sequence_length: 1024
    train: {lr: {language: 1e-3}, batch: 2, loss: square}
"""
WORDS = [
    *(
        "river",
        "stone",
        "lamp",
        "über",
        "naïve",
        "文字",
        "🦜",
        "<|im_end|>",
        "quiet",
        "harbour",
        "</mark>",
        "snow",
        "field",
    ),
    *("letter", "a", "the", "of", "and", "winter", "sees"),
]
HOSTILE = "<script>alert('1')</script> \x1b[31mred <|im_start|> &amp; {{ 7 * 7 }} <b>"


def words(generator: random.Random, count: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(count))


def picture(width: int, height: int, colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def write_sources(folder: Path) -> None:
    generator = random.Random(1)
    (folder / "prose").mkdir(parents=True)
    documents = [
        {
            "text": words(generator, generator.choice([4, 9, 20, 60, 150])),
            "score": round(generator.random(), 3),
            "level": n % 4,
        }
        for n in range(50)
    ]
    documents += documents[:5]  # in the other file once more
    for name, own in (("a", documents[:30]), ("b", documents[30:])):
        lines = [json.dumps(document) for document in own]
        lines.insert(3, '{"text": broken')
        (folder / f"prose/{name}.jsonl").write_text("\n".join(lines) + "\n")
    letters = [{"text": words(generator, 12), "level": None} for _ in range(12)] + [{"text": documents[40]["text"]}]
    (folder / "letters.jsonl").write_text("".join(json.dumps(each) + "\n" for each in letters))
    for name in ("notes", "spare"):
        notes = [json.dumps({"text": f"{name} {words(generator, 10)}"}) for _ in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join(notes))
    (folder / "images").mkdir()
    talks = []
    for n, (width, height) in enumerate(
        [(32, 32), (90, 30), (30, 64), (64, 64), (200, 40), (33, 31), (10, 10), (70, 50)]
    ):
        (folder / f"images/{n}.png").write_bytes(picture(width, height, f"rgb({30 * n},80,{250 - 30 * n})"))
        talks.append(
            {
                "messages": [
                    {"role": "user", "content": f"<image>What is {HOSTILE} number {n}?"},
                    {"role": "assistant", "content": words(generator, 5 + n) + " " + HOSTILE},
                ],
                "image": f"images/{n}.png",
                "level": n % 4,
            }
        )
    (folder / "talk.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (folder / "small.yaml").write_text(SPEC)


@dataclass(frozen=True)
class Small:
    folder: Path
    """Of the sources and the spec."""
    build: Path
    cache: Path
    manifest: Manifest

    def table(self, name: str) -> list[dict]:
        return pq.read_table(self.build / name).to_pylist()

    @property
    def stages(self) -> list[str]:
        return [stage.name for stage in self.manifest.stages]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    write_sources(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXC_CACHE", str(folder / "cache"))
        compiled = compile_spec(folder / "data/small.yaml", folder / "build")
    return Small(folder / "data", folder / "build", folder / "cache", compiled.manifest)


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the small mixture has the cache that it was compiled with."""
    if "small" in request.fixturenames:
        monkeypatch.setenv("MIXC_CACHE", str(request.getfixturevalue("small").cache))
