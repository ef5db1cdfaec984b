"""The released checkpoints' own names for the tensors of a model, and what config.json says of its shape.

The released models are InternVL's in structure: `vision_model`, `mlp1`, `language_model`. Their towers come from code of their own,
which fuses q, k and v; a mixture of experts stores every expert apart. Here is what corresponds to what, tensor by tensor; nothing
is read or written here. Sources: the weight index and the code of SAIL-VL2-2B (490 tensors), and InternVL's published code for
InternViT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from runtime.model.zoo import Architecture, LanguageShape, VisionShape

Tensors = list[torch.Tensor]


def _as_they_are(tensors: Tensors) -> Tensors:
    return tensors


@dataclass(frozen=True, slots=True)
class Entry:
    """Tensors of a release and the tensors of ours that hold the same numbers."""

    released: tuple[str, ...]
    ours: tuple[str, ...]
    to_ours: Callable[[Tensors], Tensors] = _as_they_are
    to_released: Callable[[Tensors], Tensors] = _as_they_are


def entries(shape: Architecture) -> list[Entry]:
    """All tensors of a released model of this shape. The head is one of them whether it is tied or not: releases store it apart."""
    return [
        *vision_entries(shape.vision, "vision_model."),
        *(Entry((f"mlp1.{name}",), (f"projector.mlp.{name}",)) for name in _PROJECTOR),
        *language_entries(shape.language, "language_model."),
    ]


_PROJECTOR = [f"{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")]


def vision_entries(shape: VisionShape, prefix: str) -> list[Entry]:
    """A tower alone, whose released names begin with `prefix`."""
    make = _internvit if shape.kind == "internvit" else _aimv2
    return list(make(shape, prefix, "vision.encoder."))


def language_entries(shape: LanguageShape, prefix: str) -> list[Entry]:
    """A language model alone, named as Qwen and transformers name it, behind `prefix`."""
    return list(_qwen(shape, prefix, "language."))


def _aimv2(shape: VisionShape, theirs: str, ours: str) -> Iterator[Entry]:
    stem, embeddings = f"{theirs}preprocessor.", f"{ours}embeddings."
    yield Entry((f"{stem}patchifier.proj.weight",), (f"{embeddings}patch_embed.weight",))
    yield Entry((f"{stem}patchifier.proj.bias",), (f"{embeddings}patch_embed.bias",))
    yield Entry((f"{stem}patchifier.norm.weight",), (f"{embeddings}rms_norm.weight",))
    yield Entry(
        (f"{stem}pos_embed",),
        (f"{embeddings}position_embedding.weight",),
        lambda tensors: [tensors[0][0]],  # [1, patches, C] to [patches, C]
        lambda tensors: [tensors[0][None]],
    )
    for layer in range(shape.layers):
        block, mine = f"{theirs}trunk.blocks.{layer}.", f"{ours}encoder.layers.{layer}."
        yield _qkv(f"{block}attn.qkv.weight", f"{mine}attention.", "weight")
        for released, own in (
            ("attn.proj", "attention.out_proj"),
            ("norm_1", "rms_norm1"),
            ("norm_2", "rms_norm2"),
            ("mlp.fc1", "ffn.gate_proj"),  # fc2(silu(fc1 x) * fc3 x)
            ("mlp.fc2", "ffn.down_proj"),
            ("mlp.fc3", "ffn.up_proj"),
        ):
            yield Entry((f"{block}{released}.weight",), (f"{mine}{own}.weight",))
    yield Entry((f"{theirs}trunk.post_trunk_norm.weight",), (f"{ours}rms_norm.weight",))


def _internvit(shape: VisionShape, theirs: str, ours: str) -> Iterator[Entry]:
    stem, embeddings = f"{theirs}embeddings.", f"{ours}embeddings."
    yield Entry((f"{stem}class_embedding",), (f"{embeddings}cls_token",))
    yield Entry((f"{stem}position_embedding",), (f"{embeddings}position_embeddings",))
    for kind in ("weight", "bias"):
        yield Entry((f"{stem}patch_embedding.{kind}",), (f"{embeddings}patch_embeddings.projection.{kind}",))
    for layer in range(shape.layers):
        block, mine = f"{theirs}encoder.layers.{layer}.", f"{ours}encoder.layer.{layer}."
        for number in (1, 2):
            yield Entry((f"{block}ls{number}",), (f"{mine}lambda_{number}",))
        for kind in ("weight", "bias"):
            yield _qkv(f"{block}attn.qkv.{kind}", f"{mine}attention.", kind)
            for released, own in (
                ("attn.proj", "attention.projection_layer"),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                yield Entry((f"{block}{released}.{kind}",), (f"{mine}{own}.{kind}",))


def _qkv(released: str, ours: str, kind: str) -> Entry:
    return Entry(
        (released,),
        tuple(f"{ours}{part}_proj.{kind}" for part in "qkv"),
        lambda tensors: list(tensors[0].chunk(3)),
        lambda tensors: [torch.cat(tensors)],
    )


def _qwen(shape: LanguageShape, theirs: str, ours: str) -> Iterator[Entry]:
    plain = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        plain += [f"{block}{norm}.weight" for norm in ("input_layernorm", "post_attention_layernorm")]
        plain += [f"{block}self_attn.{part}_proj.weight" for part in "qkvo"]
        if shape.kind == "qwen2":
            plain += [f"{block}self_attn.{part}_proj.bias" for part in "qkv"]
        else:
            plain += [f"{block}self_attn.{part}_norm.weight" for part in "qk"]
        if shape.kind != "qwen3_moe":
            plain += [f"{block}mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
            continue
        plain.append(f"{block}mlp.gate.weight")
        each = [f"{theirs}{block}mlp.experts.{expert}." for expert in range(shape.experts)]
        yield Entry(
            tuple(f"{expert}{part}_proj.weight" for expert in each for part in ("gate", "up")),
            (f"{ours}{block}mlp.experts.gate_up_proj",),  # [experts, gate above up, D]
            lambda tensors: [torch.stack([torch.cat(pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)])],
            lambda tensors: [half for expert in tensors[0] for half in expert.chunk(2)],
        )
        yield Entry(
            tuple(f"{expert}down_proj.weight" for expert in each),
            (f"{ours}{block}mlp.experts.down_proj",),
            lambda tensors: [torch.stack(tensors)],
            lambda tensors: list(tensors[0]),
        )
    for name in plain:
        yield Entry((f"{theirs}{name}",), (f"{ours}{name}",))


def config(
    shape: Architecture, *, tied: bool, min_tiles: int, max_tiles: int, thumbnail: bool, dtype: str
) -> dict[str, Any]:
    """A released model's config.json: the keys of SAIL-VL2-2B's that say what the model is, without transformers' defaults."""
    return {
        "architectures": ["SAILVLModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": shape.vision.tile,
        "llm_config": language_config(shape.language, tied=tied, dtype=dtype),
        "max_dynamic_patch": max_tiles,
        "min_dynamic_patch": min_tiles,
        "model_type": "sailvl",
        "pad2square": False,
        "ps_version": shape.pixel_shuffle,
        "select_layer": -1,
        "template": "univl-chat",
        "torch_dtype": dtype,
        "use_thumbnail": thumbnail,
        "vision_config": vision_config(shape.vision, dtype=dtype),
    }


def language_config(shape: LanguageShape, *, tied: bool, dtype: str) -> dict[str, Any]:
    """As transformers names a language model's settings."""
    name = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}[shape.kind]
    settings: dict[str, Any] = {
        "architectures": [name],
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions,
        "model_type": shape.kind,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }
    if shape.kind == "qwen3_moe":
        settings |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": shape.expert_intermediate,
            "norm_topk_prob": True,
            "num_experts": shape.experts,
            "num_experts_per_tok": shape.experts_per_token,
        }
    return settings


