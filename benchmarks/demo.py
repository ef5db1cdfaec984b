"""The demo, timed as whole processes: compile with an empty cache, again with a full one, after a changed weight, verify,
diff.

    python benchmarks/demo.py [RUNS]

Prints the median of RUNS (3) in seconds, and the size of what was built.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SPEC, OTHER = REPO / "specs/demo.yaml", REPO / "specs/demo-b.yaml"


class Bench:
    def __init__(self, folder: Path, runs: int) -> None:
        self.folder, self.runs = folder, runs
        self.cache = folder / "cache"

    def mixc(self, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mixc", *map(str, arguments)],
            env={**os.environ, "MIXC_CACHE": str(self.cache), "PYTHONPATH": str(REPO)},
            stdout=subprocess.DEVNULL,
        )
        assert done.returncode in codes, done
        return time.perf_counter() - start

    def median(self, what: str, *arguments: str | Path, fresh: bool = False, codes: tuple[int, ...] = (0,)) -> None:
        seconds = []
        for _ in range(self.runs):
            shutil.rmtree(self.folder / "build", ignore_errors=True)
            if fresh:
                shutil.rmtree(self.cache / "objects", ignore_errors=True)
                shutil.rmtree(self.cache / "scan", ignore_errors=True)
            seconds.append(self.mixc(*arguments, codes=codes))
        print(f"{what:44} {statistics.median(seconds):6.2f} s", flush=True)

    def run(self) -> None:
        build, kept = self.folder / "build", self.folder / "kept"
        print(f"{'first compile, tokenizer made and proven':44} {self.mixc('compile', SPEC, '-o', kept):6.2f} s")
        for workers in ("1", "2"):
            self.median(
                f"compile, empty cache, {workers} workers", "compile", SPEC, "-o", build, "-j", workers, fresh=True
            )
        self.median("compile, full cache", "compile", SPEC, "-o", build)
        self.median("compile, full cache, one weight changed", "compile", OTHER, "-o", build)
        self.median("verify", "verify", kept)
        self.median("diff of a build and a spec", "diff", kept, OTHER, codes=(1,))
        self.median("diff of two specs", "diff", SPEC, OTHER, codes=(1,))
        manifest = json.loads((kept / "manifest.json").read_text())["manifest"]
        tokens = sum(stage["tokens"] for stage in manifest["stages"])
        stored = sum(shard["bytes"] for stage in manifest["stages"] for shard in stage["shards"])
        media = sum(shard["bytes"] for shard in manifest["media"]["shards"])
        print(f"{tokens:,} tokens in {stored:,} bytes of token shards; {media:,} bytes of media shards")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mixc-bench-") as folder:
        Bench(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 3).run()
