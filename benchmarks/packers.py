"""Our packing, TRL's and ms-swift's on the same lengths: how full, how fast, what they cut, and whether row order shows.

    python benchmarks/packers.py [--samples 1000000] [--trl-samples 200000] [--peer PYTHON] [--folder FOLDER]

Lengths are those of pack.py: `images`, and `mixed` with prose among them, which our plan has cut into pieces of at most 8,192
tokens; here a piece is a sample to everybody. Packs have 8,192 tokens.

mixc        order by keyed ids, windows of 100,000 (the default) or 1,000, packs: what a plan does with a stage. Under a limit
            of tokens alone, as the others have, and with one of 28 tiles beside it
TRL         `trl.data_utils.pack_dataset`: "bfd" in batches of 1,000, its default, and of 100,000; "wrapped". It moves the
            tokens with the samples, int32 in memory; "wrapped", which has nothing to decide, shows what that costs
ms-swift    `PackingDataset.create_packed_idx`, the work of one packing process, without the queue between processes: "binpack",
            its default, by `binpacking.to_constant_volume` a thousand at a time; and "sequential"

Each row is one core's CPU seconds, the least of --runs, data in memory, everything imported and compiled before. Cut are
samples that lie in more than one pack. `same` is the part of the packs that come out of the same samples in another row order,
too. Over are packs with more tiles than that: a vision batch of that size could not take them.

The peers run in an environment of their own, made here unless --peer names a Python that has them. ms-swift asks for another TRL
and for some forty packages; it is installed without them, beside what its packing module imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from compiling import versions
from pack import LENGTH, images, mixed

from mixc.hashing import mix64
from mixc.plan.keys import key64, make_key
from mixc.plan.pack import pack
from mixc.sorting import total_order

TILES = 28
WINDOW = 100_000
PEERS = (
    ["torch==2.13.0"],
    ["trl==1.16.0", "binpacking==2.0.1", "pillow", "modelscope", "peft", "json-repair", "aiohttp"],
)
WITHOUT_DEPENDENCIES = ["ms-swift==4.6.0"]

PEER = """
import json, sys, time
from importlib.metadata import version
import datasets, numpy as np, pyarrow as pa
from swift.dataset.packing import PackingDataset
from trl.data_utils import pack_dataset

datasets.disable_progress_bars()
job = json.loads(sys.argv[1])
found = np.load(job["lengths"])
lengths, ids, length = found["lengths"], found["ids"], job["length"]


class Kept(list):
    put = list.append


def swift(strategy):
    out, rows = Kept(), lengths.tolist()
    start = time.process_time()
    PackingDataset.create_packed_idx(0, 0, rows, out, length, strategy)
    seconds = time.process_time() - start
    packs = [pack for _, some, _ in out for pack in some]
    rows = np.array([row for pack in packs for row, _ in pack])
    return seconds, (ids[rows], np.repeat(np.arange(len(packs)), [len(pack) for pack in packs]), lengths[rows])


def trl(strategy, batch):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(offsets, np.repeat(ids.astype(np.int32), lengths))
    rows = datasets.Dataset(pa.table({"input_ids": tokens}))
    start = time.process_time()
    done = pack_dataset(rows, length, strategy, {"batch_size": batch})
    seconds = time.process_time() - start
    del rows, tokens
    pieces, number = [], 0
    for chunk in done.data.column("input_ids").chunks:
        values = chunk.flatten().to_numpy()
        bounds = chunk.offsets.to_numpy() - chunk.offsets[0].as_py()
        starts = np.union1d(np.flatnonzero(np.diff(values)) + 1, bounds[:-1])
        packs = np.searchsorted(bounds, starts, side="right") - 1 + number
        pieces.append((values[starts], packs, np.diff(np.append(starts, len(values)))))
        number += len(chunk)
    return seconds, [np.concatenate(each) for each in zip(*pieces)]


seconds, pieces = min((globals()[job["packer"]](*job["arguments"]) for _ in range(job["runs"])), key=lambda run: run[0])
np.savez(job["out"], pieces=np.stack(pieces).astype(np.int64))
names = ("trl", "datasets", "ms-swift", "binpacking", "torch")
print(json.dumps({"seconds": seconds, "versions": {name: version(name) for name in names}}))
"""


@dataclass(frozen=True)
class Samples:
    tokens: np.ndarray
    tiles: np.ndarray
    ids: np.ndarray
    """int64 [N]: which of the samples as they were made stands here."""

    def taken(self, rows: np.ndarray | slice) -> Samples:
        return Samples(self.tokens[rows], self.tiles[rows], self.ids[rows])


@dataclass(frozen=True)
class Packed:
    seconds: float
    pieces: np.ndarray
    """int64 [3, M]: of each piece of a sample that lies in a pack, the sample's id, the pack, and how many tokens."""

    @property
    def packs(self) -> int:
        return int(self.pieces[1].max()) + 1

    @property
    def fill(self) -> float:
        return self.pieces[2].sum() / (self.packs * LENGTH)

    @property
    def cut(self) -> int:
        """Samples in more than one pack, or not whole."""
        return int((np.bincount(self.pieces[0]) > 1).sum())

    def over(self, samples: Samples) -> int:
        """Packs with more than TILES tiles."""
        tiles = np.zeros(samples.ids.max() + 1)
        tiles[samples.ids] = samples.tiles
        return int((np.bincount(self.pieces[1], tiles[self.pieces[0]]) > TILES).sum())

    def names(self) -> np.ndarray:
        """uint64 [packs]: a hash of what is in each, whatever the order."""
        ids, packs, tokens = self.pieces.astype(np.uint64)
        of_pieces = mix64(mix64(ids) ^ tokens)
        names = np.zeros(self.packs, np.uint64)
        np.add.at(names, packs.astype(np.int64), of_pieces)
        return names


