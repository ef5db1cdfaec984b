"""The vision tower: a ViT from transformers, fixed tiles in, a grid of features out.

Tiles all have one size, so they need no packing: attention is plain SDPA within each.

Shapes: M tiles, S side in pixels, G patches along a side, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Aimv2VisionConfig, Aimv2VisionModel, InternVLVisionConfig, InternVLVisionModel

from runtime.model.drop_path import DropPath
from runtime.model.zoo import VisionShape


class Vision(nn.Module):
    """float [M, 3, S, S] to features [M, G, G, C] of the last layer (`select_layer` -1)."""

    encoder: Any
    """transformers' tower; of one kind or the other, and neither says of its parts what they are."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.grid = shape.grid
        self.encoder = _encoder(shape)
        if shape.kind == "aimv2":  # a buffer that no file has: here it has content even where weights have none yet
            self.encoder.embeddings.position_ids = torch.arange(shape.grid**2, device="cpu")[None]
        self.drop_path = DropPath(self.layers)

    @property
    def layers(self) -> nn.ModuleList:
        encoder = self.encoder.encoder
        return encoder.layer if hasattr(encoder, "layer") else encoder.layers

    def forward(self, tiles_M3SS: torch.Tensor) -> torch.Tensor:
        features = self.encoder(pixel_values=tiles_M3SS).last_hidden_state
        # InternViT has a class token before the patches, AIMv2 has none.
        patches = features[:, features.shape[1] - self.grid**2 :]
        return patches.unflatten(1, (self.grid, self.grid))


def vision_settings(shape: VisionShape) -> dict[str, Any]:
    """transformers' settings of such a tower."""
    settings: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "image_size": shape.tile,
        "patch_size": shape.patch,
        "attn_implementation": "sdpa",
    }
    if shape.kind == "internvit":
        return settings | {
            "attention_bias": True,  # of q, k, v, as in the released weights; the default is False
            "use_qk_norm": False,
            "use_mean_pooling": True,  # no norm after the last layer
        }
    return settings | {
        "is_native": False,  # learned positions
        "use_head": False,  # no pooling
    }


def _encoder(shape: VisionShape) -> nn.Module:
    if shape.kind == "internvit":
        return InternVLVisionModel(InternVLVisionConfig(**vision_settings(shape)))
    return Aimv2VisionModel(Aimv2VisionConfig(**vision_settings(shape)))
