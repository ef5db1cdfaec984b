"""What the cache still knows of samples: the columns and signals that rules read. A build does without; so may whoever explains it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.facts import COLUMN_PREFIX, SIGNALS
from mixc.measure.object import object_path
from mixc.signals.job import Wanted
from mixc.signals.locked import found_signals
from shards.cache_folder import cache_folder


def known_values(
    object: str, rows: Collection[int], wanted: Collection[str], signals: Sequence[Wanted] = ()
) -> dict[int, dict[str, Any]]:
    """By row of an object's fragment, the values of the columns and signals `wanted`, by name in lower case. `signals` are those that
    the spec has computed. Without those that are not in the cache: all of an object that was removed, or a signal's values."""
    cache = cache_folder()
    path = object_path(cache, object) / "facts.parquet"
    computed = [signal for signal in signals if signal.name in wanted]
    try:
        stored = _stored(pq.read_schema(path).names, set(wanted) - {signal.name for signal in computed})
        table = pq.read_table(path, columns=["row", *stored.values()], filters=[("row", "in", set(rows))])
        columns = {name: table[column].to_pylist() for name, column in stored.items()}
        found = found_signals(cache, object, computed)
        if found:  # whose values stand in the order of the facts, which is that of rows
            places = np.searchsorted(pq.read_table(path, columns=["row"])["row"].to_numpy(), table["row"].to_numpy())
            for name, file in found.items():
                columns[name] = pq.read_table(file, columns=["value"])["value"].take(places).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    return {
        row: {name: values[at] for name, values in columns.items()} for at, row in enumerate(table["row"].to_pylist())
    }


def _stored(names: list[str], wanted: Collection[str]) -> dict[str, str]:
    """Names of the file's columns, by name in lower case. A signal hides a column of its name."""
    own = {name.removeprefix(COLUMN_PREFIX).casefold(): name for name in names if name.startswith(COLUMN_PREFIX)}
    found = {**own, **{name: name for name in SIGNALS}}
    return {name: found[name] for name in sorted(wanted) if name in found}