Packer = Callable[[Samples], Packed]


def ours(window: int, *, with_tiles: bool, runs: int) -> Packer:
    def packed(samples: Samples) -> Packed:
        return min((once(samples) for _ in range(runs)), key=lambda run: run.seconds)

    def once(samples: Samples) -> Packed:
        hi, lo = (mix64(samples.ids.astype(np.uint64) + np.uint64(salt)) for salt in (1 << 40, 1 << 41))
        tiles = samples.tiles if with_tiles else np.zeros_like(samples.tiles)
        start = time.process_time()
        order = total_order([key64(make_key(1, "order", "stage", 0), hi, lo), hi, lo])
        numbers, opened = np.empty(len(order), np.int64), 0
        for at in range(0, len(order), window):
            rows = order[at : at + window]
            found = pack(samples.tokens[rows], tiles[rows], max_tokens=LENGTH, max_tiles=TILES if with_tiles else 0)
            numbers[rows] = found + opened
            opened += int(found.max()) + 1
        return Packed(time.process_time() - start, np.stack([samples.ids, numbers, samples.tokens]))

    return packed


class Peers:
    def __init__(self, python: str | None, folder: Path, runs: int) -> None:
        self.folder, self.runs = folder, runs
        self.python = python or self.install()
        self.versions: dict[str, str] = {}

    def install(self) -> str:
        subprocess.run([sys.executable, "-m", "venv", str(self.folder / "peers")], check=True)
        python = str(self.folder / "peers/bin/python")
        # torch first and by its version: TRL alone lets pip take a CUDA build of several GB
        for packages in (*PEERS, ["--no-deps", *WITHOUT_DEPENDENCIES]):
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, stderr=subprocess.DEVNULL)
        return python

    def packer(self, name: str, *arguments: object) -> Packer:
        def packed(samples: Samples) -> Packed:
            lengths, out = self.folder / "lengths.npz", self.folder / "pieces.npz"
            np.savez(lengths, lengths=samples.tokens, ids=samples.ids)
            job = {"lengths": str(lengths), "out": str(out), "length": LENGTH, "runs": self.runs}
            job |= {"packer": name, "arguments": arguments}
            own = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
            command = [self.python, "-c", PEER, json.dumps(job)]
            done = subprocess.run(command, env=own, cwd=self.folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            told = json.loads(done.stdout.splitlines()[-1])
            self.versions = told["versions"]
            return Packed(told["seconds"], np.load(out)["pieces"])

        return packed


def packers(options: argparse.Namespace, peers: Peers) -> Iterator[tuple[str, int, Packer]]:
    """Name, how many samples, packer; ours in the default window first."""
    all_, fewer = options.samples, min(options.samples, options.trl_samples)
    for window in (WINDOW, 1000):
        for with_tiles in (False, True):
            name = f"mixc, windows of {window:,}{f', {TILES} tiles' if with_tiles else ''}"
            yield name, all_, ours(window, with_tiles=with_tiles, runs=options.runs)
    for strategy, batch in (("bfd", 1000), ("bfd", WINDOW), ("wrapped", 1000)):
        yield f"TRL {strategy}, batches of {batch:,}", fewer, peers.packer("trl", strategy, batch)
    for strategy in ("binpack", "sequential"):
        yield f"ms-swift {strategy}", all_, peers.packer("swift", strategy)


def compared(samples: Samples, options: argparse.Namespace, peers: Peers) -> None:
    first = None
    print(f"{'':34} {'samples':>9} {'fill':>8} {'cut':>8} {'over':>6} {'CPU-s a million':>16} {'ratio':>7} {'same':>7}")
    for name, number, packer in packers(options, peers):
        some = samples.taken(slice(number))
        done = packer(some)
        other = packer(some.taken(np.random.default_rng(5).permutation(len(some.ids))))
        assert done.pieces[2].sum() == some.tokens.sum(), f"{name} lost tokens"
        rate = min(done.seconds, other.seconds) / len(some.ids) * 1e6
        first = first or rate
        over = "-" if done.cut else f"{done.over(some) / done.packs:.1%}"
        same = np.isin(done.names(), other.names()).mean()
        print(
            f"{name:34} {len(some.ids):>9,} {done.fill:>8.3%} {done.cut:>8,} {over:>6} {rate:>16.2f}"
            f" {rate / first:>7.1f} {same:>7.1%}",
            flush=True,
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--trl-samples", type=int, default=200_000, help="4 bytes a token, three times in memory")
    parser.add_argument("--peer", help="a Python that has the peers")
    parser.add_argument("--folder", type=Path, help="for the environment and what the peers read and write")
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mixc-packers-", dir=options.folder) as folder:
        peers = Peers(options.peer, Path(folder), options.runs)
        for window, with_tiles in ((WINDOW, False), (WINDOW, True)):  # compiles the kernels
            ours(window, with_tiles=with_tiles, runs=1)(Samples(*images(WINDOW), np.arange(WINDOW)))
        for name, make in (("images", images), ("mixed", mixed)):
            tokens, tiles = make(options.samples)
            print(f"{name}: {tokens.mean():,.0f} tokens and {tiles.mean():.1f} tiles in the mean")
            compared(Samples(tokens, tiles, np.arange(options.samples)), options, peers)
        print(versions(("numpy", "numba")) + ", " + ", ".join(f"{name} {v}" for name, v in peers.versions.items()))


if __name__ == "__main__":
    main()
