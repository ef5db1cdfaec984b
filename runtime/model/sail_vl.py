"""SAIL-VL by composition: `vision` -> `projector` -> `language`, and the loss of a packed micro-batch.

The three children are the modules that a stage trains or freezes, by `requires_grad_`.

Shapes: T tokens, N targets, M tiles, P rows a tile, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from runtime.batch import Batch
from runtime.images import normalise
from runtime.model.balance import Balance
from runtime.model.compiled import compile_layers, uncompiled
from runtime.model.head import Output
from runtime.model.language import Language, build_language, no_mask, restore_rotary, routers
from runtime.model.projector import Projector
from runtime.model.vision import Vision
from runtime.model.zoo import Architecture, architecture
from shards.manifest import Geometry, TrainSettings

PARTS = ("vision", "projector", "language")
"""In the order in which random weights are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Prompts padded on the left, or the tokens that follow what `cache` holds."""

    tokens_BT: torch.Tensor
    """int64 [B, T]."""
    seen_BL: torch.Tensor
    """int64 [B, L], L with what is in the cache: 1, or 0 where there is padding."""
    cache: Cache
    """Takes up the tokens' keys and values."""
    tiles_M: torch.Tensor | None = None
    """uint8 [M, 3, side, side], of prompts; M may be 0."""
    image_positions: torch.Tensor | None = None
    """int64 [M*P]: where the tiles' rows go in the prompts laid end to end, in order."""


