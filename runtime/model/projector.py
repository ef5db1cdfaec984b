"""From vision features to rows of the language model's embedding: 2x2 pixel shuffle, then an MLP.

Shapes: M tiles, G patches along a side, C channels, P = (G / 2)^2 rows a tile, D the language model's width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


class Projector(nn.Module):
    """[M, G, G, C] to [M, P, D]: pixel shuffle, LayerNorm, Linear, GELU, Linear (`mlp1` of the released
    models).
    """

    def __init__(self, channels: int, width: int, version: Literal["v1", "v2"]) -> None:
        super().__init__()
        self.version = version
        self.mlp = nn.Sequential(
            nn.LayerNorm(4 * channels), nn.Linear(4 * channels, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, features_MGGC: torch.Tensor) -> torch.Tensor:
        return self.mlp(pixel_shuffle(features_MGGC, self.version))


def pixel_shuffle(features_MGGC: torch.Tensor, version: Literal["v1", "v2"] = "v2") -> torch.Tensor:
    """Fold each 2x2 block of patches into channels: [M, G, G, C] to [M, (G/2)^2, 4C].

    v2 goes through the blocks row by row. v1 is InternVL's first version, which leaves the image transposed:
    column by column. Within a block the channels are top left, top right, bottom left, bottom right in both.
    """
    tiles, height, width, channels = features_MGGC.shape
    blocks = features_MGGC.reshape(tiles, height // 2, 2, width // 2, 2, channels)
    order = (0, 1, 3, 2, 4, 5) if version == "v2" else (0, 3, 1, 2, 4, 5)
    return blocks.permute(order).reshape(tiles, height // 2 * (width // 2), 4 * channels)
