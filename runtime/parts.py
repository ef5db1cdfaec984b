"""Files of a checkpoint: each process's parts of the trained parameters, with the optimizer's state of each.

    parts/<rank>.safetensors
        weight/<parameter>          fp32, flat: elements `start` to `start` + length of the flattened parameter
        exp_avg/<parameter>         its moments, of the same elements; absent before the first update
        exp_avg_sq/<parameter>
    average/<parameter>         the weights' moving average, where the stage keeps one
        buffer/<name>               the model's own, whole; from the first process
        __metadata__                `parts`: start and number of updates, by parameter

Nothing in them is a matter of how many processes there are or of what ZeRO divides: whoever reads takes the
elements it wants from whichever files have them, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from runtime.errors import CheckpointError
from shards.atomic import atomic_write

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "average"
"""The weights' moving average, which a stage may keep beside the moments."""

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL"}
"""Names of the types that parameters and buffers have, in a safetensors header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`numel` elements of a parameter, from `start`, whose state is this process's to keep and to update.

    It lies at `offset` of `flat`, an fp32 tensor that the optimizer updates, and that can hold parts of several
    parameters.
    """

    name: str
    start: int
    numel: int
    flat: torch.Tensor
    offset: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part's elements, as a view, of `flat` or of another tensor of its shape."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.numel)


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    start: int
    updates: int


class Contents(NamedTuple):
    """What is to be in a file."""

    head: bytes
    tensors: list[torch.Tensor]
    """In the file's order, end to end. The very ones that are being trained, wherever they are."""


def contents(parts: Iterable[Part], state: Mapping[torch.Tensor, Any], buffers: Mapping[str, torch.Tensor]) -> Contents:
    """`state` is the optimizer's, by flat tensor."""
    tensors: dict[str, torch.Tensor] = {}
    about = {}
    for part in parts:
        held = state.get(part.flat, {})
        tensors[f"weight/{part.name}"] = part.of(part.flat)
        tensors |= {f"{kind}/{part.name}": part.of(held[kind]) for kind in (*MOMENTS, AVERAGE) if kind in held}
        about[part.name] = _About(start=part.start, updates=int(held["step"]) if held else 0)
    tensors |= {f"buffer/{name}": buffer.detach() for name, buffer in buffers.items()}
    header: dict[str, Any] = {"__metadata__": {"parts": msgspec.json.encode(about).decode()}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = msgspec.json.encode(header)
    head += b" " * (-len(head) % 8)
    return Contents(len(head).to_bytes(8, "little") + head, list(tensors.values()))


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its elements as uint8 [B], a view where it is contiguous."""
    return tensor.reshape(-1).view(torch.uint8)


def write(path: Path, head: bytes, tensors: Iterable[torch.Tensor]) -> tuple[int, str]:
    """Write a file, durably: the bytes of the tensors, or of pieces of their bytes, end to end. Returns its size and
    blake3, which is taken on the way, so that nothing is read again."""
    with atomic_write(path) as file:
        file.write(head)
        for tensor in tensors:
            file.write(flat_bytes(tensor.to("cpu")).numpy().data)
    return file.bytes, file.digest


class Saved:
    """The parts in the files of a checkpoint. Raises CheckpointError when a file is not one of ours."""

    def __init__(self, paths: list[Path]) -> None:
        self._where: dict[str, list[tuple[int, int, Any]]] = {}  # by parameter: start, end, file
        self._updates: dict[str, int] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        self.averaged = False
        """Whether they have the weights' average."""
        for path in paths:
            try:
                file = safe_open(path, framework="pt")
                about = msgspec.json.decode(file.metadata()["parts"], type=dict[str, _About])
                for name, each in about.items():
                    (numel,) = file.get_slice(f"weight/{name}").get_shape()
                    self._where.setdefault(name, []).append((each.start, each.start + numel, file))
                    self._updates[name] = each.updates
                self.averaged |= any(name.startswith(f"{AVERAGE}/") for name in file.keys())  # noqa: SIM118  # no mapping
                names = [name for name in file.keys() if name.startswith("buffer/")]  # noqa: SIM118
                self.buffers |= {name.removeprefix("buffer/"): file.get_tensor(name) for name in names}
            except (SafetensorError, msgspec.DecodeError, OSError, KeyError, TypeError, ValueError) as error:
                raise CheckpointError("not the parts of a model", where=str(path), why=str(error)) from None

    def check(self, sizes: Mapping[str, int], buffers: Iterable[str], where: Path) -> None:
        """Raises CheckpointError unless the files have each element of these parameters, with its number, once;
        and these buffers; and nothing else."""
        differ = sorted(sizes.keys() ^ self._where.keys()) or sorted(set(buffers) ^ self.buffers.keys())
        if differ:
            raise CheckpointError(
                "the checkpoint is of another model, or of one that trains other modules",
                where=str(where),
                why=f"one of the two has no {differ[0]}",
            )
        for name, pieces in self._where.items():
            pieces.sort(key=lambda piece: piece[:2])
            ends = [0, *(end for _, end, _ in pieces)]
            if [start for start, _, _ in pieces] != ends[:-1] or ends[-1] != sizes[name]:
                raise CheckpointError(
                    f"the checkpoint's parts of {name} do not make a tensor of {sizes[name]} elements",
                    where=str(where),
                    why="they are " + ", ".join(f"{start} to {end}" for start, end, _ in pieces),
                )

    def updates(self, name: str) -> int:
        """How often the optimizer had updated the parameter."""
        return self._updates[name]

    def fill(self, into: torch.Tensor, what: str, part: Part) -> None:
        """Copy the weights or a moment of `part` into a tensor of `part.numel` elements."""
        first, last = part.start, part.start + part.numel
        for start, end, file in self._where[part.name]:
            low, high = max(first, start), min(last, end)
            if low < high:
                piece = file.get_slice(f"{what}/{part.name}")[low - start : high - start]
                into.narrow(0, low - first, high - low).copy_(piece)
