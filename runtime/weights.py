"""Weights that are handed on: a folder with `model.safetensors` and `config.json`, whole or not there.

They are the end of a stage, the start of the next, `--init` of another run, and what is exported. Never a
pickle. A tensor that several names share (a tied head) is stored once, under the first of them; `shared` in
config.json has the others. Tensors have the precision that the stage was trained in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from blake3 import blake3
from torch import nn

from runtime.errors import CheckpointError
from runtime.model.language import untie
from runtime.new_folder import appearing
from runtime.processes import Place, barrier
from runtime.safetensor import Stored, raw, reading, writing
from shards.atomic import atomic_write
from shards.digest import digest_file

if TYPE_CHECKING:
    from runtime.model.sail_vl import SailVL

FILE = "model.safetensors"
CONFIG = "config.json"
AVERAGES = "averages"
"""Folder in a run, of the moving averages of the stages' weights."""
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


def gather(model: nn.Module, place: Place) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights on the CPU, whole, in the first process, one after another: each is good until the next is asked for. Nothing
    in the others. To be exhausted in all processes."""
    import deepspeed

    for name, tensor in tensors(model)[0].items():
        divided = [tensor] if hasattr(tensor, "ds_id") else []
        with deepspeed.zero.GatheredParameters(divided, enabled=bool(divided)):
            if place.first:
                yield name, tensor.detach().cpu()


def save(model: nn.Module, folder: Path, place: Place, /, **about: Any) -> None:
    """Write `folder`, which appears when it is whole. `about` are Config's fields from `model` to
    `precision`.

    In all processes; returns when the folder is there. OSError when it cannot be written.
    """
    gathered = gather(model, place)
    if place.first:
        own, shared = tensors(model)
        stored = {name: Stored(tuple(getattr(each, "ds_shape", each.shape)), each.dtype) for name, each in own.items()}
        # in the place of what was there: of a run that was killed right after
        write(folder, stored, gathered, replacing=True, shared=shared, **about)
    else:
        for _ in gathered:
            pass
    barrier()


def write(
    folder: Path,
    stored: Mapping[str, Stored],
    pieces: Iterable[tuple[str, torch.Tensor]],
    /,
    *,
    replacing: bool = False,
    **about: Any,
) -> None:
    """Write tensors to `folder`, which appears when it is whole. `pieces` are those that `stored` describes, in any order, each
    whole or in pieces of some rows; `about` are Config's fields but `format` and `weights`. Raises as `appearing`."""
    with appearing(folder, size=sum(each.bytes for each in stored.values()), replacing=replacing) as partial:
        with writing(partial / FILE, stored) as file:
            for name, piece in pieces:
                file.write(name, piece)
                del piece  # before the next is made
        config = Config(format=FORMAT, weights=digest_file(partial / FILE), **about)
        with atomic_write(partial / CONFIG) as out:
            out.write(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")


def read_config(folder: Path) -> Config | None:
    """What is known of the weights in `folder`; None when it has no config.json. Raises CheckpointError."""
    path = folder / CONFIG
    try:
        return msgspec.json.decode(path.read_bytes(), type=Config)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise CheckpointError("not a description of weights", where=str(path), why=str(error)) from None


def trusted(folder: Path) -> Config:
    """What is known of the weights in `folder`, which are, to the last byte, those that it was said of. Raises CheckpointError."""
    config, path = read_config(folder), folder / FILE
    if config is None or not path.exists():
        raise CheckpointError(
            "no weights of a trained stage here", where=str(folder), mend="give a folder such as RUN/STAGE"
        )
    if digest_file(path) != config.weights:
        raise _others(path)
    return config


def load(model: SailVL, folder: Path) -> int:
    """Give `model` the weights in `folder`, every tensor of it, converted to its precision. Returns how many.

    Nothing is left at random or empty: a name that only one of the two has, or another shape, is an error. So are
    weights that are not those config.json was written for. A head of its own makes the model's one of its own.
    Raises CheckpointError, when the model may have some of the weights.
    """
    path = folder / FILE
    if not path.exists():
        raise CheckpointError(
            f"no {FILE} here", where=str(folder), mend="give a folder that a stage was saved in, such as RUN/STAGE"
        )
    config = read_config(folder)
    with reading(path) as file:
        found = set(file.names)
        if HEAD in found:
            untie(model.language)
        wanted, _ = tensors(model)
        if found != wanted.keys():
            raise mismatch(path, missing=wanted.keys() - found, odd=found - wanted.keys())
        for name, tensor in wanted.items():
            shape = file.stored(name).shape
            if shape != tensor.shape:
                raise misshapen(path, name, why=f"its shape is {list(shape)}, the model's is {list(tensor.shape)}")
        hasher = blake3(file.head)
        for name in file.names:  # in the file's order: what is loaded is what is digested, in one reading
            value = file.read(name)
            hasher.update(raw(value))
            give(wanted[name], value)
    if config is not None and hasher.hexdigest() != config.weights:
        raise _others(path)
    return len(wanted)


@torch.no_grad()
def give(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Make a model's `tensor`, be it without content on the meta device, be `value` in its own precision, for all that hold it."""
    if not tensor.is_meta:
        tensor.copy_(value)
        return
    value = value.to(tensor.dtype).contiguous()
    if value.untyped_storage().nbytes() > value.nbytes:  # a part of something would keep the whole in memory
        value = value.clone()
    if isinstance(tensor, nn.Parameter):
        value = nn.Parameter(value, requires_grad=tensor.requires_grad)
    torch.utils.swap_tensors(tensor, value)


def _others(path: Path) -> CheckpointError:
    return CheckpointError("its bytes are not those that config.json was written for", where=str(path))


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
