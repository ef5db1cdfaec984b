"""Training steps on one GPU: tokens a second, MFU, waits and memory, against padded batches and a dense block mask.

    PYTHONPATH=. python benchmarks/train_gpu.py FOLDER [--model sail-vl2-2b] [--lengths 8192,16384] [--build BUILD] [--device cpu]

The model has random weights; what a step costs does not depend on them. Its packs are those of BUILD, compiled by `mixc compile`
for the model, or of a build of images and text that is made in FOLDER (benchmarks/mixed.py), with a stage for each length. Each
case runs in a process of its own, so that one that does not fit in memory ends no other, on the same packs in the same order, a
pack at a time, by the very step that `mixc train` makes (benchmarks/padded.py has the other models):

* by the name of a backend for attention over packed rows (runtime/attention.py), if it is installed: what mixc does. Training takes
  the first that is;
* `dense mask`: the same rows, with one block-diagonal causal mask of T x T for torch's SDPA;
* `padded`: every sample a row of its own, as long as the pack's longest, right-padded. Causal attention needs no mask for that, so
  it gets the fastest kernel that SDPA has.

All compute the same loss, which is printed, and the same FLOPs count for all of them: those of the model, not those that padding
or masks add (runtime/flops.py). Told are medians over the steps after `--warmup`. MFU is of whole steps, waits and optimizer
included; that of the vision tower (with its projector) and of the language model (with its head) are of the time that each takes,
by events on the device. `unused` is the share of positions without a token.

With --compile the layers of all cases are compiled, as by `mixc train --compile`, attention left out in each; give enough --warmup that
every kind of pack has occurred, as compiling is part of the step that needs it.

Without --recompute the activations of all layers are kept, as `mixc train` keeps them. With it, the default on a GPU, each layer's are
computed again, and that work is not counted either: weights, gradients and AdamW's state are 20 bytes a parameter, 48 GB for
SAIL-VL2-2B with all its modules trained, and its activations at 8,192 tokens, by count some 4 MB a token of the language model, do not fit beside them in 80 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mixed import write_build

from runtime.model.zoo import ARCHITECTURES
from shards.build import Build

REPO = Path(__file__).resolve().parents[1]
BACKENDS = ("flash_attn", "varlen_attn", "sdpa_loop")
"""For attention over packed rows: runtime/attention.py."""
DENSE, PADDED = "dense mask", "padded"


def run_case(options: argparse.Namespace, build: Path, stage: str, name: str) -> dict[str, Any]:
    given = [str(build), "--case", name, "--stage", stage, "--device", options.device]
    for flag in ("steps", "warmup", "workers", "zero", "peak_tflops"):
        if getattr(options, flag) is not None:
            given += [f"--{flag.replace('_', '-')}", str(getattr(options, flag))]
    given += [f"--{flag}" for flag in ("recompute", "compile") if getattr(options, flag)]
    environment = (
        os.environ | {"PYTHONPATH": str(REPO)} | ({"DS_ACCELERATOR": "cpu"} if options.device == "cpu" else {})
    )
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("train_case.py"), *given],
        env=environment,
        capture_output=True,
        text=True,
    )
    found = {"case": name, "stage": stage, "recompute": options.recompute, "compile": options.compile}
    if done.returncode:
        return found | {"why": f"failed: {(done.stderr.strip() or '?').splitlines()[-1]}", "stderr": done.stderr}
    return found | json.loads(done.stdout.splitlines()[-1])


def show(found: dict[str, Any], ours: float | None) -> str:
    """One line of the table; `ours` is the tokens a second of packed rows with the backend that training takes."""
    name = f"{found['stage']:>8}  {found['case']:<12}"
    if "why" in found:
        return f"{name}  {found['why']}"

    def share(value: float | None) -> str:
        return f"{value:6.1%}" if value is not None else "     -"

    memory = f"{found['memory'] / 2**30:6.1f}" if found["memory"] else "     -"
    against = f"{ours / found['tokens_per_second']:6.2f}" if ours else "     -"
    return (
        f"{name}  {found['tokens_per_second']:9,.0f}  {share(found['mfu'])}  {share(found['vision_mfu'])}  "
        f"{share(found['language_mfu'])}  {found['seconds']:8.3f}  {found['optimizer_seconds']:9.3f}  "
        f"{found['data_wait']:6.3f}  {memory}  {share(found['unused'])}  {found['losses'][0]:8.4f}  {against}"
    )


HEADER = (
    f"{'stage':>8}  {'case':<12}  {'tokens/s':>9}  {'MFU':>6}  {'vision':>6}  {'lang.':>6}  {'s a step':>8}  "
    f"{'optimizer':>9}  {'wait':>6}  {'GiB':>6}  {'unused':>6}  {'loss':>8}  {'ours/its':>6}"
)


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    with _build(options) as build:
        stages = [stage.name for stage in Build.open(build).manifest.stages]
        print(HEADER, flush=True)
        results = []
        for stage in stages:
            ours = None
            for name in (*(BACKENDS if options.device == "cuda" else ("sdpa_loop",)), DENSE, PADDED):
                found = run_case(options, build, stage, name)
                results.append(found)
                if name in BACKENDS:
                    ours = ours or found.get("tokens_per_second")
                print(show(found, ours), flush=True)
    about = {found["device"] for found in results if "device" in found}
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "deepspeed")
    )
    print(
        f"{', '.join(about)}; {versions}; activations {'computed again' if options.recompute else 'kept'}"
        f"{'; layers compiled' if options.compile else ''}"
    )
    (options.folder / "train_gpu.json").write_text(json.dumps(results, indent=2))
    sys.exit(any(found.get("why", "").startswith("failed") for found in results))


@contextlib.contextmanager
def _build(options: argparse.Namespace) -> Iterator[Path]:
    """The one that was given, or one that is made and removed again."""
    if options.build:
        yield options.build
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        yield write_build(
            Path(folder) / "build",
            options.model,
            lengths=options.lengths,
            batch=options.batch,
            steps=options.warmup + options.steps,
            trained=options.train,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers: Callable[[str], list[int]] = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument(
        "folder", type=Path, help="a place for the build, and for train_gpu.json, which has all figures"
    )
    parser.add_argument("--model", default="sail-vl2-2b", choices=sorted(ARCHITECTURES), help="without --build")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--lengths", type=numbers, help="sequence lengths (8192,16384; 640 on a CPU)")
    parser.add_argument("--batch", type=int, help="packs a step (4; 1 on a CPU)")
    parser.add_argument("--train", type=lambda text: text.split(","), default=["vision", "projector", "language"])
    parser.add_argument("--build", type=Path, help="a build of `mixc compile`, instead of one that is made")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="loader processes")
    parser.add_argument("--zero", type=int, default=1, choices=(0, 1, 2, 3))
    parser.add_argument("--peak-tflops", type=float, help="of the device, where runtime/flops.py does not know it")
    parser.add_argument("--recompute", action=argparse.BooleanOptionalAction, help="the layers' activations")
    parser.add_argument("--compile", action="store_true", help="the layers, as `mixc train --compile`; all cases")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.lengths = options.lengths or ([8192, 16384] if on_gpu else [640])
    options.batch = options.batch or (4 if on_gpu else 1)
    options.recompute = on_gpu if options.recompute is None else options.recompute
    return options


if __name__ == "__main__":
    main()
