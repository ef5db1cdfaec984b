"""What the cache still knows of samples: the columns that rules read. A build does without; so may whoever explains it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.facts import COLUMN_PREFIX, SIGNALS
from mixc.measure.object import object_path
from shards.cache_folder import cache_folder


def known_values(object: str, rows: Collection[int], wanted: Collection[str]) -> dict[int, dict[str, Any]]:
    """By row of an object's fragment, the values of the columns and built-in signals `wanted`, by name in lower case. Without
    those that are not in the cache: all of an object that was removed, and signals that were computed after measuring."""
    path = object_path(cache_folder(), object) / "facts.parquet"
    try:
        stored = _stored(pq.read_schema(path).names, wanted)
        table = pq.read_table(path, columns=["row", *stored.values()], filters=[("row", "in", set(rows))])
    except (OSError, pa.ArrowException):
        return {}
    columns: Mapping[str, list[Any]] = {name: table[column].to_pylist() for name, column in stored.items()}
    return {
        row: {name: values[at] for name, values in columns.items()} for at, row in enumerate(table["row"].to_pylist())
    }


def _stored(names: list[str], wanted: Collection[str]) -> dict[str, str]:
    """Names of the file's columns, by name in lower case. A signal hides a column of its name."""
    own = {name.removeprefix(COLUMN_PREFIX).casefold(): name for name in names if name.startswith(COLUMN_PREFIX)}
    found = {**own, **{name: name for name in SIGNALS}}
    return {name: found[name] for name in sorted(wanted) if name in found}
