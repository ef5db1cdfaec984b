"""One micro-batch on its way from packs to the model.

Shapes: T tokens of all packs end to end, S segments, N supervised targets, M tiles, P tokens a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Packs laid end to end as one row; samples are told apart by `cu_seqlens` alone, so packs need no padding."""

    tokens_T: torch.Tensor  # int64 [T]
    positions_T: torch.Tensor  # int64 [T], restart at 0 in every segment
    cu_seqlens: torch.Tensor  # int32 [S+1]
    max_seqlen: int
    predict_N: torch.Tensor  # int64 [N]: position whose logits predict the target (target position - 1)
    labels_N: torch.Tensor  # int64 [N]: the token there
    weights_N: torch.Tensor  # float32 [N]: loss weight of the target
    sources_N: torch.Tensor  # int64 [N]: index of the target's source in the manifest's sorted source names
    tiles_M: torch.Tensor  # uint8 [M, 3, side, side]; M may be 0
    image_positions: torch.Tensor  # int64 [M*P]: where the tiles' rows go in the token row, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a micro-batch adds up to, for the books; plain numbers, known before its tensors are on a device."""

    weights: tuple[float, ...]
    """Loss weight of the targets of each source, summed, by index of source."""
    tokens: int
    tiles: int
    pairs: int
    """Sum of squared segment lengths: what attention works through."""
