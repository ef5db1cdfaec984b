"""What benchmarks/train_gpu.py measures against: a padded batch, and a packed row under a dense mask.

Both are SAIL-VL with the same weights, on the same batches, to the same loss. Shapes: T tokens, P positions of padded rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface

from runtime.batch import Batch
from runtime.model.head import Output
from runtime.model.language import no_mask
from runtime.model.sail_vl import SailVL


def attend(model: SailVL, attention: Callable[..., tuple[torch.Tensor, None]]) -> None:
    """Let the language model of `model` have `attention`, of transformers' face, in place of ours."""
    AttentionInterface.register("bench_attention", torch.compiler.disable(attention))  # as ours is, in compiled layers
    model.language.config._attn_implementation = "bench_attention"


class Padded(SailVL):
    """The same model and loss, with the language model on one row a sample, all as long as the longest."""

    positions = 0
    """Of all forwards so far."""

    def forward(self, batch: Batch) -> Output:
        embeds_TD = self._place_images(self.language.get_input_embeddings()(batch.tokens_T), batch)
        rows, longest = len(batch.cu_seqlens) - 1, batch.max_seqlen
        self.positions += rows * longest
        order_T = torch.arange(len(embeds_TD), device=embeds_TD.device)
        row_T = torch.bucketize(order_T, batch.cu_seqlens[1:], right=True)
        place_T = row_T * longest + batch.positions_T
        padded_PD = embeds_TD.new_zeros(rows * longest, embeds_TD.shape[1]).index_copy(0, place_T, embeds_TD)
        hidden_PD = self.language.model(
            inputs_embeds=padded_PD.unflatten(0, (rows, longest)),
            position_ids=torch.arange(longest, device=embeds_TD.device)[None],
            attention_mask=no_mask(self.shape.language),
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        hidden_ND = hidden_PD.index_select(0, place_T.index_select(0, batch.predict_N))
        return self.language.lm_head(hidden_ND, batch.labels_N, batch.weights_N)


def causal_rows(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **given: Any
) -> tuple[torch.Tensor, None]:
    key, value = _repeated(query, key), _repeated(query, value)
    output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=given["scaling"])
    return output.transpose(1, 2), None


def masked_row(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **given: Any
) -> tuple[torch.Tensor, None]:
    key, value = _repeated(query, key), _repeated(query, value)
    blocks = _blocks(given["cu_seq_lens_q"], query.shape[2])
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=blocks, scale=given["scaling"])
    return output.transpose(1, 2), None


def _repeated(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Keys or values for every query head: with `enable_gqa` SDPA has fewer kernels to choose from."""
    return key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)


_masks = WeakTensorKeyDictionary()


def _blocks(cu_seqlens: torch.Tensor, tokens: int) -> torch.Tensor:
    """bool [T, T]: who sees whom. Made once a forward, not once a layer."""
    if cu_seqlens not in _masks:
        order_T = torch.arange(tokens, device=cu_seqlens.device)
        segment_T = torch.bucketize(order_T, cu_seqlens[1:], right=True)
        _masks[cu_seqlens] = (segment_T[:, None] == segment_T) & (order_T[:, None] >= order_T)
    return _masks[cu_seqlens]
