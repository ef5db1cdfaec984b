"""What it costs to load, export and average whole models: seconds, and memory.

    python benchmarks/whole_models.py FOLDER [--model sail-vl2-1b] [--precision bf16] [--runs 3]

Two models of random numbers are made in FOLDER, which must be new, and removed at the end; four times their size is needed there.
Each case is a process of its own. Seconds and memory are the work's, the least and the most of the runs: CPU seconds and the peak of
resident memory (file pages of mappings included) beside those of a process that imports only. Files come from the page cache where
that is large enough.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import msgspec
import torch
from process import Cost, measured

from runtime import weights
from runtime.model.sail_vl import PARTS, SailVL
from runtime.model.zoo import ARCHITECTURES
from runtime.safetensor import Stored
from shards.manifest import Geometry

_TIMED = """
import sys, time
from pathlib import Path
import torch
from runtime import export, generate, initial, soup
from runtime.model.sail_vl import SailVL
folder, precision = Path(sys.argv[1]), {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[2]]
def load(name):
    return generate.open_model(generate.identify(folder / name, None), folder / name, torch.device("cpu"), precision)
start = time.perf_counter()
%s
print(time.perf_counter() - start)
"""
CASES = {
    "imports alone": "pass",
    "random weights": "SailVL(generate.identify(folder / 'one', None), precision)",
    "load a stage's weights": "load('one')",
    "export them": "export.export(folder / 'one', folder / 'released', 'released')",
    "load the export": "load('released')",
    "load its parts, the projector random": (
        "made = initial.Initial(vision=folder / 'released', language=folder / 'released')\n"
        "initial.load(SailVL(generate.identify(folder / 'one', None), precision, initial.given(made)), made)"
    ),
    "average two": "soup.soup([folder / 'one', folder / 'two'], folder / 'soup')",
}
"""In an order in which each finds what it needs."""
_MAKES = {"export them": "released", "average two": "soup"}


def random_weights(folder: Path, model: str, precision: str, seed: int) -> int:
    """Weights as a stage of `model` leaves them. Returns their bytes."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    shape = ARCHITECTURES[model]
    own, shared = weights.tensors(SailVL(shape, dtype, given=PARTS))
    stored = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in own.items()}
    torch.manual_seed(seed)
    geometry = Geometry(
        name=model,
        tile_size=shape.vision.tile,
        tokens_per_tile=shape.tokens_per_tile,
        max_tiles=12,
        min_tiles=1,
        thumbnail=True,
        vocab_size=shape.language.vocab,
        image_start_id=151665,
        image_end_id=151666,
        image_context_id=151667,
        pad_id=151643,
    )
    about = {"model": model, "geometry": msgspec.to_builtins(geometry), "root": "0" * 64, "stage": "stage", "steps": 1}
    pieces = ((name, torch.randn(each.shape).to(each.dtype)) for name, each in stored.items())
    weights.write(folder, stored, pieces, **about, precision=precision, shared=shared)
    return sum(each.bytes for each in stored.values())


def run(folder: Path, what: str, precision: str) -> tuple[float, Cost]:
    if what in _MAKES:
        shutil.rmtree(folder / _MAKES[what], ignore_errors=True)
    cost = measured([sys.executable, "-c", _TIMED % CASES[what], folder, precision])
    return float(cost.output.split()[-1]), cost


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="sail-vl2-1b", choices=ARCHITECTURES)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir()
    try:
        for seed, name in enumerate(("one", "two"), 1):
            size = random_weights(folder / name, arguments.model, arguments.precision, seed)
        print(f"{arguments.model}, {arguments.precision}: {size / 2**20:,.0f} MiB")
        cpu = peak = 0.0
        for what in CASES:
            made = [run(folder, what, arguments.precision) for _ in range(arguments.runs)]
            costs = [cost for _, cost in made]
            if not cpu:
                cpu, peak = min(cost.cpu for cost in costs), max(cost.peak for cost in costs)
                print(f"{what:40} {cpu:7.1f} CPU-s {peak:9,.0f} MiB", flush=True)
                continue
            seconds, its_cpu = min(each for each, _ in made), min(cost.cpu for cost in costs) - cpu
            its_peak = max(cost.peak for cost in costs) - peak
            print(f"{what:40} {its_cpu:7.1f} CPU-s {its_peak:9,.0f} MiB {seconds:7.1f} s", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
