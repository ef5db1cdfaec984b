"""How long `mixc explain` takes: lookups in the plan of many samples, and a text looked for in every pack.

    python benchmarks/explain.py plan 10000000 [--keep FOLDER]
    python benchmarks/explain.py text 100

`plan` plans as many synthetic samples as benchmarks/plan.py and puts the plan into a build without shards; `text` compiles as many
MB of documents, made of the demo's prose. Both are untimed. Then come the questions, each asked in this process, in seconds of the
clock and of the CPU; the peak of memory is this process's over all of them. Of a plan they are asked by the command, too: whole
processes, the least of three.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import zstandard
from corpus import enlarged, write_jsonl
from geometry import GEOMETRY
from plan import make_fragments, make_spec
from process import measured

from mixc.compile import compile_spec
from mixc.emit.lock import encode_lock, make_lock
from mixc.emit.run import train_settings
from mixc.plan.run import plan
from mixc.report.explain import explain_file, explain_pack, explain_row, explain_sample, explain_step
from mixc.report.search import find_text
from mixc.spec.canonical import canonical
from shards.manifest import Manifest, MediaEntry, ShardEntry, StageEntry, with_root, write_manifest

REPO = Path(__file__).resolve().parents[1]
NONE = "0" * 64
TEXT_SPEC = """
mixture: text
seed: 1
model: sail-vl-2b
sources: {prose: {path: text.jsonl, kind: text}}
stages:
  - {name: read, budget: 1 epoch, mix: [prose], sequence_length: 8192, train: {lr: {language: 1e-5}, batch: 64}}
"""


def timed(what: str, ask: Callable[[], object]) -> object:
    start, cpu = time.perf_counter(), time.process_time()
    answer = ask()
    print(f"{what}: {time.perf_counter() - start:.2f} s, {time.process_time() - cpu:.2f} CPU-s", flush=True)
    return answer


def peak() -> None:
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB")


def make_plan(folder: Path, samples: int) -> None:
    """A build of synthetic samples that has all but shards."""
    facts = folder / "facts"
    facts.mkdir(parents=True)
    fragments = make_fragments(facts, samples)
    spec = make_spec("100k")
    summary = plan(spec, fragments, geometry=GEOMETRY, out=folder / "build/plan", rejects={})
    pq.write_table(
        pq.ParquetFile(folder / "build/plan/drops.parquet").schema_arrow.empty_table().select(["source", "row"])
        .append_column("path", [[]]).append_column("reason", [[]]).append_column("detail", [[]]),
        folder / "build/rejects.parquet",
    )  # fmt: skip
    stages = [
        StageEntry(
            **{name: getattr(stage, name) for name in ("name", "batch", "sequence_length", "max_tiles", "steps", "packs", "samples",
               "tokens", "supervised_tokens", "images", "tiles", "unit")},
            sources={},
            train=train_settings(own, stage),
            digest=NONE,
            steps_file=f"tokens/{stage.name}/steps",
            steps_digest=NONE,
            shards=[ShardEntry(name=f"tokens/{stage.name}/0", packs=stage.packs, bytes=0, digest=NONE, seek=NONE, file=NONE)],
        )
        for own, stage in zip(spec.stages, summary.stages, strict=True)
    ]  # fmt: skip
    manifest = with_root(
        Manifest(
            format=2,
            mixture=spec.mixture,
            seed=spec.seed,
            root="",
            geometry=GEOMETRY,
            tokenizer=NONE,
            template=NONE,
            stages=stages,
            media=MediaEntry(images=0, bytes=0, index="media/index", index_file=NONE, shards=[]),
            files={},
        )
    )
    lock = make_lock(manifest, spec=canonical(spec), sources={}, fast_tokenizer=True)
    (folder / "build/mixture.lock").write_bytes(encode_lock(lock))
    write_manifest(folder / "build", manifest)


def ask_plan(build: Path) -> None:
    file = pq.ParquetFile(build / "plan/placements.parquet")
    print(
        f"{file.metadata.num_rows:,} placements, {pq.ParquetFile(build / 'plan/drops.parquet').metadata.num_rows:,} drops"
    )
    place = (
        file.read_row_group(file.num_row_groups // 2, columns=["stage", "step", "pack", "id"])
        .slice(1000, 1)
        .to_pylist()[0]
    )
    drop = pq.ParquetFile(build / "plan/drops.parquet").read_row_group(0, columns=["id"]).slice(10, 1).to_pylist()[0]
    stage = ("align", "pretrain", "sft")[place["stage"]]
    path = pq.read_table(build / "plan/fragments.parquet", columns=["path"])["path"][3].as_py()
    timed("a step", lambda: explain_step(build, stage, place["step"]))
    timed("a pack", lambda: explain_pack(build, stage, place["pack"]))
    timed("a sample that is used", lambda: explain_sample(build, place["id"].hex))
    timed("its first 12 digits", lambda: explain_sample(build, place["id"].hex[:12]))
    timed("a sample that was dropped", lambda: explain_sample(build, drop["id"].hex))
    timed("a file of 50,000 samples, 20 rows", lambda: explain_file(build, path, limit=20))
    timed("a row of it", lambda: explain_row(build, path, 30_000))
    peak()
    questions = {
        "a step": ["--stage", stage, "--step", place["step"]],
        "a pack": ["--stage", stage, "--pack", place["pack"]],
        "a sample": ["--sample", place["id"].hex],
        "a file": ["--file", path],
        "a row": ["--file", path, "--row", 30_000],
    }
    for what, options in questions.items():
        costs = [measured([sys.executable, "-m", "mixc", "explain", build, *map(str, options)]) for _ in range(3)]
        wall, cpu, memory = (min(getattr(cost, name) for cost in costs) for name in ("wall", "cpu", "peak"))
        print(f"mixc explain, {what}: {wall:.2f} s, {cpu:.2f} CPU-s, peak {memory / 1024:.2f} GiB", flush=True)


def ask_text(folder: Path, megabytes: float) -> None:
    data = (
        zstandard.ZstdDecompressor()
        .stream_reader((REPO / "specs/demo/data/prose/python.jsonl.zst").read_bytes())
        .read()
    )
    texts = [json.loads(line)["text"] for line in data.splitlines()]
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "text.jsonl", enlarged(texts, megabytes * 1e6, seed=1))
    (folder / "text.yaml").write_text(TEXT_SPEC)
    compiled = compile_spec(folder / "text.yaml", folder / "build")
    tokens = compiled.manifest.stages[0].tokens
    print(f"{tokens:,} tokens in {compiled.manifest.stages[0].packs:,} packs")
    line = (folder / "text.jsonl").read_text().splitlines()[7]
    for workers in (1, len(os.sched_getaffinity(0))):
        fragment = json.loads(line)["text"][50:150]
        start = time.perf_counter()
        timed(f"a text, {workers} threads", lambda: find_text(folder / "build", fragment, limit=20, workers=workers))  # noqa: B023
        print(f"  {tokens / (time.perf_counter() - start) / 1e6:.0f} million tokens a second of the clock")
    peak()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["plan", "text"])
    parser.add_argument("size", type=float, nargs="?", default=100)
    parser.add_argument("--keep", type=Path, help="folder to keep the build in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "explain"
        if arguments.what == "plan":
            if not (folder / "build/manifest.json").exists():
                maker = multiprocessing.get_context("spawn").Process(
                    target=make_plan, args=(folder, int(arguments.size))
                )
                maker.start()  # so that its memory is not counted
                maker.join()
            ask_plan(folder / "build")
        else:
            ask_text(folder, arguments.size)


if __name__ == "__main__":
    main()
