"""Text from token shards to tensors: how fast in order and at random, from when on, in how much memory; and peers on the same tokens.

    python benchmarks/loader.py FOLDER [--tokens FILE.npy] [--length 8192] [--packs 10000000] [--peer PYTHON | --no-peers]

The tokens are corpus.py's English documents in Qwen's vocabulary, strung together and cut into full packs; FOLDER keeps them,
and the packages that they come from. Or they are those of a .npy file, cut into documents of 800. All but a document's first
token is supervised. Everything is in the page cache. One process reads, decodes and makes tensors, and the seconds are its CPU
time, the least of three passes; single packs, start-up and workers are told in seconds of the clock.

Ours checks all that a loader checks when it trains: both checksums of every frame, the rules of a pack, ids against the model.
What a micro-batch holds is in runtime/batch.py: a row of int32 ids with its tables, as a loader process hands it over, and what
`expand` makes of it on the device that trains (here on the CPU; told apart): 44 bytes a token, against the 8 of the token ids
alone that the peers give. Their rows are of the same tokens, int32, not compressed, which is where they are fastest, and are
made int64 as an embedding takes them; none of them checks what it reads. They run in an environment of their own, made here
unless --peer names its Python.

For resuming, one shard stands in a build under many names, as hard links.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import torch
from corpus import english_tokens
from geometry import GEOMETRY

from runtime.loader import Division, Play, play
from shards.build import Build
from shards.digest import source_key
from shards.layout import MEDIA_INDEX, steps_name, token_shard_name
from shards.manifest import (
    FORMAT_VERSION,
    Manifest,
    MediaEntry,
    ShardEntry,
    SourceShare,
    StageEntry,
    TrainSettings,
    stage_digest,
    with_root,
    write_manifest,
)
from shards.media import MEDIA_DTYPE, write_media_index
from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE
from shards.packs import Packs
from shards.seekable import SeekableReader, checksum
from shards.steps import STEP_DTYPE, write_steps
from shards.tokens import write_token_shard

REPO = Path(__file__).resolve().parents[1]
PEERS = [
    "torch==2.13.0",
    "litdata==0.2.76",
    "mosaicml-streaming==0.13.0",
    "webdataset==1.0.2",
    "megatron-energon==7.4.1",
    "datasets==5.0.1",
]
STAGE, BATCH, SHARD = "text", 64, 4_000_000
LARGE = 32_000_000
"""Tokens of a shard as the compiler writes it, at most."""

RESUME = """
import json, sys, time
from pathlib import Path
from runtime.loader import Division, Play
from shards.build import Build
def memory():
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("Vm")}
path, batch, packs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
imported = memory()["VmRSS"]
times = [time.perf_counter()]
build = Build.open(path)                          # as the process that trains does,
times.append(time.perf_counter())
build.stage("text").steps[packs // batch - 1]
times.append(time.perf_counter())
data = Play(path, "text", Division(batch=batch, world=1, micro_batch=1), 0)
data[packs - 1]                                   # and its loader
times.append(time.perf_counter())
first = memory()["VmRSS"]
for i in range(0, packs, max(1, packs // 200)):   # 200 packs, of as many shards as there are
    data[i]
print(json.dumps([[b - a for a, b in zip(times, times[1:])], imported, first, memory()["VmRSS"]]))
"""

PEER = r"""
import contextlib, importlib.machinery, json, random, sys, time, types, warnings
from pathlib import Path
import numpy as np, torch
warnings.filterwarnings("ignore")
torch.set_num_threads(1)

def best(play):
    seconds = []
    for _ in range(3):
        start = time.process_time()
        tokens = sum(len(row) for row in play())
        seconds.append(time.process_time() - start)
    return tokens / min(seconds) / 1e6

def one(get, number):
    dice, seconds = random.Random(0), []
    for i in [dice.randrange(number) for _ in range(3000)]:
        start = time.perf_counter()
        get(i)
        seconds.append(time.perf_counter() - start)
    return (np.percentile(seconds, (50, 99)) * 1e6).tolist()

def litdata(rows, folder):
    from litdata import StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter
    length = rows.shape[1]
    writer = BinaryWriter(str(folder), chunk_size=1 << 22, item_loader=TokensLoader(block_size=length))
    for i, row in enumerate(rows):
        writer[i] = torch.from_numpy(row)
    writer.done()
    writer.merge()
    data = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=length), shuffle=False)
    assert data[1].tolist() == rows[1].tolist()
    return best(lambda: (row.long() for row in data)), one(lambda i: data[i].long(), len(rows))

class Absent(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

def streaming(rows, folder):
    for name in ("", ".transforms", ".transforms.functional", ".datasets"):  # torchvision does not load beside torch for CPUs
        stub = sys.modules["torchvision" + name] = Absent("torchvision" + name)
        stub.__spec__ = importlib.machinery.ModuleSpec(stub.__name__, None)
    from streaming import MDSWriter, StreamingDataset
    with MDSWriter(out=str(folder), columns={"tokens": "ndarray:int32"}) as writer:
        for row in rows:
            writer.write({"tokens": row})
    data = StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
    def ready(sample):
        return torch.from_numpy(sample["tokens"]).long()
    assert ready(data[1]).tolist() == rows[1].tolist()
    return best(lambda: map(ready, data)), one(lambda i: ready(data[i]), len(rows))

def webdataset(rows, folder):
    import webdataset
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=1024, verbose=0) as writer:
        for i, row in enumerate(rows):
            writer.write({"__key__": f"{i:08d}", "npy": row})
    data = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False).decode().to_tuple("npy")
    assert next(iter(data))[0].tolist() == rows[0].tolist()
    return best(lambda: (torch.from_numpy(row).long() for (row,) in data)), None

