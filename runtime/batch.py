"""One micro-batch on its way from packs to the model.

Shapes: T tokens of all packs end to end, S segments, N supervised targets, M tiles, P tokens a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as two tensors: a loader process hands over each tensor in a shared memory of its own, for some 0.1 ms of the
        process that trains, whatever its size."""
        tensors = [getattr(self, name) for name in _TOGETHER]
        together = np.concatenate([tensor.cpu().numpy().view(np.uint8) for tensor in tensors])
        return _apart, (torch.from_numpy(together), [len(tensor) for tensor in tensors], self.tiles_M, self.max_seqlen)


_TOGETHER = {
    "tokens_T": torch.int64,  # the widest first, so that each begins at a multiple of its width
    "positions_T": torch.int64,
    "predict_N": torch.int64,
    "labels_N": torch.int64,
    "sources_N": torch.int64,
    "image_positions": torch.int64,
    "cu_seqlens": torch.int32,
    "weights_N": torch.float32,
}


def _apart(together: torch.Tensor, lengths: list[int], tiles_M: torch.Tensor, max_seqlen: int) -> Batch:
    sizes = [length * dtype.itemsize for length, dtype in zip(lengths, _TOGETHER.values(), strict=True)]
    parts = zip(_TOGETHER.items(), together.split(sizes), strict=True)
    tensors = {name: part.view(dtype) for (name, dtype), part in parts}
    return Batch(**tensors, tiles_M=tiles_M, max_seqlen=max_seqlen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a micro-batch adds up to, for the books; plain numbers, known before its tensors are on a device."""

    weights: tuple[float, ...]
    """Loss weight of the targets of each source, summed, by index of source."""
    tokens: int
    tiles: int
    pairs: int
    """Sum of squared segment lengths: what attention works through."""
