"""Where DeepSpeed (0.19) keeps the fp32 weights of the trained parameters in this process, and what has to follow
when they are written to.

ZeRO 0 holds each parameter whole, in every process. ZeRO 1 and 2 lay a group's parameters end to end and cut
the whole into equal lengths, so a parameter may be cut anywhere; ZeRO 3 cuts each parameter into equal lengths,
the last one padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from runtime.parts import Part
from runtime.processes import Place


def own_parts(optimizer: Any, named: dict[str, nn.Parameter], place: Place, *, zero: int) -> Iterator[Part]:
    """The parts that this process keeps of the trained parameters `named`. `optimizer` is the engine's: torch's
    at ZeRO 0 in fp32, else DeepSpeed's around it."""
    masters = _masters(optimizer) if zero == 0 else {}
    for name, parameter in named.items():
        if zero == 0:
            flat = masters.get(parameter, parameter)
            yield Part(name=name, start=0, numel=flat.numel(), flat=flat, offset=0)
        elif zero < 3:
            mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:
                ours, theirs = mapping.lp_fragment_address, mapping.hp_fragment_address
                (flat,) = optimizer.optimizer.param_groups[mapping.param_group_index]["params"]
                yield Part(name=name, start=ours.start, numel=theirs.numel, flat=flat, offset=theirs.start)
        else:
            group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = place.rank * padded
            numel = min(padded, parameter.ds_numel - start)  # type: ignore[attr-defined]
            if numel > 0:
                flat = optimizer.fp32_partitioned_groups_flat[group]
                yield Part(name=name, start=start, numel=numel, flat=flat, offset=offset)


def _masters(optimizer: Any) -> dict[nn.Parameter, torch.Tensor]:
    """In bf16, DeepSpeed's fp32 copies by parameter."""
    if not hasattr(optimizer, "fp32_groups"):
        return {}
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {low: high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}


def spread(optimizer: Any, named: dict[str, nn.Parameter], parts: list[Part], *, zero: int) -> None:
    """Make the model's own weights those of the parts, after these were written to. In all processes."""
    if zero in (1, 2):
        optimizer.update_lp_params()
        return
    if zero == 3:
        optimizer.checkpoint_event_prologue()  # lets go of what is gathered, which is out of date
    for part in parts:
        parameter = named[part.name]
        own = parameter.ds_tensor if zero == 3 else parameter  # type: ignore[attr-defined]
        own.detach().view(-1).narrow(0, 0, part.numel).copy_(part.of(part.flat))
    if zero == 3:
        optimizer.checkpoint_event_epilogue()
