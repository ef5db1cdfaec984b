"""`mixc compile`, timed as whole processes, and Datatrove's DocumentTokenizer on the same documents.

    python benchmarks/compile.py [PART ...] [--megabytes 300] [--peer PYTHON] [--data FOLDER] [--json]

    start-up   one document: what is in all other figures, too
    text       real English documents, and made ones of --megabytes (corpus.py says what made ones are): source to shards, no
               optional signals, one worker, an empty cache. Bars: 30 MB of text a CPU-second, 1.10 bytes a token on real ones
    peer       Datatrove on the first --peer-megabytes of both. Bar: 25 times as fast
    workers    two workers against one, wall time: eight files, one large JSONL file, one large Parquet file. Bar: 1.8 times
    remix      two sources, compiled once, then with other weights. Bars: 4 times as fast, nothing tokenized
    short      made documents of 400 bytes in the mean, where rows cost more than bytes
    chat       conversations of two turns of 300 bytes
    pictures   785 pictures with their captions out of Parquet, and again as files that conversations name

All parts unless some are named. MB are millions of bytes of text in UTF-8, without JSON around it. CPU seconds are user and
system time of all processes (process.py); the tokenizer is made and proven before, nothing else is in the cache. Each figure is
the least of --runs. The peak is that of the largest process.

Datatrove runs in an environment of its own, made here unless --peer names its Python, with mixc's tokenizer.json, reading the
same JSONL by its JsonlReader. Of it only the steps count: neither imports nor loading the tokenizer, and no shuffling; of mixc
the whole process does. Of its batch sizes the fastest is taken. TOKENIZERS_PARALLELISM=false: one core, as mixc has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from compiling import Compiled, Workplace, parts, text, versions
from corpus import conversations, english, enlarged, pictures, write_jsonl, write_parquet, write_rows
from process import measured

from mixc.measure.tokenizer import load_tokenizer

FILES = 8
PEER = ["datatrove[io,processing]==0.10.1", "orjson"]

DATATROVE = """
import json, shutil, sys, time
from importlib.metadata import version
from pathlib import Path
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from loguru import logger
logger.remove()
folder, tokenizer, out, batches = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
result = {"versions": {name: version(name) for name in ("datatrove", "tokenizers", "orjson")}, "seconds": {}}
for batch in batches:
    reader = JsonlReader(str(folder))
    step = DocumentTokenizer(str(out), tokenizer, eos_token="<|endoftext|>", batch_size=batch, shuffle_documents=False)
    step.tokenizer.encode("warm"), step.token_size
    start = time.process_time()
    step.run(reader.run(rank=0, world_size=1), 0, 1)
    result["seconds"][batch] = time.process_time() - start
    result["tokens"] = sum(path.stat().st_size for path in out.glob("*.ds")) // step.token_size
    shutil.rmtree(out)
