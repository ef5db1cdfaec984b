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
    """Listens to the routers of a language model. What the step before has chosen is a buffer of the model's, so that checkpoints and
    saved weights keep it."""

    def __init__(self, language: nn.Module, routers: list[nn.Module], experts: int, per_token: int) -> None:
        self._language, self._per_token = language, per_token
        self._heard: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self._last: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._chosen_LE: torch.Tensor | None = None
        language.register_buffer("choices_LE", torch.zeros(len(routers), experts, dtype=torch.int64))
        for router in routers:
            router.register_forward_hook(self._hear)

    def _hear(self, _: nn.Module, __: Any, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        if self._heard is not None:  # not while a block is computed again for its gradient
            logits_TE, choices_TK = output[0], output[2]
            self._heard.append((logits_TE, choices_TK))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Around one forward pass of the language model."""
        self._heard = []
        try:
            yield
        finally:
            self._last, self._heard = self._heard, None

    def loss_sum(self, *, counts: bool) -> torch.Tensor:
        """float32 scalar: of the last forward pass the sum over tokens, in the mean over layers, of E * sum of f_e * p_e. `counts`:
        whether its tokens are data, and not a filler's."""
        before_LE = self._language.get_buffer("choices_LE")
        layers, experts = before_LE.shape
        f_LE = (self._per_token * before_LE.double() / before_LE.sum(1, keepdim=True).clamp(min=1)).float()
        if self._chosen_LE is None:
            self._chosen_LE = torch.zeros_like(before_LE)
        total = f_LE.new_zeros(())
        for layer, (logits_TE, choices_TK) in enumerate(self._last):
            # times 0 for a filler, so that every process has the same graph
            total = total + experts * counts / layers * (logits_TE.float().softmax(-1) @ f_LE[layer]).sum()
            if counts:
                chosen = choices_TK.detach().flatten()
                self._chosen_LE[layer].scatter_add_(0, chosen, torch.ones_like(chosen))
        self._last = []
        return total

    def turn(self) -> None:
        """End a step: what all processes have chosen in it is the next one's f. In all processes."""
        if self._chosen_LE is not None:
            torch.distributed.all_reduce(self._chosen_LE)
            self._language.get_buffer("choices_LE").copy_(self._chosen_LE)
            self._chosen_LE = None
