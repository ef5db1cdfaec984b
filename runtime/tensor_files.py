"""A folder of safetensors as models are published: one `model.safetensors`, or several files and `model.safetensors.index.json`.

Files are read a tensor at a time, and written a file at a time: neither ever holds a whole model. Same tensors in the same order,
same bytes. Shards of a release are 5 GB at most, as those of SAIL-VL2-2B.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from runtime.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class TensorFiles:
    """The tensors of a folder by name. Use `opened`."""

    def __init__(self, folder: Path, files: dict[str, Any], names: dict[str, str]) -> None:
        self.folder, self._files, self._names = folder, files, names

    @property
    def names(self) -> set[str]:
        return set(self._names)

    def shape(self, name: str) -> tuple[list[int], torch.dtype]:
        """Of one tensor, without reading it."""
        header = self._files[self._names[name]].get_slice(name)
        return header.get_shape(), _DTYPES[header.get_dtype()]

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as it is stored. Raises CheckpointError when the file ends before it."""
        try:
            return self._files[self._names[name]].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(
                "cannot be read as safetensors", where=f"{self.folder / self._names[name]}: {name}", why=str(error)
            ) from None


@contextmanager
def opened(folder: Path) -> Iterator[TensorFiles]:
    """The folder's tensors. Raises CheckpointError when there are none, when a file is missing or is no safetensors, or when
    the index and the files do not agree."""
    index = folder / INDEX
    if index.exists():
        try:
            names = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
        except (OSError, msgspec.DecodeError) as error:
            raise CheckpointError("not an index of weights", where=str(index), why=str(error)) from None
        outside = [file for file in set(names.values()) if Path(file).name != file or file.startswith(".")]
        if outside:
            raise CheckpointError(f"it names a file outside the folder: {min(outside)!r}", where=str(index))
    elif (folder / SINGLE).exists():
        names = {}
    else:
        raise CheckpointError(
            f"neither {SINGLE} nor {INDEX} here",
            where=str(folder),
            mend="give the folder of a published model, or one that a stage was saved in, such as RUN/STAGE",
        )
    files: dict[str, Any] = {}
    try:
        for file in sorted(set(names.values())) or [SINGLE]:
            files[file] = safe_open(folder / file, framework="pt").__enter__()
    except (SafetensorError, OSError) as error:
        raise CheckpointError("cannot be read as safetensors", where=str(folder / file), why=str(error)) from None
    stored = {name: file for file, held in files.items() for name in held.keys()}  # noqa: SIM118  it is no mapping
    if names and names != stored:
        odd = min(name for name in names.keys() | stored.keys() if names.get(name) != stored.get(name))
        raise CheckpointError(
            "the index and the files beside it do not agree", where=str(index), why=f"such as on {odd}"
        )
    try:
        yield TensorFiles(folder, files, stored)
    finally:
        for held in files.values():
            held.__exit__(None, None, None)


def write(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], sizes: dict[str, int], limit: int = SHARD_BYTES
) -> None:
    """Write `tensors` into an empty `folder`, one file, or several of at most `limit` bytes and an index. `sizes`: bytes by name,
    in the order in which they will come. Files are synced. OSError when one cannot be written."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    files = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    )
    coming = iter(tensors)
    for file, names in zip(files, shards, strict=True):
        held = dict(next(coming) for _ in names)
        assert list(held) == names, "tensors come in the order of their sizes"
        save_file(held, folder / file, metadata={"format": "pt"})
        _sync(folder / file)
    if len(shards) > 1:
        placed = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(placed.items()))}
        (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n")
        _sync(folder / INDEX)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
