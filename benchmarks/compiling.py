"""`mixc compile` as a whole process, in a folder with a cache of its own: what the benches of the compiler share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from process import Cost, measured

REPO = Path(__file__).resolve().parents[1]
LENGTH = 8192


@dataclass(frozen=True)
class Compiled:
    cost: Cost
    told: dict[str, Any]
    """What --json told."""
    shard_bytes: int
    """Of all token shards."""
    shards: int

    @property
    def tokens(self) -> int:
        return sum(stage["tokens"] for stage in self.told["stages"])


class Workplace:
    """A folder for specs, data, caches and builds. Caches begin with the tokenizer made and proven, and with nothing else that
    counts, so that a compile in a new one reads and tokenizes all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = iter(range(10**9))
        self._first = folder / "cache"
        (folder / "one.jsonl").write_text('{"text": "A text of its own."}\n')
        self._one = self.spec({"one": text(folder / "one.jsonl")}, batch=1)
        self.compile(self._one, cache=self._first)

    def start_up(self) -> Compiled:
        """A compile of one document: what every other has in its seconds, too."""
        return self.compile(self._one)

    def spec(self, sources: Mapping[str, Mapping[str, object]], *, batch: int = 8, **more: object) -> Path:
        """Writes a spec of `sources` with one stage, one pass over everything; `more` replaces its keys, or `stages`."""
        stage = {
            "name": "one",
            "budget": "1 epochs",
            "mix": list(sources),
            "sequence_length": LENGTH,
            "train": {"lr": {"language": 1e-5}, "batch": batch},
        }
        spec = {"mixture": "bench", "seed": 1, "model": "sail-vl-2b", "sources": sources}
        stages = more.pop("stages", None) or [{}]
        spec["stages"] = [{**stage, **more, **own} for own in stages]
        path = self.folder / f"spec-{next(self._numbers)}.yaml"
        path.write_text(json.dumps(spec))
        return path

    @contextmanager
    def cache(self) -> Iterator[Path]:
        folder = self.folder / f"cache-{next(self._numbers)}"
        shutil.copytree(self._first, folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def compile(self, spec: Path, *, workers: int = 1, cache: Path | None = None) -> Compiled:
        """In a new cache unless `cache` is given. The build is removed."""
        if cache is None:
            with self.cache() as cache:
                return self.compile(spec, workers=workers, cache=cache)
        build = self.folder / "build"
        try:
            cost = measured(
                [sys.executable, "-m", "mixc", "compile", spec, "-o", build, "-j", str(workers), "--json"],
                env={**os.environ, "MIXC_CACHE": str(cache), "PYTHONPATH": str(REPO)},
                cwd=self.folder,
            )
            stages = json.loads((build / "manifest.json").read_text())["manifest"]["stages"]
            shards = [shard["bytes"] for stage in stages for shard in stage["shards"]]
            return Compiled(cost, json.loads(cost.output), sum(shards), len(shards))
        finally:
            shutil.rmtree(build, ignore_errors=True)


def text(*paths: Path) -> dict[str, object]:
    return {"path": [str(path) for path in paths], "kind": "text"}


def parts(texts: Iterable[str], size: float, number: int) -> Iterator[Iterator[str]]:
    """`texts` of `size` bytes in all as `number` successive streams of about equal size, to be read one after the other."""
    texts = iter(texts)
    for _ in range(number - 1):
        yield _of(texts, size / number)
    yield texts


def _of(texts: Iterator[str], size: float) -> Iterator[str]:
    while size > 0 and (some := list(islice(texts, 1))):
        size -= len(some[0].encode())
        yield some[0]


def versions(names: Sequence[str] = ("fastokens", "tokenizers", "duckdb", "pyarrow", "zstandard", "numpy")) -> str:
    return f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in names)