print(json.dumps(result))
"""


class Bench:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.work = Workplace(folder)
        self.rows: list[dict[str, Any]] = []

    @cached_property
    def english(self) -> list[str]:
        return english(self.options.data or self.folder / "packages")

    @cached_property
    def real(self) -> tuple[list[Path], int, int]:
        """Files of the English documents, how many documents, bytes of text."""
        return self.written("real", self.english, sum(len(each.encode()) for each in self.english))

    @cached_property
    def made(self) -> tuple[list[Path], int, int]:
        size = self.options.megabytes * 1e6
        return self.written("made", enlarged(self.english, size, seed=1), size)

    def written(self, name: str, texts: Any, size: float) -> tuple[list[Path], int, int]:
        paths = [self.folder / f"{name}-{number}.jsonl" for number in range(FILES)]
        counts = [write_jsonl(path, some) for path, some in zip(paths, parts(texts, size, FILES), strict=True)]
        return paths, sum(number for number, _ in counts), sum(size for _, size in counts)

    def best(self, spec: Path, key: Callable[[Compiled], float] = lambda done: done.cost.cpu, **more: Any) -> Compiled:
        return min((self.work.compile(spec, **more) for _ in range(self.options.runs)), key=key)

    def row(self, part: str, case: str, done: Compiled | None = None, bar: bool | None = None, **figures: Any) -> None:
        if done:
            cost = done.cost
            figures = {"wall": cost.wall, "cpu": cost.cpu, "peak": cost.peak, "tokens": done.tokens, **figures}
        self.rows.append({"part": part, "case": case, **figures, **({} if bar is None else {"bar": bar})})
        if not self.options.json:
            told = ", ".join(f"{key} {_figure(value)}" for key, value in figures.items())
            print(
                f"{part:9} {case:40} {told}{'' if bar is None else '; bar met' if bar else '; BAR NOT MET'}", flush=True
            )

    def of_text(self, part: str, case: str, files: tuple[list[Path], int, int], done: Compiled, **more: Any) -> float:
        """One row about a compile of text; gives its rate in MB a CPU-second."""
        _, number, size = files
        rate = size / 1e6 / done.cost.cpu
        figures = {"MB": size / 1e6, "rows": number, "MB/cpu-s": rate, "rows/cpu-s": number / done.cost.cpu}
        self.row(part, case, done, **figures, **{"bytes/token": done.shard_bytes / done.tokens}, **more)
        return rate

    def start_up(self) -> None:
        self.row(
            "start-up", "one document", min((self.work.start_up() for _ in range(3)), key=lambda done: done.cost.cpu)
        )

    @cached_property
    def rates(self) -> dict[str, float]:
        """MB a CPU-second of text."""
        rates = {}
        for name, files in (("real", self.real), ("made", self.made)):
            done = self.best(self.work.spec({"a": text(*files[0])}))
            bars = {"bar": files[2] / 1e6 / done.cost.cpu >= 30}
            rates[name] = self.of_text("text", f"{name} documents, one worker", files, done, **bars)
            if name == "real":
                stored = done.shard_bytes / done.tokens
                self.row("text", "token shards of real documents", bar=stored <= 1.10, **{"bytes/token": stored})
        return rates

    def text(self) -> None:
        _ = self.rates

    def peer(self) -> None:
        python = self.options.peer or self.install()
        tokenizer = load_tokenizer("qwen2.5", base=self.folder, cache=self.folder / "cache").path
        for name, texts in (("real", self.english), ("made", enlarged(self.english, 1e9, seed=1))):
            own = self.rates[name]
            some = self.folder / f"peer-{name}"
            some.mkdir()
            first = list(_first(texts, self.options.peer_megabytes * 1e6))
            number, size = write_jsonl(some / "0.jsonl", first)
            few = self.folder / f"few-{name}"
            few.mkdir()
            write_jsonl(few / "0.jsonl", first[: len(first) // 4])
            tried = self.datatrove(python, few, tokenizer, [10, 100, 1000, 10000])["seconds"]
            batch = min(tried, key=tried.get)
            found = self.datatrove(python, some, tokenizer, [int(batch)])
            rate = size / 1e6 / found["seconds"][batch]
            told = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
            figures = {
                "MB": size / 1e6,
                "rows": number,
                "MB/cpu-s": rate,
                "tokens": found["tokens"],
                "batch": int(batch),
            }
            self.row("peer", f"{told}: {name} documents", cpu=found["seconds"][batch], **figures)
            self.row("peer", f"mixc, all {name} documents / Datatrove", bar=own / rate >= 25, ratio=own / rate)
            done = self.best(self.work.spec({"a": text(some / "0.jsonl")}))
            self.of_text("peer", f"mixc, the same {name} documents", (([]), number, size), done)
            self.row("peer", "the same documents, mixc with its start-up", ratio=size / 1e6 / done.cost.cpu / rate)

    def install(self) -> str:
        subprocess.run([sys.executable, "-m", "venv", str(self.folder / "peer")], check=True)
        python = str(self.folder / "peer/bin/python")
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
        return python

    def datatrove(self, python: str, folder: Path, tokenizer: Path, batches: list[int]) -> dict[str, Any]:
        out = self.folder / "tokenized"
        command = [python, "-c", DATATROVE, folder, tokenizer, out, json.dumps(batches)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TOKENIZERS_PARALLELISM": "false"}
        return json.loads(measured(command, env=environment, cwd=self.folder).output.splitlines()[-1])

    def workers(self) -> None:
        paths, _, size = self.made
        one = self.folder / "one-file.jsonl"
        with one.open("wb") as file:
            for path in paths:
                file.write(path.read_bytes())
        columnar = self.folder / "one-file.parquet"
        write_parquet(columnar, enlarged(self.english, self.options.megabytes * 1e6, seed=1))
        for case, files in (
            (f"{FILES} JSONL files", paths),
            ("one JSONL file", [one]),
            ("one Parquet file", [columnar]),
        ):
            spec = self.work.spec({"a": text(*files)})
            # one after the other, so that a change of the machine's speed meets both
            runs = [[self.work.compile(spec, workers=workers) for workers in (1, 2)] for _ in range(self.options.runs)]
            alone, both = (min(each, key=lambda done: done.cost.wall) for each in zip(*runs, strict=True))
            assert alone.told["root"] == both.told["root"], "the number of workers shows"
            self.row("workers", f"{case}, one worker", alone, MB=size / 1e6)
            ratio = alone.cost.wall / both.cost.wall
            self.row("workers", f"{case}, two workers", both, ratio=ratio, bar=ratio >= 1.8)
        for path in (one, columnar):
            path.unlink()

    def remix(self) -> None:
        paths, _, size = self.made
        sources = {"a": text(*paths[: FILES // 2]), "b": text(*paths[FILES // 2 :])}
        budget = f"{int(size / 5.5)} tokens"  # some 4 bytes are a token: about three quarters of what there is
        first, second = (
            self.work.spec(sources, mix=mix, budget=budget) for mix in ({"a": 1, "b": 1}, {"a": 3, "b": 2})
        )
        with self.work.cache() as cache:
            before = self.work.compile(first, cache=cache)
            after = min((self.work.compile(second, cache=cache) for _ in range(3)), key=lambda done: done.cost.wall)
        self.row("remix", "shares 1 to 1, nothing measured before", before, MB=size / 1e6)
        ratio, objects = before.cost.wall / after.cost.wall, after.told["objects"]
        met = ratio >= 4 and objects["measured"] == 0
        self.row(
            "remix",
            "shares 3 to 2",
            after,
            ratio=ratio,
            **objects,
            **{"tokens/first": after.tokens / before.tokens},
            bar=met,
        )

    def short(self) -> None:
        size = self.options.megabytes * 1e6 / 3
        files = self.written("short", enlarged(self.english, size, seed=2, mean=400, sigma=0.6), size)
        self.of_text("short", "documents of 400 bytes", files, self.best(self.work.spec({"a": text(*files[0])})))

    def chat(self) -> None:
        size = self.options.megabytes * 1e6 / 3
        path = self.folder / "chat.jsonl"
        number = write_rows(path, conversations(self.english, size, seed=3))
        source = {"path": str(path), "kind": "chat"}
        self.of_text(
            "chat", "two turns of 300 bytes", ([path], number, int(size)), self.best(self.work.spec({"a": source}))
        )

    def pictures(self) -> None:
        shown = pictures(self.options.data or self.folder / "packages")
        table = pa.table({"image": [path.read_bytes() for path, _ in shown], "text": [caption for _, caption in shown]})
        pq.write_table(table, self.folder / "captions.parquet", row_group_size=100)
        root = Path(os.path.commonpath([path for path, _ in shown]))
        rows = (
            {
                "image": str(path.relative_to(root)),
                "messages": [
                    {"role": "user", "content": "<image>\nWhat is this?"},
                    {"role": "assistant", "content": caption},
                ],
            }
            for path, caption in shown
        )
        write_rows(self.folder / "pictures.jsonl", rows)
        captions = {"path": str(self.folder / "captions.parquet"), "kind": "caption"}
        chat = {"path": str(self.folder / "pictures.jsonl"), "kind": "chat", "image_root": str(root)}
        done = self.best(self.work.spec({"captions": captions, "chat": chat}))
        images = done.told["stages"][0]["images"]
        figures = {"images": images, "images/cpu-s": images / done.cost.cpu}
        beyond = done.cost.cpu - self.work.start_up().cost.cpu
        self.row("pictures", "captions and conversations", done, **figures, **{"beyond start-up": images / beyond})


PARTS: dict[str, Callable[[Bench], None]] = {
    "start-up": Bench.start_up,
    "text": Bench.text,
    "peer": Bench.peer,
    "workers": Bench.workers,
    "remix": Bench.remix,
    "short": Bench.short,
    "chat": Bench.chat,
    "pictures": Bench.pictures,
}


def _first(texts: Any, size: float) -> list[str]:
    return list(next(parts(texts, 2 * size, 2)))


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all when none is named")
    parser.add_argument("--megabytes", type=float, default=300, help="of made documents")
    parser.add_argument("--peer-megabytes", type=float, default=6)
    parser.add_argument("--peer", help="a Python that has " + " and ".join(PEER))
    parser.add_argument("--data", type=Path, help="folder that keeps the packages; a temporary one when absent")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not options.json:
        print(versions())
    with tempfile.TemporaryDirectory(prefix="mixc-bench-") as folder:
        bench = Bench(options, Path(folder))
        for name in options.parts or PARTS:
            PARTS[name](bench)
    if options.json:
        print(json.dumps({"versions": versions(), "results": bench.rows}, indent=1))


if __name__ == "__main__":
    main()
