"""torch.compile for the layers: one graph that all layers of a part share, for packs of any length.

Not the model as a whole: a layer is compiled once, in seconds, and its graphs serve the others, since weights are what goes into a graph
and not what it is made of (PyTorch calls it regional compilation). Lengths, and numbers of tiles, are symbols from the first graph on, so
another pack needs no other graph, but for sizes of 1, which torch keeps apart.

Attention over a packed row stays out of the graphs, as a call of its own: on a CPU it reads the borders of the samples on the host.
So does what listens to a module (drop path, the balance of experts): where hooks run inside a layer, the parts between them are
compiled.

A module's `forward` is replaced, on the object alone: its class, the names of its parameters and what listens to it stay.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn

from runtime.attention import keep_out_of_graphs
from runtime.errors import ArgumentError

LIMIT = 64
"""Graphs of one function that torch keeps before it gives up, silently, and runs the function as it is; 8 by default. A few are wanted
for each part, as transformers wraps the layers of all in one function: one tile, the first layer, evaluation."""


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Compile what will be called of the layers' forward passes; torch does it when a layer is first called. After whatever puts hooks
    into the layers, before what wraps the forward pass of a whole one."""
    torch._dynamo.reset()  # graphs of an earlier stage, that trained other modules, count against those that torch keeps
    torch._dynamo.config.recompile_limit = LIMIT
    keep_out_of_graphs()
    for layer in layers:
        for region in regions(layer):
            region.forward = torch.compile(region.forward, dynamic=True)


def uncompiled() -> AbstractContextManager[None]:
    """Within it, compiled layers run as they are: for generating, where a cache that grows and its own attention would want other graphs."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def regions(module: nn.Module) -> Iterator[nn.Module]:
    """The module, if no hook runs inside its forward pass; else those of its children, in order."""
    if not any(_hooked(inner) for inner in module.modules() if inner is not module):
        yield module
        return
    for child in module.children():
        yield from regions(child)


def _hooked(module: nn.Module) -> bool:
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, kind) for kind in kinds)


def missing(device_type: str) -> str:
    """What torch.compile would want on such a device and does not find, by name; empty where all is there. Nothing is run."""
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton"
        given = os.environ.get("CC")
        return (
            ""
            if any(map(shutil.which, [given] if given else ["gcc", "clang"]))
            else "a C compiler (gcc, or what CC names)"
        )
    return "" if shutil.which(os.environ.get("CXX", "g++")) else "a C++ compiler (g++, or what CXX names)"


def check(device: torch.device) -> None:
    """Compile a little, forward and backward. Raises ArgumentError where that fails."""

    def gelu(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x).sum()

    lacking = missing(device.type)
    try:
        torch.compile(gelu, dynamic=True)(torch.ones(8, 4, device=device, requires_grad=True)).backward()
    except Exception as error:  # a compiler that does not run, a disk that is full: whatever those drivers raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ArgumentError(
            "torch.compile does not work here",
            where="--compile",
            why=said[0],
            mend=f"install {lacking}, or leave the flag out" if lacking else "leave the flag out",
        ) from None
