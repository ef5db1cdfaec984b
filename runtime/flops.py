"""What a training step computes, counted from shapes, and what a device could compute meanwhile.

Model FLOPs, as in PaLM (arXiv:2204.02311, appendix B): what the mathematics of the step needs, whatever the machine did
for it. Two a multiply-add of a matrix product; norms, activations, rotations, softmax and the optimizer are left out, and so is
what is computed twice to save memory, and the black tile of a micro-batch without images. Positions that hold nothing count
for nothing, so packing well is seen in the figure.

A product of activations and weights costs as much again for the weights' gradient, if they are trained, and as much again for
the gradient of what goes in, if it leads to something that is trained: a trained part costs thrice its forward, a frozen language
model twice, as the projector's gradient comes through it, and a frozen tower once. Attention, a product of activations on
both sides, costs thrice wherever a gradient comes through.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from runtime.model.zoo import Architecture, LanguageShape, VisionShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a step holds, of all processes."""

    tokens: int
    tiles: int
    targets: int
    """Supervised tokens."""
    pairs: int
    """Sum of squared segment lengths."""


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """FLOPs by part; the vocabulary's head apart from the language model below it."""

    vision: int
    projector: int
    language: int
    head: int

    @property
    def total(self) -> int:
        return self.vision + self.projector + self.language + self.head


def step_flops(shape: Architecture, trained: Collection[str], work: Work) -> Flops:
    """Forward and backward of one step in which the modules `trained` learn; with none of them, the forward alone."""
    vision = "vision" in trained
    projector = vision or "projector" in trained
    language = projector or "language" in trained  # whether a gradient comes that far, not whether it is trained
    words = shape.language
    seen = (work.pairs + work.tokens) // 2  # causal: a token sees itself and those before it
    folded = 4 * shape.vision.hidden
    return Flops(
        vision=work.tiles * _tile_flops(shape.vision, vision),
        projector=_product(
            work.tiles * shape.tokens_per_tile * (folded + words.hidden) * words.hidden,
            weight="projector" in trained,
            inputs=projector,
        ),
        language=_product(work.tokens * words.layers * _block(words), weight="language" in trained, inputs=language)
        + _attention(seen * words.layers * 2 * words.heads * words.head_dim, language),
        head=_product(work.targets * words.hidden * words.vocab, weight="language" in trained, inputs=language),
    )


def _tile_flops(shape: VisionShape, trained: bool) -> int:
    patches = shape.grid**2
    rows = patches + (shape.kind == "internvit")  # a class token
    gated = {"internvit": 2, "aimv2": 3}[shape.kind]  # matrices of the MLP
    block = 4 * shape.hidden**2 + gated * shape.hidden * shape.intermediate
    return (
        _product(patches * 3 * shape.patch**2 * shape.hidden, weight=trained, inputs=False)  # pixels need no gradient
        + _product(shape.layers * rows * block, weight=trained, inputs=trained)
        + _attention(shape.layers * 2 * rows**2 * shape.hidden, trained)
    )


def _block(shape: LanguageShape) -> int:
    """Multiply-adds with the weights of one layer that a token goes through."""
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    mlp = 3 * shape.intermediate
    if shape.kind == "qwen3_moe":  # the router, and the experts that it picks
        mlp = shape.experts + shape.experts_per_token * 3 * shape.expert_intermediate
    return shape.hidden * (attention + mlp)


def _product(macs: int, *, weight: bool, inputs: bool) -> int:
    """Of activations and weights: forward, and the gradients that are wanted."""
    return 2 * macs * (1 + weight + inputs)


def _attention(macs: int, backward: bool) -> int:
    """Of queries and keys, and of probabilities and values."""
    return 2 * macs * (3 if backward else 1)


_PEAKS: tuple[tuple[str, float | None], ...] = (
    ("A100", 312e12),  # NVIDIA's A100 data sheet; SXM and PCIe
    ("A800", 312e12),  # an A100 with less NVLink
    ("H100 PCIe", 756e12),  # NVIDIA's H100 data sheet: 1,513 with sparsity
    ("H100 NVL", 835e12),  # NVIDIA's H100 page, as torchtitan's table quotes it
    ("H100", 989.4e12),  # NVIDIA's H100 data sheet, SXM: 1,979 with sparsity
    ("H800 PCIe", None),
    ("H800", 989.4e12),  # an H100 with less NVLink and less fp64
    ("GH200", 989.4e12),  # the GPU of an H100 SXM, with its 132 multiprocessors at 1,980 MHz
    ("H200 NVL", None),
    ("H200", 989.4e12),  # NVIDIA's H200 data sheet, SXM: 1,979 with sparsity
    ("H20", 148e12),  # those who tested or sell it; NVIDIA publishes no data sheet
    ("GB200", 2500e12),  # NVIDIA's Blackwell table, of one GPU in a GB200 NVL72: 5 PFLOPS with sparsity
    ("B200", 2250e12),  # the same, of one GPU in an HGX B200: 4.5 PFLOPS with sparsity
    ("L40S", 362e12),  # NVIDIA's L40S data sheet: 362.05, 733 with sparsity
    ("L40", 181e12),  # NVIDIA's L40 data sheet: 181.05, 362.1 with sparsity
    ("L4", 121e12),  # NVIDIA's L4 data sheet: 242 with sparsity
    ("A40", 149.7e12),  # NVIDIA's A40 data sheet: 299.4 with sparsity
)
"""FLOP/s in bf16, dense, with sums in fp32, by words of the device's name; of two that fit, the first. None: no figure was found that
could be confirmed, and that of the model whose name it begins with would be wrong.

NVIDIA's own pages were not at hand when this was checked. What was: the data sheets' rows as others print them (H100 SXM and PCIe:
hpctech.co.jp; L40 and L40S: mullet.se; L4 with sparsity: grokipedia.com; A40 and A100, from clocks and units: hmc-tech.com; the Blackwell
table: zdszero.github.io, and glennklockwood.com from NVIDIA's technical brief; H200: itkb.uw.cz; H20: zangshuxian.com, willitrunai.com; A800
and H800: aiwiki.ai, philisun.com; H100 NVL: torchtitan's get_peak_flops; GH200: an OpenCL benchmark's print-out). --peak-tflops says otherwise.
"""


def peak_flops(name: str) -> float | None:
    """FLOP/s of the device called `name` (torch.cuda.get_device_name) in bf16; None for one that is not known here, and for
    a part of one (MIG)."""
    words = frozenset(re.findall(r"[A-Za-z0-9]+", name))
    if "MIG" in words:
        return None
    return next((peak for needed, peak in _PEAKS if words.issuperset(needed.split())), None)


def known_devices() -> dict[str, float]:
    """FLOP/s in bf16 of every device whose peak is known here, by the words of its name."""
    return {name: peak for name, peak in _PEAKS if peak is not None}
