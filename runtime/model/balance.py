"""Balance in a mixture of experts: the auxiliary loss of a sparse model's routers.

The loss of a layer is E * sum over experts of f_e * p_e (Fedus et al. 2021, equation 4): f_e the part of the tokens' choices that went to
expert e, p_e its mean probability. SAIL-VL2 averages the activation statistics over ranks before computing balance
(arXiv:2509.14033, section 5.2). Here f is that of the whole step before, over all ranks and micro-steps, so that

* the loss is a plain sum over tokens, as the cross-entropy is: it depends neither on the number of processes, nor on how many packs
  are taken at a time or lie in one row;
* nothing waits for other ranks in the middle of a forward pass.

One step is stale by as much as the routers move in one step. The first step of a stage has no f, and no balance loss.

Shapes: T tokens, L layers, E experts, K experts a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Balance:
    """Listens to the routers of a language model. Holds what a step has chosen, and what the one before did."""

    def __init__(self, routers: list[nn.Module], experts: int) -> None:
        self._routers, self._experts = routers, experts
        self._heard: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self.fractions_LE: torch.Tensor | None = None
        """float32, of the step before: each layer's adds up to K. None: there was none."""
        self.chosen_LE: torch.Tensor | None = None
        """int64: choices of this step so far, on this process."""
        for router in routers:
            router.register_forward_hook(self._hear)

    def _hear(self, _: nn.Module, __: Any, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        if self._heard is not None:  # not while a block is computed again for its gradient
            logits_TE, _, choices_TK = output
            self._heard.append((logits_TE, choices_TK))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Around one forward pass of the language model."""
        self._heard = []
        try:
            yield
        finally:
            self._heard_last, self._heard = self._heard, None

    def loss_sum(self, *, counts: bool) -> torch.Tensor:
        """float32 scalar: the sum over layers and tokens of E * sum of f_e * p_e, of the last forward pass. `counts`: whether its tokens
        are data, and not a filler's."""
        total = self._heard_last[0][0].new_zeros((), dtype=torch.float32)
        for layer, (logits_TE, choices_TK) in enumerate(self._heard_last):
            probabilities_TE = logits_TE.float().softmax(-1)
            if self.fractions_LE is not None and counts:
                total = total + self._experts * (probabilities_TE @ self.fractions_LE[layer]).sum()
            else:
                total = total + 0 * probabilities_TE.sum()  # every process has the same graph
            self._count(layer, choices_TK, counts)
        self._heard_last = []
        return total

    def _count(self, layer: int, choices_TK: torch.Tensor, counts: bool) -> None:
        if self.chosen_LE is None:
            shape = (len(self._routers), self._experts)
            self.chosen_LE = torch.zeros(shape, dtype=torch.int64, device=choices_TK.device)
        if counts:
            ones = torch.ones_like(choices_TK.flatten())
            self.chosen_LE[layer].scatter_add_(0, choices_TK.flatten(), ones)

    def turn(self, chosen_LE: torch.Tensor, per_token: int) -> None:
        """End a step: `chosen_LE`, summed over all processes, is the next one's f."""
        total_L1 = chosen_LE.sum(1, keepdim=True).clamp(min=1)
        self.fractions_LE = (per_token * chosen_LE.double() / total_L1).float()
        self.chosen_LE = None
