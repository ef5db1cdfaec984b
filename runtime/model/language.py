"""The language model: Qwen2 or Qwen3 from transformers, with our packed attention and our head."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from runtime.attention import register
from runtime.model.head import SupervisedHead
from runtime.model.zoo import LanguageShape


def build_language(shape: LanguageShape) -> Qwen2ForCausalLM | Qwen3ForCausalLM:
    """A causal language model with random weights, drawn from torch's generator in transformers' own way."""
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
        "attn_implementation": register(),
    }
    if shape.kind == "qwen2":
        if shape.heads * shape.head_dim != shape.hidden:
            raise ValueError(
                f"a qwen2's heads divide its width: {shape.heads} x {shape.head_dim} is not {shape.hidden}"
            )
        language: Qwen2ForCausalLM | Qwen3ForCausalLM = Qwen2ForCausalLM(Qwen2Config(**settings))
    else:
        language = Qwen3ForCausalLM(Qwen3Config(**settings, head_dim=shape.head_dim, attention_bias=False))
    language.lm_head = SupervisedHead(language.lm_head.weight)
    return language


def restore_rotary(language: Qwen2ForCausalLM | Qwen3ForCausalLM) -> None:
    """Set the rotary frequencies to their exact values in float32, on the device where they are.

    They are buffers, so `.bfloat16()` rounds them with the weights, which at position 8,000 turns an angle of
    a head of width 128 by up to nine radians. transformers computes with them in float32.
    """
    rotary = language.model.rotary_emb
    frequencies, rotary.attention_scaling = rotary.compute_default_rope_parameters(rotary.config)
    for name in ("inv_freq", "original_inv_freq"):
        setattr(rotary, name, frequencies.to(getattr(rotary, name).device, copy=True))
