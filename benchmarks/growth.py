"""How the time and memory of `mixc compile` grow: with bytes of source, with files, with stages.

    python benchmarks/growth.py [PART ...] [--largest 1GB] [--megabytes 50] [--workers 2] [--folder FOLDER] [--data FOLDER]

    bytes    made documents (corpus.py says what those are) of 10 MB, 100 MB and so on to --largest, in eight JSONL files
    files    --megabytes of them in 1, 10, 100 and 1,000 files
    sources  the same in 1, 10 and 100 sources of one file
    stages   the same in one file, each stage with its part of the tokens: 1, 10 and 100 stages

All parts unless some are named. Whole processes from source to shards, an empty cache but for the tokenizer, no optional signals.
MB are millions of bytes of text in UTF-8, without JSON around it; CPU seconds are user and system time of all processes, the
peak is the resident memory of the largest process (process.py). Up to 100 MB and for the counts a figure is the least CPU time
of --runs.

An exponent is the slope of log(CPU seconds) over log(size), without what a compile of eight files of a document or two takes (bytes) or
one file, source or stage (counts). Of all sizes it is the least-squares fit; between the last two it tells what
becomes of it. Bars: both at most 1.1; no process above 2 GiB. Every compile runs under a limit of 256 open files a process, so
what finishes opens no more.

The documents are written as they are made. Disk: three times --largest, below --folder (a temporary folder when absent); all of
it is removed, a size before the next is made.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from compiling import Compiled, Workplace, parts, text, versions
from corpus import english, enlarged, write_jsonl

FILES = 8
SMALLEST = 10 * 10**6
OFTEN = 10**8
"""Bytes up to which a compile is run more than once."""

OPEN_FILES = 256
STEEPEST = 1.1
MOST_MEMORY = 2048
"""MiB of one process."""


class Bench:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.rows: list[dict[str, Any]] = []
        self.work = Workplace(folder)

    @cached_property
    def english(self) -> list[str]:
        return english(self.options.data or self.folder / "packages")

    @cached_property
    def start_up(self) -> float:
        with self.written(FILES * 1000, FILES) as (paths, _):
            done = self.compile(self.work.spec({"a": text(*paths)}, batch=1), 3)
        self.row("bytes", f"{FILES} kB", done)
        return done.cost.cpu

    @contextmanager
    def written(self, size: int, files: int) -> Iterator[tuple[list[Path], int]]:
        """`size` bytes of documents in so many files, which are removed in the end, and the bytes that came of it."""
        paths = [self.folder / f"made-{number}.jsonl" for number in range(files)]
        try:
            texts = parts(enlarged(self.english, size, seed=1), size, files)
            yield paths, sum(write_jsonl(path, some)[1] for path, some in zip(paths, texts, strict=True))
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def best(self, run: Callable[[], Compiled], times: int) -> Compiled:
        return min((run() for _ in range(times)), key=lambda done: done.cost.cpu)

    def compile(self, spec: Path, times: int) -> Compiled:
        return self.best(lambda: self.work.compile(spec, workers=self.options.workers), times)

    def row(self, part: str, case: str, done: Compiled, **figures: Any) -> None:
        cost = done.cost
        self.say(
            part,
            case,
            bar=cost.peak < MOST_MEMORY,
            **{"cpu": cost.cpu, "wall": cost.wall, "peak": cost.peak, "tokens": done.tokens, **figures},
        )

    def say(self, part: str, case: str, *, bar: bool, **figures: Any) -> None:
        self.rows.append({"part": part, "case": case, **figures, "bar": bar})
        told = ", ".join(f"{key} {_figure(value)}" for key, value in figures.items())
        if not self.options.json:
            print(f"{part:8} {case:14} {told}; {'bar met' if bar else 'BAR NOT MET'}", flush=True)

    def bytes(self) -> None:
        points, constant = [], self.start_up
        for size in self.sizes:
            with self.written(size, FILES) as (paths, made):
                spec = self.work.spec({"a": text(*paths)})
                done = self.compile(spec, self.options.runs if size <= OFTEN else 1)
            rate = made / 1e6 / done.cost.cpu
            self.row("bytes", f"{made / 1e6:,.0f} MB", done, **{"MB/cpu-s": rate, "shards": done.shards})
            points.append((made, done))
        self.growth("bytes", points, constant)

    def files(self) -> None:
        def each(number: int) -> Compiled:
            with self.written(self.counted, number) as (paths, _):
                return self.compile(self.work.spec({"a": text(*paths)}), self.options.runs)

        self.counts("files", (1, 10, 100, 1000), each)

    def sources(self) -> None:
        def each(number: int) -> Compiled:
            with self.written(self.counted, number) as (paths, _):
                sources = {f"s{number:03}": text(path) for number, path in enumerate(paths)}
                return self.compile(self.work.spec(sources), self.options.runs)

        self.counts("sources", (1, 10, 100), each)

    def stages(self) -> None:
        with self.written(self.counted, 1) as (paths, _):
            sources = {"a": text(*paths)}
            tokens = self.compile(self.work.spec(sources), 1).tokens

            def each(number: int) -> Compiled:
                stages = [{"name": f"t{n:03}", "budget": f"{tokens // number} tokens"} for n in range(number)]
                return self.compile(self.work.spec(sources, stages=stages), self.options.runs)

            self.counts("stages", (1, 10, 100), each)

    @property
    def sizes(self) -> list[int]:
        sizes = [SMALLEST]
        while sizes[-1] * 10 <= self.options.largest:
            sizes.append(sizes[-1] * 10)
        return sizes

    @property
    def counted(self) -> int:
        return int(self.options.megabytes * 1e6)

    def counts(self, part: str, numbers: Sequence[int], each: Callable[[int], Compiled]) -> None:
        points: list[tuple[int, Compiled]] = []
        for number in numbers:
            done = each(number)
            more = {}
            if points:
                before, cost = points[-1][0], points[-1][1].cost
                more = {"ms each more": (done.cost.cpu - cost.cpu) / (number - before) * 1e3}
            self.row(part, f"{number:,} {part}", done, **more)
            points.append((number, done))
        self.growth(part, points[1:], points[0][1].cost.cpu)

    def growth(self, part: str, points: Sequence[tuple[int, Compiled]], constant: float) -> None:
        """A row with the exponents and how they stand to their bar. CPU seconds not above the constant count as a hundredth."""
        sizes = np.log([size for size, _ in points])
        seconds = np.log([max(done.cost.cpu - constant, 0.01) for _, done in points])
        if len(points) < 2:
            return
        fit = float(np.polyfit(sizes, seconds, 1)[0])
        last = float((seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
        figures = {"exponent": fit, "of the last two": last, "without": constant}
        self.say(part, "growth", bar=max(fit, last) <= STEEPEST, **figures)


PARTS: dict[str, Callable[[Bench], None]] = {
    "bytes": Bench.bytes,
    "files": Bench.files,
    "sources": Bench.sources,
    "stages": Bench.stages,
}


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _bytes(told: str) -> int:
    """1GB, 500 MB; millions and thousands of millions."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG])B", told)
    if found is None:
        raise argparse.ArgumentTypeError(f"{told} is no size, as 500MB and 10GB are")
    return int(float(found[1]) * (10**6 if found[2] == "M" else 10**9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all when none is named")
    parser.add_argument("--largest", type=_bytes, default=10**9)
    parser.add_argument("--megabytes", type=float, default=50, help="for the counts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="where documents, caches and builds go; a temporary one when absent"
    )
    parser.add_argument("--data", type=Path, help="folder that keeps the packages; a temporary one when absent")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    if not options.json:
        print(f"{versions()}; {options.workers} workers")
    with tempfile.TemporaryDirectory(prefix="mixc-growth-", dir=options.folder) as folder:
        bench = Bench(options, Path(folder))
        for name in options.parts or PARTS:
            PARTS[name](bench)
    if options.json:
        print(json.dumps({"versions": versions(), "workers": options.workers, "results": bench.rows}, indent=1))


if __name__ == "__main__":
    main()
