"""A folder of safetensors as models are published: one `model.safetensors`, or several files and `model.safetensors.index.json`.

Files are read and written a tensor at a time: nothing here ever holds a model. Same tensors in the same order, same bytes. Shards of
a release are 5 GB at most, as those of SAIL-VL2-2B.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import torch

from runtime.errors import CheckpointError
from runtime.safetensor import Reader, Stored, Writer, reading, writing
from shards.atomic import atomic_write

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class TensorFiles:
    """The tensors of a folder by name. Use `opened`."""

    def __init__(self, folder: Path, files: dict[str, Reader]) -> None:
        """`files`: by the name of a tensor."""
        self.folder, self._files = folder, files

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def stored(self, name: str) -> Stored:
        """Of one tensor, without reading it."""
        return self._files[name].stored(name)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as it is stored. Raises CheckpointError when the file cannot be read or ends before it."""
        return self._files[name].read(name)

    def part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements `start` to `stop` of one tensor, row by row. Raises as `read`."""
        return self._files[name].part(name, start, stop)


@contextmanager
def opened(folder: Path) -> Iterator[TensorFiles]:
    """The folder's tensors. Raises CheckpointError when there are none, when a file is missing or is no safetensors, when the
    index and the files do not agree, and at the end when a file was changed in the meantime."""
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
    with ExitStack() as stack:
        files = {file: stack.enter_context(reading(folder / file)) for file in sorted(set(names.values())) or [SINGLE]}
        stored = {name: file for file, held in files.items() for name in held.names}
        if names and names != stored:
            odd = min(name for name in names.keys() | stored.keys() if names.get(name) != stored.get(name))
            raise CheckpointError(
                "the index and the files beside it do not agree", where=str(index), why=f"such as on {odd}"
            )
        yield TensorFiles(folder, {name: files[file] for name, file in stored.items()})


def write(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], stored: Mapping[str, Stored], limit: int = SHARD_BYTES
) -> None:
    """Write `tensors`, each whole or in pieces, into an empty `folder`: one file, or several of at most `limit` bytes, filled in
    the order of `stored`, and an index. Files are synced. OSError when one cannot be written."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, about in stored.items():
        if shards[-1] and filled + about.bytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += about.bytes
    files = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    )
    with ExitStack() as stack:
        writers: dict[str, Writer] = {}
        for file, names in zip(files, shards, strict=True):
            writer = stack.enter_context(writing(folder / file, {name: stored[name] for name in names}))
            writers |= dict.fromkeys(names, writer)
        for name, piece in tensors:
            writers[name].write(name, piece)
            del piece  # before the next is read
    if len(shards) > 1:
        placed = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        total = sum(about.bytes for about in stored.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        with atomic_write(folder / INDEX) as out:
            out.write(msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n")
