"""What each step of a stage holds: fixed records, one a step, known before the first pack is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.atomic import atomic_write
from shards.digest import digest
from shards.errors import ShardError
from shards.handles import open_file
from shards.pack import Pack, supervised_by_segment, tiles_by_image
from shards.store import Place

STEP_DTYPE = np.dtype(
    [
        (
            "denominator",
            "<f8",
        ),  # sum over the step of weight x supervised tokens: what the loss is divided by
        ("tokens", "<u8"),
        ("supervised", "<u8"),  # tokens
        ("images", "<u8"),
        ("tiles", "<u8"),  # thumbnails counted
        ("samples", "<u8"),  # segments: each piece of a sample that was split counts
        ("reserved", "V16"),  # 0
    ]
)


def pack_denominator(pack: Pack) -> float:
    """Sum over segments of weight x supervised tokens, exactly rounded. Each product is exact in float64."""
    weights = pack.segments["weight"].astype(np.float64)
    return math.fsum((weights * supervised_by_segment(pack)).tolist())


def step_record(packs: Iterable[Pack]) -> npt.NDArray[np.void]:
    """STEP_DTYPE [] of one step. Its denominator is the exactly rounded sum of its packs' denominators, so
    that no order of summing and no division over ranks can show in it."""
    record = np.zeros((), STEP_DTYPE)
    denominators = []
    for pack in packs:
        denominators.append(pack_denominator(pack))
        record["tokens"] += len(pack.tokens)
        record["supervised"] += supervised_by_segment(pack).sum().astype(np.uint64)
        record["images"] += len(pack.images)
        record["tiles"] += tiles_by_image(pack).sum().astype(np.uint64)
        record["samples"] += len(pack.segments)
    record["denominator"] = math.fsum(denominators)
    return record


def write_steps(path: Path, array: npt.NDArray[np.void]) -> str:
    """Write STEP_DTYPE [steps] to `path`, atomically. Returns blake3 of the file."""
    if array.dtype != STEP_DTYPE or array.ndim != 1:
        raise ShardError(f"{path}: steps are {array.dtype} of {array.ndim} dimensions, not {STEP_DTYPE} of one")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(array.tobytes())
    return file.digest


def read_steps(path: Place, expected_digest: str | None = None, *, steps: int | None = None) -> npt.NDArray[np.void]:
    """STEP_DTYPE [steps], read-only, mapped from `path` if that is a file of this machine. With `expected_digest`, the
    blake3 of the file, every byte is read and checked: 64 bytes a step; with `steps`, their number. Raises ShardError when
    the file is missing, of a broken size or another digest."""
    file = open_file(path)
    size = file.size
    if size % STEP_DTYPE.itemsize:
        raise ShardError(f"{path}: {size} bytes are no multiple of {STEP_DTYPE.itemsize}: truncated")
    if steps is not None and size != steps * STEP_DTYPE.itemsize:  # before a file in a store is read
        raise ShardError(f"{path}: {size // STEP_DTYPE.itemsize} steps, the manifest says {steps}")
    if size == 0:  # which cannot be mapped
        array: npt.NDArray[np.void] = np.zeros(0, STEP_DTYPE)
        array.flags.writeable = False
    elif isinstance(path, Path):
        array = np.memmap(path, STEP_DTYPE, mode="r")
    else:
        array = np.frombuffer(file.read_at(0, size, "steps"), STEP_DTYPE)
    if expected_digest is not None:
        found = digest(array.data.cast("B") if size else b"")
        if found != expected_digest:
            raise ShardError(f"{path}: blake3 is {found}, the manifest says {expected_digest}")
    return array
