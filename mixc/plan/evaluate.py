"""The spec's expressions, computed by DuckDB over a source's rows, a batch at a time.

A row that does not take part (`keep`) is left out before DuckDB sees the batch: a threshold guards the expressions after
it against values that they could not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixc.plan.database import insert
from mixc.plan.expressions import Locate, Use, raise_translated, require_condition
from mixc.plan.load import SourceTable, column_batches

Mask = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]


def create_view(connection: duckdb.DuckDBPyConnection, source: SourceTable) -> None:
    """Create the empty table by which the source's expressions are typed, in place of one of an earlier plan."""
    insert(connection, f"CREATE OR REPLACE TABLE {source.view} AS SELECT * FROM incoming", source.schema.empty_table())


def condition(
    connection: duckdb.DuckDBPyConnection, source: SourceTable, use: Use, keep: Mask | None, locate: Locate
) -> Mask:
    """Where the condition holds, bool [rows]: false also where it is NULL or the row is not kept. Raises SpecError when
    it is no condition or does not work."""
    require_condition(connection, source.view, use, source.name, locate)
    values = evaluate(connection, source, use, keep, locate)
    flags = np.zeros(source.rows, bool)
    flags[slice(None) if keep is None else keep] = pc.fill_null(values.cast(pa.bool_()), False).to_numpy()
    return flags


def evaluate(
    connection: duckdb.DuckDBPyConnection, source: SourceTable, use: Use, keep: Mask | None, locate: Locate
) -> pa.ChunkedArray:
    """The expression's value for each kept row, in order. Raises SpecError when it does not work."""
    by_name = {name.casefold(): name for name in source.schema.names}
    names = sorted({by_name[name.casefold()] for name in use.expression.columns})
    parts = []
    for batch in column_batches(source, names, keep):
        connection.register("incoming", batch)
        try:
            result: Any = connection.sql(f"SELECT {use.expression.sql} AS value FROM incoming")
            parts.append(result.to_arrow_table()["value"])
        except duckdb.Error as error:
            raise_translated(connection, source.view, use, source.name, locate, error)
        finally:
            connection.unregister("incoming")
    if not parts:
        return pa.chunked_array([pa.array([], pa.null())])
    kinds = {part.type for part in parts}
    if len(kinds) > 1:  # a decimal's precision may follow the batch
        parts = [part.cast(pa.string()) for part in parts]
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)


def sortable(connection: duckdb.DuckDBPyConnection, columns: Sequence[pa.ChunkedArray]) -> list[tuple[U64, Mask]]:
    """Values of one kind in several sources, as numbers uint64 [rows] that sort alike, and which are NULL.

    Numbers sort as DuckDB's do: NaN is the greatest and -0 equals 0. Text sorts by its UTF-8 bytes.
    """
    kinds = {column.type for column in columns if not pa.types.is_null(column.type)}
    nulls = [column.is_null().to_numpy() for column in columns]
    if all(pa.types.is_signed_integer(kind) or pa.types.is_boolean(kind) for kind in kinds):
        encoded = [_integers(column) for column in columns]
    elif all(pa.types.is_signed_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        encoded = [_floats(column) for column in columns]
    else:
        encoded = _ranks(connection, columns)
    return list(zip(encoded, nulls, strict=True))


def _integers(column: pa.ChunkedArray) -> U64:
    values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return values.view(np.uint64) ^ np.uint64(1 << 63)  # type: ignore[no-any-return]


def _floats(column: pa.ChunkedArray) -> U64:
    """IEEE 754 doubles sort as their bits do, once the negative ones are complemented."""
    values = pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy() + 0.0  # -0 + 0 is 0
    bits = np.where(np.isnan(values), np.float64("nan"), values).view(np.uint64)
    bits[np.isnan(values)] = 0x7FF8000000000000
    sign = np.uint64(1 << 63)
    return np.where(bits & sign != 0, ~bits, bits | sign)


def _ranks(connection: duckdb.DuckDBPyConnection, columns: Sequence[pa.ChunkedArray]) -> list[U64]:
    """Dense ranks by DuckDB's order, whatever the type."""
    tables = [pa.table({"value": column}) for column in columns]
    unions = []
    for number, table in enumerate(tables):
        insert(connection, f"CREATE OR REPLACE TEMP TABLE values_{number} AS SELECT * FROM incoming", table)
        unions.append(f"SELECT {number} AS part, rowid AS place, value FROM values_{number}")
    ranked: Any = connection.sql(
        "SELECT part, dense_rank() OVER (ORDER BY value)::UBIGINT AS rank"
        f" FROM ({' UNION ALL '.join(unions)}) ORDER BY part, place"
    ).to_arrow_table()
    for number in range(len(tables)):
        connection.execute(f"DROP TABLE values_{number}")
    ends = np.cumsum([len(column) for column in columns])
    return np.split(ranked["rank"].to_numpy(), ends[:-1])


def labels(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[str | None]]:
    """Values as codes int64 [rows] and what each code stands for, as text; NULL is a value of its own. Sorted by
    text, NULL last."""
    text = column.cast(pa.string())
    encoded = pc.dictionary_encode(text.combine_chunks())
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda i: names[i].encode())
    rank = np.empty(len(names) + 1, np.int64)
    rank[order] = np.arange(len(names))
    rank[-1] = len(names)
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), len(names)).to_numpy()
    found: list[str | None] = [names[i] for i in order]
    return rank[codes], [*found, None]
