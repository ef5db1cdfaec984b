"""The language model: Qwen2, Qwen3 or Qwen3-MoE from transformers, with our packed attention and our head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from runtime.attention import NAME, register
from runtime.model.head import SupervisedHead
from runtime.model.zoo import LanguageShape

Language = Qwen2ForCausalLM | Qwen3ForCausalLM | Qwen3MoeForCausalLM


def language_settings(shape: LanguageShape) -> dict[str, Any]:
    """transformers' settings of such a model."""
    settings: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tied,
        "use_cache": False,  # a cache makes transformers forget that a row is packed
        "attn_implementation": NAME,
    }
    if shape.kind == "qwen2":
        return settings
    settings |= {"head_dim": shape.head_dim, "attention_bias": False}
    if shape.kind == "qwen3":
        return settings
    return settings | {
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.experts_per_token,
        "moe_intermediate_size": shape.expert_intermediate,
        "norm_topk_prob": True,  # as in Qwen3-30B-A3B; transformers' default is False
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "experts_implementation": "grouped_mm",  # on a GPU in bf16 it does not look at the router's choice on the host
    }


def build_language(shape: LanguageShape) -> Language:
    """A causal language model with random weights, drawn from torch's generator in transformers' own way."""
    register()
    settings = language_settings(shape)
    if shape.kind == "qwen2":
        if shape.heads * shape.head_dim != shape.hidden:
            raise ValueError(
                f"a qwen2's heads divide its width: {shape.heads} x {shape.head_dim} is not {shape.hidden}"
            )
        language: Language = Qwen2ForCausalLM(Qwen2Config(**settings))
    elif shape.kind == "qwen3":
        language = Qwen3ForCausalLM(Qwen3Config(**settings))
    else:
        language = Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings))
    language.lm_head = SupervisedHead(language.lm_head.weight)
    return language


def routers(language: Language) -> list[nn.Module]:
    """Of a mixture of experts, layer by layer."""
    return [layer.mlp.gate for layer in language.model.layers]


def no_mask(shape: LanguageShape) -> Any:
    """What to give transformers as a mask, so that there is none and it does not look for one: it would compare positions on
    the host. The dense models take masks by kind of layer; the sparse one takes what has four axes as it is."""
    return torch.empty(0, 0, 0, 0) if shape.kind == "qwen3_moe" else {"full_attention": None}


def untie(language: Language) -> None:
    """Make the head, where it is the embedding table, a tensor of its own with the same values. Before an engine is made."""
    if language.lm_head.weight is language.model.embed_tokens.weight:
        language.lm_head.weight = nn.Parameter(language.model.embed_tokens.weight.detach().clone())
        language.config.tie_word_embeddings = False


def restore_rotary(language: Language) -> None:
    """Set the rotary frequencies to their exact values in float32, on the device where they are; on the CPU where they have no
    content yet.

    They are buffers, so `.bfloat16()` rounds them with the weights, which at position 8,000 turns an angle of
    a head of width 128 by up to nine radians. transformers computes with them in float32.
    """
    rotary = language.model.rotary_emb
    with torch.device("cpu"):
        frequencies, rotary.attention_scaling = rotary.compute_default_rope_parameters(rotary.config)
    for name in ("inv_freq", "original_inv_freq"):
        device = getattr(rotary, name).device
        setattr(rotary, name, frequencies.to("cpu" if device.type == "meta" else device, copy=True))
