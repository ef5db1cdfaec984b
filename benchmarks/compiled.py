"""Layers by torch.compile against the same as they are, on a CPU: CPU-seconds of a forward and backward pass, and of compiling.

    PYTHONPATH=. python benchmarks/compiled.py [--width 512] [--layers 4] [--tokens 2048] [--tiles 2] [--rounds 5]

A twin of SAIL-VL with layers of the given width (heads of 64, an MLP of four times the width) and a small vocabulary, so that the layers
are what takes the time; fp32, one thread, random weights and pixels, samples of 512 tokens. The two are run by turns. On a GPU it is
`python benchmarks/train_gpu.py FOLDER --compile` that measures.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch

from runtime.batch import Batch
from runtime.model.sail_vl import SailVL
from runtime.model.zoo import TINY

SAMPLE = 512
VOCAB = 1024


def build(width: int, layers: int) -> SailVL:
    torch.manual_seed(0)
    own = {"hidden": width, "layers": layers, "heads": width // 64, "intermediate": 4 * width}
    vision = dataclasses.replace(TINY.vision, **own)
    language = dataclasses.replace(TINY.language, **own, kv_heads=width // 128, head_dim=64, vocab=VOCAB)
    return SailVL(dataclasses.replace(TINY, vision=vision, language=language)).train()


def batch(tokens: int, tiles: int) -> Batch:
    """Image places at the head of samples, every token a target."""
    places = torch.cat([torch.arange(256) + tile * SAMPLE for tile in range(tiles)])
    bounds = torch.arange(0, tokens + 1, SAMPLE, dtype=torch.int32)
    return Batch(
        tokens_T=torch.randint(0, VOCAB, (tokens,)),
        positions_T=torch.arange(tokens) % SAMPLE,
        cu_seqlens=bounds,
        max_seqlen=SAMPLE,
        tiles_M=torch.randint(0, 256, (tiles, 3, 448, 448), dtype=torch.uint8),
        image_positions=places,
        predict_N=torch.arange(tokens - 1),
        labels_N=torch.randint(0, VOCAB, (tokens - 1,)),
        weights_N=torch.ones(tokens - 1),
        sources_N=torch.zeros(tokens - 1, dtype=torch.int64),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 512), ("layers", 4), ("tokens", 2048), ("tiles", 2), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.width % 128 or options.tokens % SAMPLE or options.tiles * SAMPLE > options.tokens:
        raise SystemExit(f"--width wants multiples of 128, --tokens multiples of {SAMPLE}, at least --tiles of them")
    models = {"as it is": build(options.width, options.layers), "compiled": build(options.width, options.layers)}
    models["compiled"].compile_layers()
    data = batch(options.tokens, options.tiles)
    spent: dict[str, list[float]] = {name: [] for name in models}
    first, wall = {}, {}
    for _ in range(options.rounds + 1):
        for name, model in models.items():
            model.zero_grad()
            begun, clock = time.process_time(), time.perf_counter()
            loss = model(data).loss_sum / len(data.labels_N)
            loss.backward()
            spent[name].append(time.process_time() - begun)
            first.setdefault(name, float(loss.detach()))
            wall.setdefault(name, time.perf_counter() - clock)
    assert abs(first["compiled"] - first["as it is"]) < 1e-4, first
    for name, seconds in spent.items():
        median = statistics.median(seconds[1:])
        print(f"{name:<9} {median:7.3f} CPU-s a pass, {options.tokens / median:7,.0f} tokens a CPU-second")
    print(f"the first compiled pass took {wall['compiled']:.0f} s by the clock; loss {first['compiled']:.5f}")


if __name__ == "__main__":
    main()