def energon(rows, folder):
    import webdataset
    from megatron.energon import Cooker, CrudeWebdataset, DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset, stateless
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=1024, verbose=0) as writer:
        for i, row in enumerate(rows):
            writer.write({"__key__": f"{i:08d}", "npy": row})
    tars = [path.name for path in sorted(folder.glob("*.tar"))]
    with contextlib.redirect_stdout(sys.stderr):
        BaseWebdatasetFactory.prepare_dataset(EPath(folder), tars, split_parts_ratio=[("train", 1.0)], workers=1, tar_index_only=False)
    (folder / ".nv-meta" / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
    @stateless
    def cook(sample):
        return sample
    class Encoder(DefaultTaskEncoder):
        cookers = [Cooker(cook)]
        @stateless
        def encode_sample(self, sample):
            return sample
        def batch(self, samples):
            return samples
        def encode_batch(self, batch):
            return batch
    data = get_train_dataset(str(folder), worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), batch_size=1,
        shuffle_buffer_size=None, max_samples_per_sequence=None, task_encoder=Encoder(), repeat=False)
    loader = get_loader(data)
    assert next(iter(loader))[0]["npy"].tolist() == rows[0].tolist()
    return best(lambda: (batch[0]["npy"].long() for batch in loader)), None

def datasets(rows, folder):
    import pyarrow
    from datasets import Dataset, disable_progress_bars, load_from_disk
    disable_progress_bars()
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), rows.shape[1])
    Dataset(pyarrow.table({"tokens": column})).save_to_disk(str(folder))
    data = load_from_disk(str(folder)).with_format("torch")  # int64
    assert data[1]["tokens"].tolist() == rows[1].tolist()
    return best(lambda: (row["tokens"] for row in data)), one(lambda i: data[i]["tokens"], len(rows))

rows, folder = np.load(sys.argv[1]), Path(sys.argv[2])
for run in (litdata, streaming, webdataset, energon, datasets):
    own = folder / run.__name__
    own.mkdir()
    speed, access = run(rows, own)
    size = sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
    print(json.dumps([run.__name__, speed, access, size / rows.size]), flush=True)
