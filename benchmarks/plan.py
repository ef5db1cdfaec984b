"""How long a plan takes: synthetic facts of N samples with a realistic skew, planned through the real plan
pass.

    python benchmarks/plan.py 1000000 [--threads 2] [--memory 4GB] [--window 100k] [--facts FOLDER]

Six sources, as a SAIL-VL mixture has them: captions (short text, one image, many tiles), pages (OCR), chat
(several turns), prose (log-normal lengths with a heavy tail, split), a small source that repeats, and one
that thresholds cut hard. 1 % of the samples are exact duplicates. Three stages: alignment, a second epoch of
other shares, and an ordered curriculum. Prints the seconds and the process's peak memory; facts are written
first, untimed, by a process of their own: to a temporary folder, or to FOLDER, where a later run finds them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from geometry import GEOMETRY

from mixc.measure.facts import FACTS_SCHEMA
from mixc.plan.keys import join_ids
from mixc.plan.load import PlannedFragment
from mixc.plan.run import plan
from mixc.spec.schema import Dedup, MixEntry, Order, Source, Spec, Stage, Train

SHARES = {"captions": 0.4, "pages": 0.15, "chat": 0.2, "prose": 0.2, "small": 0.01, "noisy": 0.04}
FRAGMENT_ROWS = 50_000


def facts(source: str, rows: int, generator: np.random.Generator) -> pa.Table:
    """One fragment's facts."""

    def lengths(median: float, spread: float, most: int) -> np.ndarray:
        return np.clip(generator.lognormal(np.log(median), spread, rows).astype(np.int64), 8, most)

    tiles = np.zeros(rows, np.int64)
    if source == "prose":
        text = lengths(700, 1.1, 200_000)
        supervised = text - 1
    else:
        text = {
            "captions": lengths(90, 0.5, 400),
            "pages": lengths(600, 0.8, 6_000),
            "chat": lengths(350, 0.9, 6_000),
            "small": lengths(200, 0.6, 2_000),
            "noisy": lengths(60, 0.7, 600),
        }[source]
        tiles = generator.choice([1, 3, 5, 7, 9, 10, 13], rows, p=[0.15, 0.15, 0.25, 0.2, 0.1, 0.05, 0.1])
        if source == "chat":
            tiles *= generator.random(rows) < 0.8
        supervised = np.maximum(1, text // 2)
    images = (tiles > 0).astype(np.int64)
    ids = generator.integers(0, 2**64, (2, rows), dtype=np.uint64)
    twins = generator.integers(0, rows, rows // 100)  # 1 % equal in id, content and counts to another row
    first = generator.integers(0, rows, rows // 100)
    ids[:, twins] = ids[:, first]
    columns = {
        "id": join_ids(*ids),
        "content": join_ids(ids[1], ids[0]),
        "tokens": text + 256 * tiles + 2 * images,
        "supervised_tokens": supervised,
        "images": images,
        "tiles": tiles,
        "turns": np.full(rows, 2),
        "characters": text * 4,
        "width": images * 1024,
        "height": images * 768,
        "image_bytes": images * 90_000,
    }
    for name in ("tokens", "supervised_tokens", "images", "tiles", "characters"):
        columns[name][twins] = columns[name][first]
    arrays = []
    for field in FACTS_SCHEMA:
        if field.type == pa.uuid():
            buffer = pa.py_buffer(columns[field.name])
            storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, buffer])
            arrays.append(pa.ExtensionArray.from_storage(pa.uuid(), storage))
        elif field.name in ("row", "offset"):
            arrays.append(pa.array(np.arange(rows), field.type))
        elif field.name == "columns":
            arrays.append(pa.array(generator.integers(0, 2**64, rows, dtype=np.uint64)))
        else:
            arrays.append(pa.array(columns.get(field.name, np.full(rows, 100)), field.type))
    table = pa.Table.from_arrays(arrays, schema=FACTS_SCHEMA)
    table = table.append_column("col:complexity", pa.array(generator.normal(2.5, 1, rows)))
    return table.append_column("col:quality", pa.array(generator.random(rows)))


def make_fragments(folder: Path, samples: int) -> list[PlannedFragment]:
    """Facts of `samples` samples in `folder`, written unless they are there."""
    fragments = []
    for source, share in SHARES.items():
        left = max(100, int(samples * share))
        while left:
            rows = min(left, FRAGMENT_ROWS)
            left -= rows
            name = f"{source}-{len(fragments):05d}"
            path = folder / f"{name}.parquet"
            if not path.exists():
                table = facts(source, rows, np.random.default_rng([1, len(fragments)]))
                pq.write_table(table, path.with_suffix(".partial"))
                path.with_suffix(".partial").rename(path)
            fragments.append(
                PlannedFragment(source=source, path=name, digest=name, object=name, facts=path, samples=rows, rejects=0)
            )
    return fragments


def make_spec(window: str) -> Spec:
    train = Train(lr={"language": 1e-5}, batch=512)
    kinds = {
        "captions": "caption",
        "pages": "ocr",
        "chat": "chat",
        "prose": "text",
        "small": "chat",
        "noisy": "caption",
    }
    return Spec(
        mixture="benchmark",
        seed=20250110,
        model="sail-vl-2b",
        sources={
            name: Source(path="*", kind=kind, where="quality > 0.7" if name == "noisy" else None)
            for name, kind in kinds.items()
        },
        dedup=Dedup(exact=True),
        stages=[
            Stage(
                name="align",
                budget="0.5 epochs",
                mix={"captions": 0.7, "pages": 0.25, "noisy": 0.05},
                on_exhausted="renormalise",
                sequence_length=8192,
                train=train,
                order=Order(window=window),
            ),
            Stage(
                name="pretrain",
                budget="0.8 epochs",
                mix=["captions", "pages", "prose"],
                sequence_length=8192,
                train=train,
                order=Order(window=window),
                reuse=True,
            ),
            Stage(
                name="sft",
                budget="1 epoch",
                mix={
                    "chat": MixEntry(weight=0.8, where="complexity < 4", max_epochs=2),
                    "small": MixEntry(weight=0.1, max_epochs=20),
                    "prose": MixEntry(weight=0.1),
                },
                on_exhausted="renormalise",
                sequence_length=16384,
                max_tiles=40,
                order=Order(by="complexity", window="10k"),
                reuse=True,
                train=Train(lr={"language": 1e-5}, batch=512, loss="square"),
            ),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=int, nargs="?", default=100_000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", help="DuckDB's memory limit, as 4GB")
    parser.add_argument("--window", default="100k")
    parser.add_argument("--facts", type=Path, help="folder to keep the facts in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.facts or Path(folder) / "facts"
        place.mkdir(parents=True, exist_ok=True)
        maker = multiprocessing.get_context("spawn").Process(target=make_fragments, args=(place, arguments.samples))
        maker.start()  # so that its memory is not counted
        maker.join()
        fragments = make_fragments(place, arguments.samples)
        start, cpu = time.perf_counter(), time.process_time()
        summary = plan(
            make_spec(arguments.window),
            fragments,
            geometry=GEOMETRY,
            out=Path(folder) / "plan",
            rejects={},
            threads=arguments.threads,
            memory_limit=arguments.memory,
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        written = sum(path.stat().st_size for path in (Path(folder) / "plan").iterdir())
    placed = sum(stage.samples for stage in summary.stages)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    rows = sum(fragment.samples for fragment in fragments)
    print(
        f"{rows:,} samples, {placed:,} placements: {seconds:.1f} s ({cpu:.1f} CPU-s), peak {peak:.2f} GiB,"
        f" {written / 2**20:,.0f} MiB written"
    )
    for stage in summary.stages:
        print(f"  {stage.name}: {stage.packs:,} packs, fill {stage.fill:.4%}, rank skew {stage.rank_skew:.3f}")


if __name__ == "__main__":
    main()
