"""What a sample costs to train, in whole numbers: token * tokens + tile * tiles + tokens^2."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Cost(NamedTuple):
    """Of one token and of one tile, in units of the attention between two tokens of a sample.

    Attention is within a sample, so a pack's cost is the sum of its samples'.
    """

    token: int
    tile: int

    def of(
        self, tokens: npt.NDArray[np.int64], tiles: npt.NDArray[np.int64], squares: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Costs int64 [N] of N samples, or of N packs with these sums. `squares` are the tokens of each sample,
        squared."""
        return self.token * tokens + self.tile * tiles + squares


# SAIL-VL-2B: InternViT-300M-448px (24 layers, width 1024, 1,025 positions a tile), a projector 4096 -> 1536 -> 1536
# over 256 tokens a tile, Qwen2.5-1.5B (28 layers, width 1536, keys and values 256, MLP 8960, vocabulary 151,936);
# runtime/model/zoo.py has where the shapes come from. Multiply-adds of the forward pass; the backward pass is twice
# that wherever it is made, so it changes no proportion. A frozen module does less; that is not counted.
_LANGUAGE = 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960) + 1536 * 151_936  # 1.54e9 a token
_PAIR = 28 * 2 * 1536 // 2  # scores and values; half the square, as a token sees only those before it
_VISION = 24 * 12 * 1024**2 * 1025 + 14 * 14 * 3 * 1024 * 1024  # 3.1e11 a tile
_VISION_ATTENTION = 24 * 2 * 1024 * 1025**2
_PROJECTOR = 256 * (4096 * 1536 + 1536 * 1536)

SAIL_VL_2B = Cost(token=_LANGUAGE // _PAIR, tile=(_VISION + _VISION_ATTENTION + _PROJECTOR) // _PAIR)
"""A tile costs as much as 236 tokens, beside the 256 that it puts into the sequence."""
