"""The architectures, as data. Nothing here builds anything; `runtime.model.sail_vl` does.

Every shape says where its figures come from. "Published" is what the part's own authors publish; "default of ours" is what
nobody does, and what a released config.json may still correct.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
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
    evidence: str = field(default="", compare=False)
    """Where the figures come from."""

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.tile // self.patch


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageShape:
    """A decoder with grouped queries. `kind` fixes the biases and norms: qwen2 has biases on q, k and v,
    qwen3 and qwen3_moe have none and normalise each head's q and k. Every layer of a qwen3_moe is sparse."""

    kind: Literal["qwen2", "qwen3", "qwen3_moe"]
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
    experts: int = 0
    """Of a layer; 0 unless `kind` is qwen3_moe."""
    experts_per_token: int = 0
    expert_intermediate: int = 0
    evidence: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Vision tower, 2x2 pixel shuffle, LayerNorm + Linear + GELU + Linear, language model."""

    name: str
    vision: VisionShape
    language: LanguageShape
    pixel_shuffle: Literal["v1", "v2"] = "v2"
    evidence: str = field(default="", compare=False)
    """Which parts, and how they are put together."""

    @property
    def tokens_per_tile(self) -> int:
        return (self.vision.grid // 2) ** 2


INTERNVIT_300M = VisionShape(
    kind="internvit",
    layers=24,
    hidden=1024,
    heads=16,
    intermediate=4096,
    evidence="structure: InternVL's published code; sizes: InternViT-300M-448px, 304,012,288 parameters, confirmed by the "
    "size of SAIL-VL-2B's weights",
)
SAIL_VIT_HUGE = VisionShape(
    kind="aimv2",
    layers=24,
    hidden=1536,
    heads=12,
    intermediate=4096,
    evidence="AIMv2-Huge-patch14-448 in shape: config.json and code of SAIL-VL2-2B; 682,031,616 parameters, confirmed to the "
    "byte by its weight index",
)
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
    evidence="as Qwen publishes it; the count is confirmed by the size of SAIL-VL-2B's weights, which store the tied head apart",
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
    evidence="as Qwen publishes it: 7.616 billion parameters in all; not confirmed by a release of SAIL-VL",
)
QWEN3_0_6B = LanguageShape(
    kind="qwen3",
    vocab=151936,
    hidden=1024,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    intermediate=3072,
    tied=True,
    max_positions=40960,
    evidence="as Qwen publishes it; not confirmed by a release of SAIL-VL",
)
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
    evidence="config.json of SAIL-VL2-2B, confirmed to the byte by its weight index; it says tied, its weights store the head "
    "apart",
)
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
    evidence='as Qwen publishes it; with tower and projector 8.915 billion parameters, SAIL-VL2-8B\'s "9B"',
)
QWEN3_30B_A3B = LanguageShape(
    kind="qwen3_moe",
    vocab=151936,
    hidden=2048,
    layers=48,
    heads=32,
    kv_heads=4,
    head_dim=128,
    intermediate=6144,  # of a dense layer, of which it has none
    tied=False,
    max_positions=40960,
    experts=128,
    experts_per_token=8,
    expert_intermediate=768,
    evidence="a training recipe published for Qwen3-30B-A3B (MindSpeed-RL): 30.53 billion parameters, 3.35 of them active; not "
    "confirmed by a release of SAIL-VL",
)

_PARTS = "parts: the model card; config.json not seen, so the version of pixel shuffle, v2, is a default of ours"


def _tiny(
    name: str, vision: Literal["internvit", "aimv2"], kind: Literal["qwen2", "qwen3", "qwen3_moe"]
) -> Architecture:
    """A twin of the family's members, with their tiles and vocabulary, that a laptop trains in minutes."""
    sparse = kind == "qwen3_moe"
    return Architecture(
        name=name,
        vision=VisionShape(kind=vision, layers=2, hidden=32, heads=2, intermediate=64),
        language=LanguageShape(
            kind=kind,
            vocab=151936,
            hidden=32,
            layers=2,
            heads=2,
            kv_heads=1,
            head_dim=16,
            intermediate=96,
            tied=not sparse,
            max_positions=40960,
            experts=8 if sparse else 0,
            experts_per_token=2 if sparse else 0,
            expert_intermediate=48 if sparse else 0,
        ),
        evidence="ours, for demonstrations and tests",
    )


TINY = _tiny("sail-vl-tiny", "aimv2", "qwen3")

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        TINY,
        _tiny("sail-vl-tiny-v1", "internvit", "qwen2"),
        _tiny("sail-vl-tiny-v1.5", "aimv2", "qwen2"),
        _tiny("sail-vl-tiny-moe", "aimv2", "qwen3_moe"),
        Architecture(name="sail-vl-2b", vision=INTERNVIT_300M, language=QWEN25_1_5B, evidence=_PARTS),
        Architecture(name="sail-vl-8b", vision=INTERNVIT_300M, language=QWEN25_7B, evidence=_PARTS),
        Architecture(name="sail-vl-1.5-2b", vision=SAIL_VIT_HUGE, language=QWEN25_1_5B, evidence=_PARTS),
        Architecture(name="sail-vl-1.5-8b", vision=INTERNVIT_300M, language=QWEN25_7B, evidence=_PARTS),
        Architecture(name="sail-vl-1.6-8b", vision=SAIL_VIT_HUGE, language=QWEN25_7B, evidence=_PARTS),
        Architecture(
            name="sail-vl2-1b",
            vision=SAIL_VIT_HUGE,
            language=QWEN3_0_6B,
            evidence="language model: arXiv:2509.14033, section on the model zoo; which SAIL-ViT is not published, Huge is a "
            "default of ours; no weights were released",
        ),
        Architecture(
            name="sail-vl2-2b",
            vision=SAIL_VIT_HUGE,
            language=QWEN3_1_7B,
            evidence="config.json and code of the release",
        ),
        Architecture(
            name="sail-vl2-8b",
            vision=SAIL_VIT_HUGE,
            language=QWEN3_8B,
            evidence="parts: arXiv:2509.14033, table 1; put together as SAIL-VL2-2B",
        ),
        Architecture(
            name="sail-vl2-30b-a3b",
            vision=SAIL_VIT_HUGE,
            language=QWEN3_30B_A3B,
            evidence="parts: arXiv:2509.14033, table 1; put together as SAIL-VL2-2B; no weights were released",
        ),
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
