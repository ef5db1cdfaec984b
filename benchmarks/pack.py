"""How fast and how full windows are packed, how evenly steps are divided, and what a placement costs to write.

    python benchmarks/pack.py [--windows 10000,100000,1000000]

Samples as a SAIL-VL mixture has them: an image of 1 to 13 tiles (4.2 in the mean) with text of log-normal length,
1,350 tokens in the mean; `mixed` has one text in five samples besides, cut into pieces of 8,192 tokens. One thread.
Compiling is timed apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mixc.plan import balance_ranks, pack_kernel, tables
from mixc.plan.balance_ranks import balanced_order, rank_skews, world_sizes
from mixc.plan.cost import SAIL_VL_2B
from mixc.plan.layout import Layout
from mixc.plan.order import SEGMENT
from mixc.plan.pack import lower_bound, pack
from mixc.plan.select import StageRules
from mixc.plan.write import TableWriter
from mixc.spec.schema import Stage, Train

LENGTH = 8192
TILES = [1, 2, 3, 4, 5, 7, 9, 10, 13]
SHARES = [0.25, 0.13, 0.15, 0.1, 0.13, 0.1, 0.05, 0.04, 0.05]
KERNELS = (pack_kernel.tokens_first, pack_kernel.tiles_first, balance_ranks._balance)


def images(number: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and tiles int64 [number]."""
    random = np.random.default_rng(seed)
    tiles = random.choice(TILES, number, p=SHARES)
    return np.clip(random.lognormal(5.3, 0.8, number).astype(np.int64), 8, 4000) + 256 * tiles + 2, tiles