"""


def packed(ids: np.ndarray, starts: np.ndarray, length: int) -> Packs:
    """Full packs of `length`: documents strung together, cut where a pack is full."""
    number = len(ids) // length
    total = number * length
    first = np.union1d(starts[starts < total], np.arange(0, total, length))
    last = np.append(first[1:], total)
    segments = np.zeros(len(first), SEGMENT_DTYPE)
    segments["id"] = np.arange(2 * len(first)).astype("<u8").view("V16")
    segments["source"], segments["start"], segments["weight"] = source_key("english"), first % length, 1
    long = last - first > 1
    spans = np.zeros(int(long.sum()), SPAN_DTYPE)
    spans["start"] = first[long] % length + 1
    spans["end"] = spans["start"] + (last - first)[long] - 1
    ends = np.arange(1, number + 1) * length
    return Packs(
        tokens=ids[:total],
        segments=segments,
        spans=spans,
        images=np.zeros(0, IMAGE_DTYPE),
        token_ends=ends,
        segment_ends=np.searchsorted(first, ends),
        span_ends=np.searchsorted(first[long], ends),
        image_ends=np.zeros(number, np.int64),
    )


def write_shards(folder: Path, ids: np.ndarray, starts: np.ndarray, length: int, size: int) -> list[ShardEntry]:
    """Shards of `size` tokens."""
    entries = []
    size = size // length * length
    for number, at in enumerate(range(0, len(ids) // length * length, size)):
        own = starts[(starts >= at) & (starts < at + size)] - at
        packs = packed(ids[at : at + size], own, length)
        entries.append(write_token_shard(folder, token_shard_name(STAGE, number), packs)[0])
    return entries


def write_build(folder: Path, shards: list[ShardEntry], length: int) -> None:
    """What makes a build of `shards`, which lie in `folder`, less what does not fill a step."""
    packs = sum(shard.packs for shard in shards)
    batch = math.gcd(packs, BATCH)
    nothing = dict.fromkeys(("samples", "tokens", "supervised_tokens", "images", "tiles"), 0)
    share = SourceShare(wished=1.0, met=1.0, epochs=1.0, **nothing)
    settings = {"lr": {"language": 1e-5}, "schedule": "constant", "warmup_steps": 0, "min_lr_ratio": 0.0}
    settings |= {"weight_decay": 0.0, "betas": (0.9, 0.95), "eps": 1e-8, "clip": 1.0, "loss": "token"}
    stage = StageEntry(
        name=STAGE,
        batch=batch,
        sequence_length=length,
        max_tiles=0,
        steps=packs // batch,
        packs=packs,
        **nothing,
        unit="tokens",
        sources={"english": share},
        train=TrainSettings(**settings),
        digest=stage_digest([]),
        steps_file=steps_name(STAGE),
        steps_digest=write_steps(folder / steps_name(STAGE), np.zeros(packs // batch, STEP_DTYPE)),
        shards=shards,
    )
    index = write_media_index(folder / MEDIA_INDEX, np.zeros(0, MEDIA_DTYPE))
    manifest = Manifest(
        format=FORMAT_VERSION,
        mixture="bench",
        seed=0,
        root="",
        geometry=GEOMETRY,
        tokenizer="0" * 64,
        template="0" * 64,
        stages=[stage],
        media=MediaEntry(images=0, bytes=0, index=MEDIA_INDEX, index_file=index, shards=[]),
        files={},
    )
    write_manifest(folder, with_root(manifest))


def least(work: Callable[[], object]) -> float:
    """CPU seconds, of three times."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def exhaust(items: Iterable[object]) -> None:
    """One at a time, as training takes them."""
    for _ in items:
        pass