class SailVL(nn.Module):
    """A vision-language model over packed rows."""

    vision: Vision
    projector: Projector
    language: Language
    balance: Balance | None
    """Of a mixture of experts."""
    leaf_modules: tuple[type, ...]
    """What ZeRO 3 gathers whole: see runtime.engine."""

    def __init__(self, shape: Architecture, dtype: torch.dtype = torch.float32, given: Collection[str] = ()) -> None:
        """Random weights from torch's generator, drawn in float32 and then rounded, part by part.

        `given` are those of PARTS whose weights will be loaded. They are left without content, on the meta device, where no part
        behind them is drawn; one before a part that is drawn is drawn, too, so that each part's random weights are the same
        whatever else is given. Buffers have their content in any case.
        """
        super().__init__()
        self.shape = shape
        drawn = max((place for place, name in enumerate(PARTS, 1) if name not in given), default=0)
        with _weights(drawn=drawn > 0):
            self.vision = Vision(shape.vision).to(dtype)
        with _weights(drawn=drawn > 1):
            self.projector = Projector(shape.vision.hidden, shape.language.hidden, shape.pixel_shuffle).to(dtype)
        with _weights(drawn=drawn > 2):
            self.language = build_language(shape.language).to(dtype)  # type: ignore[arg-type]
        restore_rotary(self.language)
        self.balance, self.leaf_modules = None, ()
        self._compiled = False
        if experts := shape.language.experts:
            self.balance = Balance(self.language, routers(self.language), experts, shape.language.experts_per_token)
            self.leaf_modules = (Qwen3MoeSparseMoeBlock,)

    def prepare(self, settings: TrainSettings) -> None:
        """Take over what a stage's settings say of the loss and of regularisation."""
        self.language.lm_head.label_smoothing = settings.label_smoothing or 0.0
        self.language.lm_head.z_loss = settings.z_loss or 0.0
        self.vision.drop_path.rate = settings.drop_path or 0.0

    def recompute(self, parts: Collection[str]) -> None:
        """Keep of the named parts' layers only what goes in, and compute the rest again for the gradient: less memory, the same
        numbers. `vision` and `language` have layers."""
        for name in parts:
            for layer in self.layers[name]:
                # not by transformers' own switch: some of its versions put that inside of what is compiled. Nothing in a layer draws
                # from a generator, whose state it would wait for the device to keep.
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)

    def compile_layers(self) -> None:
        """Compile the layers' forward passes by torch.compile: see runtime.model.compiled. After `prepare`, before `recompute`."""
        compile_layers(layer for layers in self.layers.values() for layer in layers)
        self._compiled = True

    @property
    def layers(self) -> dict[str, nn.ModuleList]:
        """Of the parts that have some."""
        return {"vision": self.vision.layers, "language": self.language.model.layers}

    def forward(self, batch: Batch | Piece) -> Output | torch.Tensor:
        """Of a micro-batch the weighted loss and each target's cross-entropy, see `Output`; of a piece the logits of the tokens that
        come next, [B, V]."""
        if isinstance(batch, Piece):
            with uncompiled() if self._compiled else nullcontext():
                return self._next(batch)
        embeds_TD = self.language.get_input_embeddings()(batch.tokens_T)
        embeds_TD = self._place_images(embeds_TD, batch)
        with self.balance.listening() if self.balance else nullcontext():
            hidden_TD = self._run(embeds_TD, batch)
        output = self.language.lm_head(hidden_TD.index_select(0, batch.predict_N), batch.labels_N, batch.weights_N)
        if self.balance is None or not self.training:
            return output
        # one token alone is a filler: collate gives it to a process that was dealt nothing
        return output._replace(router_sum=self.balance.loss_sum(counts=len(batch.tokens_T) > 1))

    def _run(self, embeds_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The language model's hidden states, [T, D]."""
        hidden_1TD: torch.Tensor = self.language.model(
            inputs_embeds=embeds_TD[None],
            position_ids=batch.positions_T[None],
            attention_mask=no_mask(self.shape.language),
            use_cache=False,
            cu_seq_lens_q=batch.cu_seqlens,
            cu_seq_lens_k=batch.cu_seqlens,
            max_length_q=batch.max_seqlen,
            max_length_k=batch.max_seqlen,
        ).last_hidden_state
        return hidden_1TD[0]

    def _next(self, piece: Piece) -> torch.Tensor:
        embeds_BTD = self.language.get_input_embeddings()(piece.tokens_BT)
        if piece.tiles_M is not None:
            embeds_BTD = self._place_images(embeds_BTD.flatten(0, 1), piece).view_as(embeds_BTD)
        positions_BL = (piece.seen_BL.cumsum(1) - 1).clamp(min=0)
        positions_BT = positions_BL[:, -piece.tokens_BT.shape[1] :]
        hidden_BTD = self.language.model(
            *(
                None,
                piece.seen_BL,
                positions_BT,
                piece.cache,
            ),  # by place: transformers gave the last another name in 5.x
            inputs_embeds=embeds_BTD,
            use_cache=True,
        ).last_hidden_state
        logits_BV: torch.Tensor = self.language.lm_head(hidden_BTD[:, -1])
        return logits_BV

    def _place_images(self, embeds_TD: torch.Tensor, batch: Batch | Piece) -> torch.Tensor:
        """Overwrite the image positions with the tiles' rows.

        A micro-batch without tiles still sends one black tile through, and adds its first row times zero: so
        both have gradients (of zero), and under ZeRO every rank launches the same collectives.
        """
        assert batch.tiles_M is not None and batch.image_positions is not None
        if len(batch.tiles_M):
            rows_RD = self.encode(batch.tiles_M, embeds_TD.dtype).flatten(0, 1)
            return embeds_TD.index_copy(0, batch.image_positions, rows_RD)
        side = self.shape.vision.tile
        black_1 = torch.zeros((1, 3, side, side), dtype=torch.uint8, device=embeds_TD.device)
        return embeds_TD + 0 * self.encode(black_1, embeds_TD.dtype)[0, :1]

    def encode(self, tiles_M: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """uint8 tiles [M, 3, S, S] to rows of the language model's embedding, [M, P, D]."""
        self.vision.drop_path.see(tiles_M)
        # Pixels need no gradient, so autograd keeps nothing of a frozen tower: no `no_grad` is wanted here.
        return self.projector(self.vision(normalise(tiles_M, dtype)))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SailVL:
        # Every change of dtype or device comes through here, and the rotary frequencies must survive it.
        super()._apply(fn, recurse)
        restore_rotary(self.language)
        return self


def _weights(*, drawn: bool) -> AbstractContextManager[object]:
    """Modules that are made in it have random weights, or weights without content."""
    return nullcontext() if drawn else torch.device("meta")


def build_model(
    name: str,
    geometry: Geometry,
    seed: int,
    dtype: torch.dtype = torch.float32,
    adopt: Callable[[Architecture], Architecture] | None = None,
    given: Collection[str] = (),
) -> SailVL:
    """The model called `name`, on the CPU, with random weights that depend on `seed` alone, but for parts that are to be `given`
    theirs: see SailVL. `adopt` corrects its shape by what those weights know better (runtime.initial).

    Weights are drawn on one process as on many, in float32, and the caller's random state is left as it was.
    Raises ModelError if there is no such model or `geometry`, the build's, is not its own.
    """
    shape = architecture(name, geometry)
    if adopt is not None:
        shape = adopt(shape)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return SailVL(shape, dtype, given)


class PartRow(NamedTuple):
    """One line of the start-up table."""

    part: str
    parameters: int


def describe(model: SailVL) -> list[PartRow]:
    """The parts in the order of the data, with their parameters, a tied head once; under ZeRO-3 as well."""
    return [
        PartRow(name, sum(getattr(p, "ds_numel", p.numel()) for p in part.parameters()))
        for name, part in model.named_children()
    ]
