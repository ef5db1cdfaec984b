"""Which parameters a stage trains, in which groups, and the AdamW over them.

The groups' rates and decay are ours to know and to set, every step, by position: an optimizer state that was
saved and loaded again is trusted for its moments alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from runtime.errors import TrainError
from shards.manifest import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One parameter group. Groups without a parameter do not exist."""

    module: str
    """Child of the model that its parameters are in; what the learning rate goes by."""
    weight_decay: float
    names: tuple[str, ...]
    """Of its parameters, in the model's order."""
    scale: float = 1.0
    """Of the module's rate."""


def freeze(model: nn.Module, settings: TrainSettings) -> None:
    """Let exactly the modules with a learning rate be trained: sets `requires_grad` of every parameter, one
    way or the other. Raises TrainError when nothing is left to train or a module does not exist."""
    modules = dict(model.named_children())
    unknown = sorted(set(settings.lr) - set(modules))
    if unknown:
        raise TrainError(
            f"the model has no module {unknown[0]!r} to train",
            why=f"its modules are {', '.join(modules)}",
            mend="correct `train.lr` in the spec and compile again",
        )
    for name, module in modules.items():
        module.requires_grad_(name in settings.lr)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainError(
            "nothing to train: every module is frozen",
            why="a module without a learning rate is frozen, and `train.lr` names none with parameters",
            mend=f"give `train.lr` at least one of {', '.join(modules)}, and compile again",
        )


def group(model: nn.Module, settings: TrainSettings) -> list[Group]:
    """The groups of the parameters that are trained, by module in the model's order, of the vision tower by layer from its stem up,
    those with decay first.

    Vectors (at most one axis longer than 1: biases, norms, class tokens) do not decay; matrices do. Layers have
    `layer_decay` to the power of the number of layers above them as the scale of their rate (Bao et al. 2021, BEiT).
    Call it before the engine is made: ZeRO-3 leaves parameters without a shape.
    """
    groups = []
    for module, child in model.named_children():
        named = [(f"{module}.{name}", p) for name, p in child.named_parameters() if p.requires_grad]
        decay = settings.layer_decay or 1.0 if module == "vision" else 1.0
        scales = {name: decay**below for name, below in _below_the_last([name for name, _ in named]).items()}
        for scale in sorted(set(scales.values())):
            own = [(name, p) for name, p in named if scales[name] == scale]
            matrices = tuple(name for name, p in own if not _is_vector(p))
            vectors = tuple(name for name, p in own if _is_vector(p))
            if matrices:
                groups.append(Group(module=module, weight_decay=settings.weight_decay, names=matrices, scale=scale))
            if vectors:
                groups.append(Group(module=module, weight_decay=0.0, names=vectors, scale=scale))
    return groups


_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def _below_the_last(names: Sequence[str]) -> dict[str, int]:
    """How many layers are above each parameter's: 0 for the last layer and what comes after it; for the stem, all."""
    found = {name: _LAYER.search(name) for name in names}
    layers = 1 + max((int(each[1]) for each in found.values() if each), default=-1)
    return {
        name: layers - 1 - int(each[1]) if each else layers if ".embeddings." in name else 0
        for name, each in found.items()
    }


def _is_vector(parameter: nn.Parameter) -> bool:
    return sum(size > 1 for size in parameter.shape) <= 1


def adamw(model: nn.Module, groups: list[Group], settings: TrainSettings) -> torch.optim.AdamW:
    """torch's AdamW (Loshchilov and Hutter 2019): DeepSpeed's own would be compiled on first use, for
    minutes."""
    parameters = dict(model.named_parameters())
    return torch.optim.AdamW(
        [{"params": [parameters[name] for name in each.names], "weight_decay": each.weight_decay} for each in groups],
        lr=0.0,  # set before every step
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def set_rates(
    optimizer: torch.optim.Optimizer, groups: list[Group], rates: dict[str, float], settings: TrainSettings
) -> None:
    """Give every group of `optimizer` (or of DeepSpeed's wrapper around it) the hyper-parameters it must
    have."""
    for wanted, held in zip(groups, optimizer.param_groups, strict=True):
        held["lr"] = rates[wanted.module] * wanted.scale
        held["weight_decay"] = wanted.weight_decay
        held["betas"] = settings.betas
        held["eps"] = settings.eps
