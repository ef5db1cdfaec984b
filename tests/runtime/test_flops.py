"""FLOPs counted from shapes: against torch's own count of what real models compute, and against sums by hand."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from runtime.flops import Flops, Work, peak_flops, step_flops
from runtime.model.sail_vl import SailVL
from runtime.model.zoo import ARCHITECTURES
from tests.runtime.test_model import KINDS, SAMPLES, draw, pack, toy

ALL = ("vision", "projector", "language")
FROZEN = [()] + [chosen for count in (1, 2) for chosen in itertools.combinations(ALL, count)]


def work_of(samples, *, square: bool) -> Work:
    """Of these samples in a row. torch's count takes causal attention for a full square; `square` makes ours do so."""
    lengths = [len(sample.tokens) for sample in samples]
    tokens, pairs = sum(lengths), sum(length**2 for length in lengths)
    return Work(
        tokens=tokens,
        tiles=sum(len(sample.tiles) for sample in samples),
        targets=sum(sample.supervised for sample in samples),
        pairs=2 * pairs - tokens if square else pairs,
    )


def build(shape) -> SailVL:
    model = SailVL(shape)
    if shape.language.kind == "qwen3_moe":  # an expert at a time: torch does not count grouped products
        model.language.config._experts_implementation = "eager"
    return model


@contextmanager
def counting():
    """torch's count of what is computed. Attention is made of plain matrix products for it: of the fused kernels it knows
    those of CUDA alone."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


@pytest.mark.parametrize("frozen", FROZEN, ids="+".join)
@pytest.mark.parametrize(("vision", "language"), KINDS)
def test_what_torch_counts(vision, language, frozen):
    """To the last one. Each part's share shows in what freezing it, or what is before it, changes."""
    shape, samples = toy(vision, language), (*SAMPLES, draw(4, 3))
    model = build(shape)
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    with counting() as counter:
        model(pack(*samples)).loss_sum.backward()
    ours = step_flops(shape, set(ALL) - set(frozen), work_of(samples, square=True))
    assert ours.total == counter.get_total_flops()


@pytest.mark.parametrize(("vision", "language"), KINDS)
def test_what_torch_counts_of_each_part_in_a_forward(vision, language):
    shape = toy(vision, language)
    model = build(shape)
    with counting() as counter, torch.no_grad():
        model(pack(*SAMPLES))
    found = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    assert step_flops(shape, (), work_of(SAMPLES, square=True)) == Flops(
        vision=found["SailVL.vision"],
        projector=found["SailVL.projector"],
        language=found["SailVL.language.model"],
        head=found["SailVL.language.lm_head"],
    )


def test_causal_attention_is_counted_by_pairs():
    """Two steps that differ in how their tokens are cut into segments, and in nothing else."""
    shape = toy("internvit", "qwen2")
    lengths = ((7, 5, 1), (13,))
    short, long = (
        step_flops(shape, ALL, Work(tokens=13, tiles=1, targets=4, pairs=sum(length**2 for length in cut)))
        for cut in lengths
    )
    seen = [sum(query + 1 for length in cut for query in range(length)) for cut in lengths]
    a_pair = (
        2 * 2 * shape.language.heads * shape.language.head_dim
    )  # with its key and its value, two FLOPs a multiply-add
    assert long.language - short.language == 3 * (seen[1] - seen[0]) * a_pair * shape.language.layers
    assert (long.vision, long.projector, long.head) == (short.vision, short.projector, short.head)


def test_sail_vl2_2b_by_hand():
    """One pack of 8,192 tokens, a single segment, with ten tiles, half of it supervised; everything is trained."""
    found = step_flops(ARCHITECTURES["sail-vl2-2b"], ALL, Work(tokens=8192, tiles=10, targets=4096, pairs=8192**2))
    # A layer of Qwen3-1.7B: q and o 2048 x 2048, k and v 2048 x 1024, and three of 2048 x 6144.
    layer = 2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144
    assert layer == 50_331_648 and 28 * layer == 1_409_286_144  # its 1.4 billion parameters without embeddings
    attention = 28 * 4 * 2048 * (8192 * 8193 // 2)  # 16 heads of 128
    assert found.language == 6 * 8192 * 28 * layer + 3 * attention == 92_361_795_305_472
    assert found.head == 6 * 4096 * 2048 * 151936 == 7_647_189_270_528
    # A layer of AIMv2-Huge: q, k, v and o 1536 x 1536, and three of 1536 x 4096; 1,024 patches a tile.
    layer = 4 * 1536 * 1536 + 3 * 1536 * 4096
    assert 24 * layer == 679_477_248  # of its 682 million parameters
    patches = 1024 * 3 * 14 * 14 * 1536  # whose inputs, pixels, need no gradient
    attention = 24 * 4 * 1536 * 1024**2
    assert found.vision == 10 * (4 * patches + 6 * 1024 * 24 * layer + 3 * attention) == 46_422_640_558_080
    assert found.projector == 6 * 10 * 256 * (4 * 1536 * 2048 + 2048 * 2048) == 257_698_037_760
    assert found.total == found.vision + found.projector + found.language + found.head


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H800 PCIe", None),
        ("NVIDIA H800", 989.4e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("", None),
    ],
)
def test_peaks_by_name(name, peak):
    assert peak_flops(name) == peak
