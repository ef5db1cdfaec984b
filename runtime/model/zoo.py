"""The architectures, as data. Nothing here builds anything; `runtime.model.sail_vl` does.

Where the figures come from, by model:

* sail-vl2-2b: config.json and code of the released SAIL-VL2-2B. With a head of its own the parameters come to
  2,730,565,120, which in bf16 is to the byte the `total_size` of the released weight index.
* sail-vl-2b: the model card names the parts (InternViT-300M-448px, Qwen2.5-1.5B-Instruct, 2-layer MLP);
  shapes are those parts' published ones. In bf16, with the head stored apart, 4,179,524,608 bytes: the
  4.18 GB of the release.
* sail-vl-8b, sail-vl-1.5-2b, sail-vl-1.6-8b, sail-vl2-8b: parts named by the model cards and by Table 1 of
  arXiv:2509.14033; shapes are the parts' published ones. Their config.json were not seen.
* For all but sail-vl2-2b the version of pixel shuffle is assumed to be v2, InternVL2's and SAIL-VL2-2B's.
* sail-vl-tiny: ours. Small enough to train on a laptop, with the family's real tiles and vocabulary.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from runtime.errors import TrainError
from shards.manifest import Geometry


class ModelError(TrainError):
    """The build is for a model that is not known here, or for another geometry than the model has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """A ViT on square tiles of fixed size."""

    kind: Literal["internvit", "aimv2"]
    layers: int
    hidden: int
    heads: int
    intermediate: int
    patch: int = 14
    tile: int = 448
    """Side of a tile in pixels."""

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.tile // self.patch


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageShape:
    """A decoder with grouped queries. `kind` fixes the biases and norms: qwen2 has biases on q, k and v,
    qwen3 has none and normalises each head's q and k."""

    kind: Literal["qwen2", "qwen3"]
    vocab: int
    """Rows of the embedding table."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    tied: bool
    """The head is the embedding table."""
    max_positions: int = 32768
    rope_theta: float = 1e6
    norm_eps: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Vision tower, 2x2 pixel shuffle, LayerNorm + Linear + GELU + Linear, language model."""

    name: str
    vision: VisionShape
    language: LanguageShape
    pixel_shuffle: Literal["v1", "v2"] = "v2"

    @property
    def tokens_per_tile(self) -> int:
        return (self.vision.grid // 2) ** 2


# Structure: InternVL's code. Sizes: the released InternViT-300M-448px, 304,012,288 parameters.
INTERNVIT_300M = VisionShape(kind="internvit", layers=24, hidden=1024, heads=16, intermediate=4096)
# SAIL-ViT-Huge is AIMv2-Huge-patch14-448 in shape: SAIL-VL2-2B's config and code, 682,031,616 parameters.
AIMV2_HUGE = VisionShape(kind="aimv2", layers=24, hidden=1536, heads=12, intermediate=4096)

# As Qwen publishes them. The 1.5B's count is confirmed by SAIL-VL-2B's file size, which also shows that its
# weights store the tied head apart. The 7B's is not confirmed beyond its 7.616 billion in all.
QWEN25_1_5B = LanguageShape(
    kind="qwen2",
    vocab=151936,
    hidden=1536,
    layers=28,
    heads=12,
    kv_heads=2,
    head_dim=128,
    intermediate=8960,
    tied=True,
)
QWEN25_7B = LanguageShape(
    kind="qwen2",
    vocab=152064,
    hidden=3584,
    layers=28,
    heads=28,
    kv_heads=4,
    head_dim=128,
    intermediate=18944,
    tied=False,
)
# SAIL-VL2-2B's config.json; it says tied, and its weights store the head apart.
QWEN3_1_7B = LanguageShape(
    kind="qwen3",
    vocab=151936,
    hidden=2048,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    intermediate=6144,
    tied=True,
    max_positions=40960,
)
# As Qwen publishes it; with tower and projector 8.915 billion, SAIL-VL2-8B's "9B".
QWEN3_8B = LanguageShape(
    kind="qwen3",
    vocab=151936,
    hidden=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=12288,
    tied=False,
    max_positions=40960,
)

TINY = Architecture(
    name="sail-vl-tiny",
    vision=VisionShape(kind="aimv2", layers=2, hidden=32, heads=2, intermediate=64),
    language=LanguageShape(
        kind="qwen3",
        vocab=151936,
        hidden=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        intermediate=96,
        tied=True,
        max_positions=40960,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        TINY,
        Architecture(name="sail-vl-2b", vision=INTERNVIT_300M, language=QWEN25_1_5B),
        Architecture(name="sail-vl-8b", vision=INTERNVIT_300M, language=QWEN25_7B),
        Architecture(name="sail-vl-1.5-2b", vision=AIMV2_HUGE, language=QWEN25_1_5B),
        Architecture(name="sail-vl-1.6-8b", vision=AIMV2_HUGE, language=QWEN25_7B),
        Architecture(name="sail-vl2-2b", vision=AIMV2_HUGE, language=QWEN3_1_7B),
        Architecture(name="sail-vl2-8b", vision=AIMV2_HUGE, language=QWEN3_8B),
    )
}


def architecture(name: str, geometry: Geometry) -> Architecture:
    """The architecture called `name`, checked against a build's geometry.

    What must agree is what decides the token sequence and the shapes that meet it. Raises ModelError if it
    does not, or if there is no such model.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        raise ModelError(
            f"there is no model {name!r}",
            mend=f"did you mean {near[0]}?" if near else f"the models are {', '.join(ARCHITECTURES)}",
        )
    found = ARCHITECTURES[name]
    differs = [
        f"{what} is {theirs} in the build, {ours} in the model"
        for what, theirs, ours in (
            ("the model's name", geometry.name, found.name),
            ("the tile's side", geometry.tile_size, found.vision.tile),
            ("tokens a tile", geometry.tokens_per_tile, found.tokens_per_tile),
            ("the vocabulary", geometry.vocab_size, found.language.vocab),
        )
        if theirs != ours
    ]
    if differs:
        raise ModelError(
            f"the build was not compiled for {name}",
            why="; ".join(differs),
            mend=f"compile it with `model: {name}`",
        )
    return found
