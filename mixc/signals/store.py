"""Values of a signal on disk, one file for each object.

    CACHE/signals/<first two hex>/<digest>/values.parquet    one column `value`; rows as in the object's facts.parquet
    CACHE/signals/<first two hex>/<digest>/signal.json       SignalInfo

The digest is over all that decides the values, so that what has been computed is never computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

STORE_VERSION = 1
VALUES, INFO = "values.parquet", "signal.json"
ROW_GROUP = 1 << 14


class SignalInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    store: int
    digest: str
    object: str
    signal: str
    version: str
    benchmark: str | None
    """Digest of what it compares with."""
    samples: int
    bytes: int
    """Of values.parquet: a file of another size is computed again."""


def signal_digest(
    object: str, *, name: str, version: str, function: str | None, settings: Mapping[str, Any], benchmark: str | None
) -> str:
    """The key of an object's values, in hex. `object` and `benchmark` are digests; the object's covers content, source
    and how rows are read."""
    key = {
        "store": STORE_VERSION,
        "object": object,
        "signal": name,
        "version": version,
        "function": function,
        "settings": dict(settings),
        "benchmark": benchmark,
    }
    return blake3(msgspec.json.encode(key, order="sorted")).hexdigest()


def signal_path(cache: Path, digest: str) -> Path:
    return cache / "signals" / digest[:2] / digest


def is_whole(folder: Path) -> bool:
    """Whether there are finished values at `folder`."""
    try:
        info = read_info(folder)
        size = (folder / VALUES).stat().st_size
    except (OSError, msgspec.MsgspecError):
        return False
    return (info.store, info.digest, info.bytes) == (STORE_VERSION, folder.name, size)


def write_info(
    folder: Path, digest: str, *, object: str, signal: str, version: str, benchmark: str | None, samples: int
) -> None:
    """The last file of a folder of values."""
    info = SignalInfo(
        store=STORE_VERSION,
        digest=digest,
        object=object,
        signal=signal,
        version=version,
        benchmark=benchmark,
        samples=samples,
        bytes=(folder / VALUES).stat().st_size,
    )
    (folder / INFO).write_bytes(msgspec.json.format(msgspec.json.encode(info, order="sorted"), indent=1))


def read_info(folder: Path) -> SignalInfo:
    """Raises OSError or msgspec.MsgspecError when there is none."""
    return msgspec.json.decode((folder / INFO).read_bytes(), type=SignalInfo)


class FixedColumn:
    """Values of a type that is known before, written a row group at a time."""

    def __init__(self, path: Path, type: pa.DataType) -> None:
        self._path, self._schema = path, pa.schema([("value", type)])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[pa.Array] = []
        self._rows = 0

    def add(self, values: Any) -> None:
        """N values: what `pa.array` takes, or uint32 [N, K] for a signature."""
        self._held.append(to_arrow(values, self._schema.field("value").type))
        self._rows += len(self._held[-1])
        if self._rows >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.table([pa.chunked_array(self._held)], self._schema), row_group_size=self._rows)
        self._held, self._rows = [], 0


class OwnColumn:
    """Values of a user's function: its type is known when all have come. A column of nothing but NULL has type null."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: list[pa.Array] = []
        self._types: set[pa.DataType] = set()

    def add(self, values: pa.Array) -> None:
        """Raises ValueError when the values so far have no type in common."""
        self._held.append(values)
        self._types.add(values.type)
        own_type(self._types)

    def close(self) -> None:
        """Raises pa.ArrowInvalid when an integer is not exact as the double that it must become."""
        type = own_type(self._types)
        column = pa.chunked_array([array.cast(type) for array in self._held], type)
        pq.write_table(pa.table({"value": column}), self._path, compression="zstd", row_group_size=ROW_GROUP)


def own_type(types: set[pa.DataType]) -> pa.DataType:
    """The type that holds all: integers become doubles beside doubles, nothing else becomes anything else."""
    types = {type for type in types if not pa.types.is_null(type)}
    if types == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(types) > 1:
        raise ValueError(f"values of {' and '.join(sorted(map(str, types)))}")
    return types.pop() if types else pa.null()


def to_arrow(values: Any, type: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        data = np.ascontiguousarray(values, "<u4").tobytes()
        return pa.Array.from_buffers(type, len(values), [None, pa.py_buffer(data)])
    return pa.array(values, type)