def vision_config(shape: VisionShape, *, dtype: str) -> dict[str, Any]:
    """As the released towers name their settings."""
    settings: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "image_size": shape.tile,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_channels": 3,
        "num_hidden_layers": shape.layers,
        "patch_size": shape.patch,
        "torch_dtype": dtype,
    }
    if shape.kind == "internvit":
        return settings | {
            "architectures": ["InternVisionModel"],
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "qk_normalization": False,
            "qkv_bias": True,
        }
    return settings | {
        "architectures": ["SAILViTModel"],
        "model_type": "sailvit",
        "qkv_bias": False,
        "rms_norm_eps": 1e-5,
        "use_bias": False,
    }


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a config.json says otherwise, of what decides a model's numbers and is not a shape of a tensor. A key that it
    lacks is not compared: older releases leave out what was a default."""
    said = []
    for key, value in wanted.items():
        if key not in _DECIDES or key not in found:
            continue
        if isinstance(value, dict):
            said += [f"{key}.{each}" for each in differences(value, found[key] or {})]
        elif found[key] != value:
            said.append(f"{key} is {found[key]!r} there, {value!r} here")
    theta = (found.get("rope_parameters") or {}).get("rope_theta")  # where transformers 5 keeps it
    if theta is not None and theta != wanted.get("rope_theta", theta):
        said.append(f"rope_parameters.rope_theta is {theta!r} there, {wanted['rope_theta']!r} here")
    return said


_DECIDES = {
    *("llm_config", "vision_config", "downsample_ratio", "force_image_size", "select_layer", "ps_version"),
    *("head_dim", "hidden_act", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps"),
    *(
        "rope_scaling",
        "rope_theta",
        "use_sliding_window",
        "layer_norm_eps",
        "norm_type",
        "qk_normalization",
        "patch_size",
    ),
    *("norm_topk_prob", "num_experts_per_tok", "decoder_sparse_step"),
}