def in_order(path: Path) -> tuple[float, float]:
    """Mtok/s of micro-batches of one pack, and of packs alone."""
    build = Build.open(path)
    stage = build.stage(STAGE)
    entry = stage.entry
    length, packs = entry.sequence_length, entry.packs
    tokens = packs * length / 1e6
    readers = [SeekableReader(path / shard.name, seek_digest=shard.seek) for shard in entry.shards]
    frames = [(reader, frame) for reader in readers for frame in range(1, len(reader))]
    contents = [reader.frame(frame) for reader, frame in frames[:1000]]
    size = sum(shard.bytes for shard in entry.shards)
    print(
        f"{packs:,} packs of {length} tokens in {len(entry.shards)} shard(s), {size / tokens / 1e6:.3f} bytes a token"
    )
    summed = least(lambda: exhaust(map(checksum, contents))) / len(contents) * packs
    framed = least(lambda: exhaust(reader.frame(frame) for reader, frame in frames))
    read = least(lambda: exhaust(map(stage.read, range(packs))))
    print(f"packs alone: {tokens / read:.0f} Mtok/s")
    alone = tokens / read
    speeds = {}
    for micro in (1, 2, 4, 8):
        if entry.batch % micro:
            continue
        data = Play(path, STAGE, Division(batch=entry.batch, world=1, micro_batch=micro), 0)
        seconds = least(lambda: exhaust(data[i] for i in range(packs // micro)))  # noqa: B023
        speeds[micro] = tokens / seconds
        told = {
            "pread, inflate, zstd's checksum": framed - summed,
            "XXH64": summed,
            "lookup, rules": read - framed,
            "collate": seconds - read,
        }
        expanded = least(lambda: exhaust(data[i].row.expand() for i in range(packs // micro)))  # noqa: B023
        parts = ", ".join(f"{name} {part / packs * 1e6:.0f}" for name, part in told.items())
        print(
            f"micro-batches of {micro}: {tokens / seconds:.0f} Mtok/s; us a pack: {parts}; expanded, too, {tokens / expanded:.0f} Mtok/s"
        )
    for workers in (1, 2):
        data = Play(path, STAGE, Division(batch=entry.batch, world=1, micro_batch=1), 0)
        exhaust(play(data, range(1), workers=workers, device=torch.device("cpu")))
        start, cpu = time.perf_counter(), time.process_time()
        exhaust(play(data, range(entry.steps), workers=workers, device=torch.device("cpu")))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(
            f"{workers} worker(s), micro-batches of 1: {tokens / wall:.0f} Mtok/s by the clock; the process that trains is"
            f" busy {cpu / packs * 1e6:.0f} us a pack"
        )
    return speeds[1], alone


def at_random(path: Path) -> list[float]:
    """Microseconds of one pack, median and 99th percentile."""
    stage = Build.open(path).stage(STAGE)
    dice, seconds = random.Random(0), []
    exhaust(map(stage.pack, range(len(stage))))
    for i in [dice.randrange(len(stage)) for _ in range(3000)]:
        start = time.perf_counter()
        stage.pack(i)
        seconds.append(time.perf_counter() - start)
    found: list[float] = (np.percentile(seconds, (50, 99)) * 1e6).tolist()
    print(f"one pack at random: median {found[0]:.0f} us, 99th percentile {found[1]:.0f} us")
    return found


def resuming(work: Path, ids: np.ndarray, starts: np.ndarray, length: int, packs: int) -> None:
    copies = -(-LARGE // len(ids))
    ids, starts = np.tile(ids, copies)[:LARGE], np.concatenate([starts + n * len(ids) for n in range(copies)])
    one = work / "one"
    (entry,) = write_shards(one, ids, starts, length, LARGE)
    sizes = sorted({max(1, packs // by // entry.packs) for by in (1000, 100, 10, 1)})
    for number in sizes:
        path = work / f"long-{number}"
        shards = []
        for copy in range(number):
            name = token_shard_name(STAGE, copy)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(one / entry.name, path / name)
            shards.append(msgspec.structs.replace(entry, name=name))
        write_build(path, shards, length)
        stage = Build.open(path).stage(STAGE).entry
        command = [sys.executable, "-c", RESUME, str(path), str(stage.batch), str(stage.packs)]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
            for _ in range(3)
        ]
        seconds, imported, first, after = min(runs, key=lambda run: sum(run[0]))
        print(
            f"{stage.packs:,} packs in {number:,} shards, {(path / 'manifest.json').stat().st_size / 1e6:.1f} MB of manifest:"
            f" {sum(seconds):.3f} s to the last micro-batch"
            f" (opening {seconds[0]:.3f}, steps {seconds[1]:.3f}, a loader's opening and batch {seconds[2]:.3f});"
            f" memory {first - imported:.0f} MiB over the {imported:.0f} after imports,"
            f" {after - imported:.0f} after packs of {min(number, 200)} shards"
        )
        shutil.rmtree(path)
    shutil.rmtree(one)


def peers(work: Path, rows: np.ndarray, python: str | None, ours: tuple[float, float], access: list[float]) -> None:
    if python is None:
        subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
        python = str(work / "venv/bin/python")
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
    np.save(work / "rows.npy", rows)
    (work / "peers").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(work), "OMP_NUM_THREADS": "1"}
    command = [python, "-c", PEER, str(work / "rows.npy"), str(work / "peers")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("["):
            name, speed, theirs, size = json.loads(line)
            one = (
                f"; one row at random: median {theirs[0]:.0f} us, 99th percentile {theirs[1]:.0f} us" if theirs else ""
            )
            print(
                f"{name}: {speed:.0f} Mtok/s, {size:.3f} bytes a token{one}; ours / theirs:"
                f" {ours[0] / speed:.2f} with micro-batches of 1, {ours[1] / speed:.2f} with packs alone"
                + (f", {theirs[0] / access[0]:.2f} at random" if theirs else "")
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps the packages and their tokens; a place for builds meanwhile")
    parser.add_argument("--tokens", type=Path, help="a .npy of token ids, instead of the packages")
    parser.add_argument("--length", type=int, default=8192, help="tokens a pack")
    parser.add_argument("--packs", type=int, default=10_000_000, help="of the largest build to resume in")
    parser.add_argument("--peer", help="a Python that has " + ", ".join(PEERS))
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as a loader's worker does
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.tokens:
        ids = np.load(options.tokens).astype(np.int32)
        starts = np.arange(0, len(ids), 800)
    else:
        ids, starts = english_tokens(options.folder.absolute())
    whole = options.length * BATCH
    ids = ids[: max(whole, len(ids) // whole * whole)]  # whole steps
    starts = starts[starts < len(ids)]
    work = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        path = work / "build"
        write_build(path, write_shards(path, ids, starts, options.length, SHARD), options.length)
        ours = in_order(path)
        access = at_random(path)
        if not options.no_peers:
            rows = ids[: len(ids) // options.length * options.length].reshape(-1, options.length)
            peers(work, rows, options.peer, ours, access)
        resuming(work, ids, starts, options.length, options.packs)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