def mixed(number: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    tokens, tiles = images(number, seed)
    prose = random.random(number) < 0.2
    text = np.clip(random.lognormal(np.log(700), 1.1, number).astype(np.int64), 8, 200_000)
    pieces = np.where(prose, -(-text // LENGTH), 1)
    last = np.cumsum(pieces) - 1
    tokens, tiles = np.where(prose, text, tokens), np.where(prose, 0, tiles)
    cut, of = np.full(last[-1] + 1, LENGTH), np.repeat(np.arange(number), pieces)
    cut[last] = tokens - (pieces - 1) * LENGTH
    return cut[:number], tiles[of][:number]


def best(call: Callable[[], object], times: int = 3) -> float:
    """Least seconds of several calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def start_up() -> None:
    tokens, tiles = images(5000)
    for name, max_tiles in (("tokens first", 32), ("tiles first", 16)):
        seconds = best(lambda: pack(tokens, tiles, max_tokens=LENGTH, max_tiles=max_tiles), 1)  # noqa: B023
        print(f"plain Python, {name}: {seconds / len(tokens) * 1e6:.1f} us a sample")
    for kernel in KERNELS:
        kernel.plain = -1
    start = time.perf_counter()
    for max_tiles in (32, 16):
        pack(tokens[:10], tiles[:10], max_tokens=LENGTH, max_tiles=max_tiles)
    balanced_order(np.arange(4, 0, -1), batch=4)
    print(f"numba imported, all kernels compiled or loaded: {time.perf_counter() - start:.2f} s\n")


def packing(windows: list[int]) -> None:
    print("mixture  window     tokens  tiles  tiles/tokens needed  of the lower bound  samples/s")
    for window in windows:
        for name, make in (("images", images), ("mixed", mixed)):
            tokens, tiles = make(window)
            for max_tokens, max_tiles in ((LENGTH, 32), (LENGTH, 24), (LENGTH, 20), (LENGTH, 16), (4 * LENGTH, 128)):
                limits = {"max_tokens": max_tokens, "max_tiles": max_tiles}
                seconds = best(lambda: pack(tokens, tiles, **limits))  # noqa: B023
                packs = pack(tokens, tiles, **limits)
                assert np.bincount(packs, tokens).max() <= max_tokens
                assert np.bincount(packs, tiles).max() <= max_tiles
                needed = tiles.sum() * max_tokens / (tokens.sum() * max_tiles)
                full = lower_bound(tokens, tiles, **limits) / (packs.max() + 1)
                print(
                    f"{name:8} {window:<9,} {max_tokens:>7,} {max_tiles:>6} {needed:>20.2f} {full:>19.2%}"
                    f" {window / seconds / 1e6:>9.2f} M"
                )
    print()


def costs_of_packs(tokens: np.ndarray, tiles: np.ndarray, max_tiles: int) -> np.ndarray:
    packs = pack(tokens, tiles, max_tokens=LENGTH, max_tiles=max_tiles)
    columns = (np.bincount(packs, values).astype(np.int64) for values in (tokens, tiles, tokens * tokens))
    return np.random.default_rng(1).permutation(SAIL_VL_2B.of(*columns))


def division(window: int) -> None:
    print(f"(busiest - idlest rank) / mean over the steps of one window of {window:,} samples; mean and largest")
    for name, make in (("images", images), ("mixed", mixed)):
        for max_tiles in (32, 16):
            costs = costs_of_packs(*make(window), max_tiles)
            for batch in (512, 480, 384, 256, 96, 64):
                steps = costs[: len(costs) // batch * batch].reshape(-1, batch)
                heaviest = -np.sort(-steps, axis=1).reshape(-1)
                start = time.perf_counter()
                ordered = heaviest[balanced_order(heaviest, batch=batch)]
                seconds = (time.perf_counter() - start) / len(steps)
                alike = -np.sort(-costs)[: steps.size]
                print(
                    f"{name}, {max_tiles} tiles, batch {batch}: {seconds * 1e3:.2f} ms a step; worst of all world sizes"
                    f" {_told(rank_skews(ordered, batch=batch))}; only sorted"
                    f" {_told(rank_skews(heaviest, batch=batch))}; steps of like packs"
                    f" {_told(rank_skews(alike[balanced_order(alike, batch=batch)], batch=batch))}"
                )
                by_world = []
                for world in world_sizes(batch):
                    work_SW = ordered.reshape(len(steps), -1, world).sum(axis=1)
                    skews = (work_SW.max(axis=1) - work_SW.min(axis=1)) / work_SW.mean(axis=1)
                    by_world.append(f"{world}: {_told(skews)}")
                print("   " + ", ".join(by_world))
    print()


def _told(skews: np.ndarray) -> str:
    return f"{skews.mean():.2%}/{skews.max():.2%}"


def segments(number: int, seed: int) -> np.ndarray:
    """SEGMENT [number] with all that a plan writes; ids, and rows within fragments, at random."""
    random = np.random.default_rng(seed)
    found = np.zeros(number, SEGMENT)
    for name in ("hi", "lo", "chi", "clo"):
        found[name] = random.integers(0, 2**64, number, dtype=np.uint64)
    found["tokens"], found["tiles"] = images(number, seed)
    found["piece_end"] = found["tokens"]
    found["supervised"] = np.maximum(1, (found["tokens"] - 256 * found["tiles"]) // 2)
    found["row"], found["fragment"] = random.integers(0, 50_000, number), random.integers(0, 2000, number)
    found["start"], found["length"] = found["row"] * 3000, random.integers(300, 4000, number)
    found["images"], found["source"] = 1, random.integers(0, 40, number)
    return found


def layout(window: int) -> None:
    windows = [segments(window, seed) for seed in range(8)]
    placed = sum(map(len, windows))
    for loss in ("token", "square"):
        train = Train(lr={"language": 1e-5}, batch=512, loss=loss)
        stage = Stage(name="s", budget=1, mix=["a"], sequence_length=LENGTH, train=train)
        with tempfile.TemporaryDirectory() as folder:
            places, packs = Path(folder) / "placements.parquet", Path(folder) / "packs.parquet"
            start, cpu = time.perf_counter(), time.process_time()
            with (
                TableWriter(places, tables.PLACEMENTS_SCHEMA, sorted_by=["stage", "step", "pack"]) as place_writer,
                TableWriter(packs, tables.PACKS_SCHEMA, sorted_by=["stage", "step", "pack"]) as pack_writer,
            ):
                found = Layout(
                    number=0,
                    stage=stage,
                    rules=StageRules(number=0, name="s", sequence_length=LENGTH, max_tiles=32, splits={}),
                    names=[f"source-{i}" for i in range(40)],
                    places=place_writer,
                    packs=pack_writer,
                )
                for each in windows:
                    found.add(each, seed=1)
                found.finish()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            print(
                f"layout, loss {loss}, windows of {window:,}: {seconds / placed * 1e6:.2f} us a placement"
                f" ({cpu / placed * 1e6:.2f} us of processor); {places.stat().st_size / placed:.1f} +"
                f" {packs.stat().st_size / placed:.1f} bytes; rank skew {found.rank_skew:.2%}, at most"
                f" {found.rank_skew_max:.2%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", default="10000,100000,1000000", help="samples a window, with commas between")
    arguments = parser.parse_args()
    start_up()
    packing([int(window) for window in arguments.windows.split(",")])
    division(100_000)
    layout(100_000)


if __name__ == "__main__":
    main()
