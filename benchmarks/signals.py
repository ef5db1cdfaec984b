"""How fast signals are computed: MB/s of text and images/s, one core, by signal.

python benchmarks/signals.py [--megabytes N] [--data FOLDER]

Texts are those of the demo's prose, each many times with its words in another order, so that no text equals another;
images are its photographs. What several signals share, the cutting of texts into words and the decoding of images, is
measured by itself and not counted again. Reading sources is not part of it.
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
import time
from pathlib import Path

import msgspec
import zstandard

from mixc.clean.contamination import Benchmark
from mixc.signals.batch import BATCH_SAMPLES, Batch
from mixc.signals.names import SIGNALS
from mixc.signals.registry import FUNCTIONS, INTERNAL, function
from mixc.signals.text import detect

DATA = Path(__file__).resolve().parents[1] / "specs" / "demo" / "data"


def batch(texts: list[str], images: list[bytes]) -> Batch:
    size = max(len(texts), len(images))
    return Batch(
        texts=texts or [""] * size,
        turns=[()] * size,
        images=[[image] for image in images] or [()] * size,
        columns=[{}] * size,
        rows=range(size),
    )


def main(megabytes: float, data: Path) -> None:
    originals = []
    for path in sorted((data / "prose").glob("*.jsonl.zst")):
        with path.open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            originals += [msgspec.json.decode(line)["text"] for line in lines]
    dice = random.Random(1)
    texts: list[str] = []
    size = 0
    while size < megabytes * 1e6:
        words = dice.choice(originals).split(" ")
        dice.shuffle(words)
        texts.append(" ".join(words))
        size += len(texts[-1].encode())
    images = []
    for path in sorted((data / "pages").glob("*.tar")):
        with tarfile.open(path) as archive:
            images += [
                archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.name.endswith((".png", ".jpg", ".webp"))
            ]
    print(f"{len(texts)} texts, {size / 1e6:.1f} MB; {len(images)} images, {sum(map(len, images)) / 1e6:.1f} MB")
    grams = Benchmark.of([(str(i), [text], []) for i, text in enumerate(texts[:50])], ngram=13, phash_bits=None)
    settings = {"ngram": 5, "permutations": 128}
    described = {**SIGNALS, **INTERNAL}
    functions = {**FUNCTIONS, **{name: function(name, settings, lambda: grams) for name in INTERNAL}}
    of_text = {name: each for name, each in functions.items() if {"text", "turns"} & set(described[name].needs)}
    for each in of_text.values():  # compile and load
        each(batch(texts[:2], []))
    cut = [texts[i : i + BATCH_SAMPLES] for i in range(0, len(texts), BATCH_SAMPLES)]
    spent = dict.fromkeys(("(into words)", *of_text), 0.0)
    for part in cut:
        one = batch(part, [])
        start = time.perf_counter()
        _ = one.words
        spent["(into words)"] += time.perf_counter() - start
        for name, each in of_text.items():
            detect.cache_clear()
            start = time.perf_counter()
            each(one)
            spent[name] += time.perf_counter() - start
    for name, seconds in spent.items():
        print(f"{name:18} {size / 1e6 / seconds:8.1f} MB/s")
    print(f"{'all of text':18} {size / 1e6 / sum(spent.values()):8.1f} MB/s")
    one = batch([], images)
    start = time.perf_counter()
    _ = one.greys
    print(f"{'(decode, grey)':18} {len(images) / (time.perf_counter() - start):8.1f} images/s")
    for name in ("sharpness", "flatness", "phash"):
        start = time.perf_counter()
        functions[name](one)
        print(f"{name:18} {len(images) / (time.perf_counter() - start):8.1f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    main(arguments.megabytes, arguments.data)
