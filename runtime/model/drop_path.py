"""Stochastic depth for the vision tower (Huang et al. 2016): in training, a tile may skip a branch of a block.

Which tile skips which branch is a pure function of the step's seed, the block, the branch and the tile's pixels. So it does not
depend on which process has the tile or what lies beside it, a resumed run drops what an uninterrupted one would have, and a
block that is computed again for its gradient drops the same.

Shapes: M tiles, S side in pixels, L blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class DropPath:
    """Hooks on a tower's blocks, there while `rate` is above 0. Inactive in evaluation."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.seed = 0
        """Of the step."""
        self._rate = 0.0
        self._keys_M: torch.Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        self._branches: list[tuple[nn.Module, float]] = []
        """And the share that each has of the rate."""
        for number, block in enumerate(blocks):
            share = number / max(len(blocks) - 1, 1)
            for name in ("attention", "mlp" if hasattr(block, "mlp") else "ffn"):
                self._branches.append((block.get_submodule(name), share))

    @property
    def rate(self) -> float:
        """Of the last block; it falls in a line to 0 for the first."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = rate
        for hook in self._hooks:
            hook.remove()
        # none without need: what they are in can be compiled in parts only
        self._hooks = [
            branch.register_forward_hook(self._hook(place, share))
            for place, (branch, share) in enumerate(self._branches if rate else [])
        ]

    def see(self, tiles_M3SS: torch.Tensor) -> None:
        """Look at the tiles, uint8 or float, that go through the tower next."""
        if self.rate:
            pixels = tiles_M3SS.flatten(1)[:, ::_STRIDE].to(torch.int64)
            places = torch.arange(1, pixels.shape[1] + 1, device=pixels.device) * _ODD
            self._keys_M = _mixed((_mixed(pixels + places)).sum(1))

    def _hook(self, place: int, share: float) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            rate = self.rate * share
            if not (module.training and rate):
                return output
            assert self._keys_M is not None, "a tower was run without its tiles having been seen"
            bits_M = _mixed(self._keys_M ^ _signed((2 * self.seed + 1) * (place + 1) % (1 << 64)))
            kept_M = ((bits_M >> 11) & _MASK53).double() * 2.0**-53 >= rate
            branch, *rest = output if isinstance(output, tuple) else (output,)
            branch = branch * (kept_M / (1 - rate)).to(branch.dtype)[:, None, None]
            return (branch, *rest) if isinstance(output, tuple) else branch

        return hook


_STRIDE = 97
"""Pixels looked at: one in so many, some 6,000 of a tile."""
_MASK53 = (1 << 53) - 1


def _signed(value: int) -> int:
    """A whole number as int64 has it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_ODD = _signed(0x9E3779B97F4A7C15)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser (Steele et al. 2014) over int64, whose products wrap."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))
