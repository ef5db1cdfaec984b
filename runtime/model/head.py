"""The vocabulary head, with the loss inside it.

A vocabulary of 152,000 makes the logits the largest tensor of a step: 8,192 targets in float32 are 5 GB, and
as much again for their gradient. So the head never holds more than `rows` rows of them. Since the loss is a
plain weighted sum of cross-entropies, its gradient is known as soon as a row of logits is: forward computes
both, a chunk at a time, and backward only scales what forward kept. Nothing is computed twice, not even an
exponential: those that the loss adds up, divided by their sum, are the gradient's softmax. And the head's
module runs once a forward on every rank whatever the number of targets, so that ranks launch the same
collectives under ZeRO-3.

The idea of computing the gradient in the forward pass is Liger Kernel's (arXiv:2410.10989).

Shapes: N targets, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.autograd.function import once_differentiable


class Output(NamedTuple):
    """What a forward gives. The caller divides `loss_sum` by the step's denominator."""

    loss_sum: torch.Tensor
    """float32 scalar: the sum of weight times loss over the targets. Zero, and still part of the
    graph, if there are none."""
    ce_N: torch.Tensor
    """float32 [N], without gradient: each target's cross-entropy in nats, in the batch's order, plain."""
    router_sum: torch.Tensor | None = None
    """Of a mixture of experts: see runtime.model.balance."""


class SupervisedHead(nn.Linear):
    """The language model's `lm_head`: hidden states to logits, or, given labels and weights, to the loss."""

    def __init__(self, weight_VD: nn.Parameter, rows: int | None = None) -> None:
        """`rows` of logits at a time; by default what suits the device."""
        super().__init__(weight_VD.shape[1], weight_VD.shape[0], bias=False, device="meta")
        self.weight = weight_VD
        self.rows = rows
        self.label_smoothing = 0.0
        """Part of a target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016)."""
        self.z_loss = 0.0
        """Weight of log(Z)^2, Z the softmax's denominator (Chowdhery et al. 2022, PaLM)."""

    def forward(  # type: ignore[override]
        self,
        hidden_ND: torch.Tensor,
        labels_N: torch.Tensor | None = None,
        weights_N: torch.Tensor | None = None,
    ) -> torch.Tensor | Output:
        if labels_N is None:
            return super().forward(hidden_ND)
        # On 2 CPU cores, 2,000 targets of width 32: 256 rows at a time took 3.8 CPU-seconds and 0.4 GB, 1,024
        # rows 6.0 and 1.7 GB, all at once 7.4 and 3.5 GB. An accelerator should want longer chunks, as each
        # adds to all of the weight's gradient; 1,024 is a guess, not measured.
        rows = self.rows or (256 if hidden_ND.device.type == "cpu" else 1024)
        learning = torch.is_grad_enabled()
        return Output(
            *_WeightedCrossEntropy.apply(
                hidden_ND, self.weight, labels_N, weights_N, rows, learning, self.label_smoothing, self.z_loss
            )
        )


class _WeightedCrossEntropy(torch.autograd.Function):
    """(sum of weight * loss, ce) of a linear head. Softmax and sums are float32 whatever the weights are.

    The loss of a target is (1 - s) ce + s * mean over the vocabulary of ce + z log(Z)^2, with smoothing s. Its slope by the logits is
    softmax * (1 + 2 z log Z) - (1 - s) onehot - s / V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        weights_N: torch.Tensor,
        rows: int,
        learning: bool,
        smoothing: float,
        z: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_hidden, wants_weight = (learning and wanted for wanted in ctx.needs_input_grad[:2])
        ce_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        loss_N = torch.empty_like(ce_N) if smoothing or z else ce_N
        grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        # Summed over chunks in float32: half precision would lose what the later chunks add.
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(labels_N), rows):
            chunk = slice(start, start + rows)
            label_n1 = labels_N[chunk, None]
            logits_nV = F.linear(hidden_ND[chunk], weight_VD).float()
            top_n1 = logits_nV.amax(-1, keepdim=True)
            label_logit_n1 = logits_nV.gather(-1, label_n1)
            mean_n1 = logits_nV.mean(-1, keepdim=True) if smoothing else None
            powers_nV = logits_nV.sub_(top_n1).exp_()  # in place of the logits, once: loss and slope share them
            sum_n1 = powers_nV.sum(-1, keepdim=True)
            log_n1 = sum_n1.log()
            ce_n1 = log_n1 + (top_n1 - label_logit_n1)
            ce_N[chunk] = ce_n1[:, 0]
            lse_n1 = log_n1 + top_n1
            if smoothing or z:
                loss_n1 = (1 - smoothing) * ce_n1 + z * lse_n1**2
                if mean_n1 is not None:
                    loss_n1 += smoothing * (lse_n1 - mean_n1)
                loss_N[chunk] = loss_n1[:, 0]
            if not (wants_hidden or wants_weight):
                continue
            weight_n1 = weights_N[chunk, None]
            slope_nV = powers_nV.mul_(weight_n1 * (1 + 2 * z * lse_n1) / sum_n1)
            slope_nV.scatter_add_(-1, label_n1, weight_n1 * (smoothing - 1.0))
            if smoothing:
                slope_nV.sub_(weight_n1 * (smoothing / slope_nV.shape[-1]))
            slope_nV = slope_nV.to(hidden_ND.dtype)
            if grad_ND is not None:
                grad_ND[chunk] = slope_nV @ weight_VD
            if grad_VD is not None and slope_nV.dtype == grad_VD.dtype:
                torch.addmm(grad_VD, slope_nV.T, hidden_ND[chunk], out=grad_VD)  # without a second gradient to add
            elif grad_VD is not None:
                grad_VD += slope_nV.T @ hidden_ND[chunk]
        ctx.save_for_backward(grad_ND, grad_VD)
        ctx.dtype = weight_VD.dtype
        ctx.mark_non_differentiable(ce_N)
        return (weights_N * loss_N).sum(), ce_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_ND, grad_VD = ctx.saved_tensors
        return (
            None if grad_ND is None else (grad_ND * upstream).to(grad_ND.dtype),
            None if grad_VD is None else (grad_VD * upstream).to(ctx.dtype),
            *(None,) * 6,
        )
