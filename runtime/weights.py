"""Weights that are handed on: a folder with `model.safetensors` and `config.json`, whole or not there.

They are the end of a stage, the start of the next, `--init` of another run, and what is exported. Never a
pickle. A tensor that several names share (a tied head) is stored once, under the first of them; `shared` in
config.json has the others. Tensors have the precision that the stage was trained in.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from runtime.errors import CheckpointError
from runtime.model.language import untie
from runtime.processes import Place, barrier
from shards.atomic import sync_folder
from shards.digest import digest_file

if TYPE_CHECKING:
    from runtime.model.sail_vl import SailVL

FILE = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
HEAD = "language.lm_head.weight"
"""Stored when it is not the embedding table."""


class Ingredient(msgspec.Struct, frozen=True, kw_only=True):
    """One of the models that an average is made of."""

    weights: str
    """blake3 of its model.safetensors."""
    share: float
    """All add up to 1."""
    root: str
    stage: str
    steps: int


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What config.json says of the weights beside it. Unknown fields are left for newer versions."""

    format: int
    model: str
    """Name of the architecture."""
    geometry: dict[str, Any]
    root: str
    """Of the build that the last stage was trained from. Of an average: of all that it is made of; empty if they differ."""
    stage: str
    """Empty for an average."""
    steps: int
    """Of that stage."""
    precision: str
    pixel_shuffle: str = "v2"
    shared: dict[str, str]
    """Name to the name that its tensor is stored under."""
    weights: str
    """blake3 of model.safetensors."""
    soup: list[Ingredient] | msgspec.UnsetType = msgspec.UNSET
    """What an average is made of (runtime.soup)."""


def tensors(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The model's persistent tensors by name, each once, and the other names of those that have several.

    At ZeRO 3 they are without content: see `gather`.
    """
    owners: dict[int, str] = {}
    stored, shared = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = owners.setdefault(id(tensor), name)
        if owner == name:
            stored[name] = tensor
        else:
            shared[name] = owner
    return stored, shared


def gather(model: nn.Module, place: Place) -> dict[str, torch.Tensor]:
    """The weights on the CPU, whole, in the first process; nothing in the others. In all processes."""
    import deepspeed

    whole = {}
    for name, tensor in tensors(model)[0].items():
        divided = [tensor] if hasattr(tensor, "ds_id") else []
        with deepspeed.zero.GatheredParameters(divided, enabled=bool(divided)):
            if place.first:
                whole[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return whole


def save(model: nn.Module, folder: Path, place: Place, /, **about: Any) -> None:
    """Write `folder`, which appears when it is whole. `about` are Config's fields from `model` to
    `precision`.

    In all processes; returns when the folder is there. OSError when it cannot be written.
    """
    whole = gather(model, place)
    if place.first:
        write(folder, whole, shared=tensors(model)[1], **about)
    barrier()


def write(folder: Path, whole: dict[str, torch.Tensor], /, **about: Any) -> None:
    """Write tensors by name to `folder`, which appears when it is whole, in the place of what was there. `about` are
    Config's fields but `format` and `weights`."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(whole, partial / FILE, metadata={"format": "pt"})
    config = Config(format=FORMAT, weights=digest_file(partial / FILE), **about)
    (partial / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
    for name in (FILE, CONFIG):
        with (partial / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(partial)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed right after
    partial.replace(folder)
    sync_folder(folder.parent)


def read_config(folder: Path) -> Config | None:
    """What is known of the weights in `folder`; None when it has no config.json. Raises CheckpointError."""
    path = folder / CONFIG
    try:
        return msgspec.json.decode(path.read_bytes(), type=Config)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise CheckpointError("not a description of weights", where=str(path), why=str(error)) from None


def load(model: SailVL, folder: Path) -> int:
    """Give `model` the weights in `folder`, every tensor of it, converted to its precision. Returns how many.

    Nothing is left at random: a name that only one of the two has, or another shape, is an error. So are
    weights that are not those config.json was written for. A head of its own makes the model's one of its own.
    Raises CheckpointError.
    """
    path = folder / FILE
    if not path.exists():
        raise CheckpointError(
            f"no {FILE} here", where=str(folder), mend="give a folder that a stage was saved in, such as RUN/STAGE"
        )
    config = read_config(folder)
    if config is not None and digest_file(path) != config.weights:
        raise CheckpointError("its bytes are not those that config.json was written for", where=str(path))
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            found = set(file.keys())
            if HEAD in found:
                untie(model.language)
            wanted, _ = tensors(model)
            if found != wanted.keys():
                raise mismatch(path, missing=wanted.keys() - found, odd=found - wanted.keys())
            for name, tensor in wanted.items():
                value = file.get_tensor(name)
                if value.shape != tensor.shape:
                    raise misshapen(
                        path, name, why=f"its shape is {list(value.shape)}, the model's is {list(tensor.shape)}"
                    )
                tensor.copy_(value)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("cannot be read as safetensors", where=str(path), why=str(error)) from None
    return len(wanted)


def mismatch(where: Path, *, missing: Set[str], odd: Set[str]) -> CheckpointError:
    """Names that only one side has."""
    return CheckpointError(
        "not the weights of this model",
        where=str(where),
        why="; ".join(
            f"{len(names)} tensors {what}, such as {min(names)}"
            for what, names in (("missing", missing), ("that it does not have", odd))
            if names
        ),
        mend="give weights of the model that the build was compiled for",
    )


def misshapen(where: Path, name: str, *, why: str) -> CheckpointError:
    """A tensor that the model has in another shape."""
    return CheckpointError("not the weights of this model", where=f"{where}: {name}", why=why)
