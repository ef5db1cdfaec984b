"""The likeliest answers of a model that is being trained, token by token.

All processes of a run work in step: each forward goes through the engine, and all make as many, for at ZeRO 3 every one of them
gathers weights that the others have. A process that is done, or was dealt nothing, goes on with what nobody reads.

Shapes: B prompts, T tokens of a forward, L tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from runtime.attention import NAME
from runtime.engine import Engine
from runtime.model.sail_vl import Piece, SailVL


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    tokens: Sequence[int]
    tiles_M: torch.Tensor
    """uint8 [M, 3, side, side], on the CPU."""
    most: int
    """Tokens of the answer at most."""


@contextmanager
def generating(model: SailVL) -> Iterator[None]:
    """A model in training, made for generating for a while: without gradients, and with an attention that takes a cache."""
    model.eval()
    model.language.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            yield
    finally:
        model.language.set_attn_implementation(NAME)
        model.train()


def answers(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    image_token: int,
    stop: Container[int],
    go_on: Callable[[bool], bool],
) -> list[list[int]]:
    """The tokens of each answer, with the one of `stop` that ended it, if any did. In all processes, in `generating`.

    `go_on` is asked after each token, with whether this process has more to make, whether any process has.
    """
    device = engine.device
    longest = max(len(prompt.tokens) for prompt in prompts)
    padded = [[0] * (longest - len(prompt.tokens)) + list(prompt.tokens) for prompt in prompts]
    tokens_BT = torch.tensor(padded, device=device)
    seen_BL = torch.tensor([[0] * (longest - len(p.tokens)) + [1] * len(p.tokens) for p in prompts], device=device)
    piece = Piece(
        tokens_BT=tokens_BT,
        seen_BL=seen_BL,
        cache=DynamicCache(config=engine.model.language.config),
        tiles_M=torch.cat([prompt.tiles_M for prompt in prompts]).to(device),
        image_positions=((tokens_BT == image_token) & (seen_BL == 1)).flatten().nonzero()[:, 0],
    )
    made: list[list[int]] = [[] for _ in prompts]
    more = [prompt.most > 0 for prompt in prompts]
    while True:
        next_B = engine.run(piece).argmax(-1)
        for row, token in enumerate(next_B.tolist()):
            if more[row]:
                made[row].append(token)
                more[row] = token not in stop and len(made[row]) < prompts[row].most
        if not go_on(any(more)):
            return made
        seen_BL = torch.cat([seen_BL, seen_BL.new_ones(len(prompts), 1)], dim=1)
        piece = Piece(tokens_BT=next_B[:, None], seen_BL=seen_BL, cache=piece.cache)
