"""Facts of all objects, read into the plan's database: one table a source, with only the columns that are
used.

Read with pyarrow rather than by DuckDB: the database may open no file, a path may hold any character, and
names that differ in case stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.errors import BuildError
from mixc.measure.facts import COLUMN_PREFIX, FACTS_SCHEMA, SIGNALS
from mixc.plan.database import insert, quoted, rows
from mixc.plan.expressions import ROW
from mixc.plan.keys import split_ids

BATCH_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFragment:
    """A measured fragment, as the plan needs it."""

    source: str
    path: str
    """Where the fragment lies. Provenance only."""
    digest: str
    """The fragment's own digest."""
    object: str
    """The object's digest: its key in the cache."""
    facts: Path
    """The object's facts.parquet."""
    samples: int
    rejects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedFragment:
    number: int
    first_row: int
    """Samples in the fragments before it: with a row's place in its facts this numbers all samples."""
    fragment: PlannedFragment


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A source's facts in the database."""

    name: str
    index: int
    """Among the spec's sources, sorted by name."""
    table: str
    view: str
    """Signals and used columns under the names that expressions give them, and ROW."""
    rows: int


def number_fragments(fragments: Sequence[PlannedFragment]) -> list[NumberedFragment]:
    """Fragments in the order of (source, digest, path), numbered from 0."""
    ordered = sorted(fragments, key=lambda f: (f.source, f.digest, f.path))
    numbered, rows = [], 0
    for number, fragment in enumerate(ordered):
        numbered.append(NumberedFragment(number=number, first_row=rows, fragment=fragment))
        rows += fragment.samples
    return numbered


def source_columns(fragments: Sequence[NumberedFragment]) -> dict[str, set[pa.DataType]]:
    """A source's own columns, over all its fragments, and the Arrow types they have there. Raises
    BuildError."""
    columns: dict[str, set[pa.DataType]] = {}
    for fragment in fragments:
        for field in _open(fragment).schema_arrow:
            if field.name.startswith(COLUMN_PREFIX):
                columns.setdefault(field.name.removeprefix(COLUMN_PREFIX), set()).add(field.type)
    return columns


def common_type(types: set[pa.DataType]) -> pa.DataType:
    """One type for a column that may have several, so that the division of a source into files does not
    matter.

    Integers become int64, any other mix of numbers float64, and a mix of other kinds text. A column that is
    nowhere but NULL becomes text too.
    """
    kinds = {t for t in types if not pa.types.is_null(t)}
    if kinds and all(pa.types.is_integer(t) and t != pa.uint64() for t in kinds):
        return pa.int64()
    if kinds and all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in kinds):
        return pa.float64() if any(map(pa.types.is_floating, kinds)) else pa.decimal128(20, 0)
    if len(kinds) == 1:
        (kind,) = kinds
        return pa.string() if pa.types.is_large_string(kind) else kind
    return pa.string()


def load_source(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    index: int,
    fragments: Sequence[NumberedFragment],
    columns: dict[str, pa.DataType],
) -> SourceTable:
    """Create the table and the view of a source from the facts of its fragments, with `columns` of its own.

    The table has `n` (the sample's number), `fragment`, `row`, `hi` and `lo` (id), `chi` and `clo` (content),
    `columns` (digest), `start` and `length` (of the record), the signals as int64, and a column `x0`, `x1`,
    ... for each of `columns` in order. Raises BuildError when an object cannot be read or does not hold what
    it should.
    """
    schema = pa.schema(
        [("n", pa.int64()), ("fragment", pa.uint32()), ("row", pa.uint64())]
        + [(half, pa.uint64()) for half in ("hi", "lo", "chi", "clo", "columns", "start")]
        + [("length", pa.uint32())]
        + [(signal, pa.int64()) for signal in SIGNALS]
        + [(f"x{i}", kind) for i, kind in enumerate(columns.values())]
    )
    failures: list[BuildError] = []  # DuckDB passes on only the text of an exception in a stream
    reader = pa.RecordBatchReader.from_batches(schema, _batches(fragments, columns, schema, failures))
    table, view = f"facts_{index}", f"source_{index}"
    try:
        insert(connection, f"CREATE TABLE {table} AS SELECT * FROM incoming", reader)
    except duckdb.Error:
        if failures:
            raise failures[0] from None
        raise
    names = [f"n AS {ROW}", *SIGNALS, *(f"x{i} AS {quoted(column)}" for i, column in enumerate(columns))]
    connection.execute(f"CREATE VIEW {view} AS SELECT {', '.join(names)} FROM {table}")
    ((count,),) = rows(connection, f"SELECT count(*) FROM {table}")
    return SourceTable(name=name, index=index, table=table, view=view, rows=count)


def _open(fragment: NumberedFragment) -> pq.ParquetFile:
    """The facts of a fragment, checked against FACTS_SCHEMA and the number of samples. Raises BuildError."""
    path = fragment.fragment.facts
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _broken(fragment, str(error)) from None
    schema = file.schema_arrow
    for field in FACTS_SCHEMA:
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            raise _broken(fragment, f"column `{field.name}` is not {field.type}")
    if file.metadata.num_rows != fragment.fragment.samples:
        raise _broken(fragment, f"{file.metadata.num_rows} rows, not {fragment.fragment.samples}")
    return file


def _broken(fragment: NumberedFragment, why: str) -> BuildError:
    return BuildError(
        "the object of a fragment cannot be read",
        where=str(fragment.fragment.facts),
        why=why,
        mend="delete the object's folder from the cache; it will be measured again",
    )


def _batches(
    fragments: Sequence[NumberedFragment],
    columns: dict[str, pa.DataType],
    schema: pa.Schema,
    failures: list[BuildError],
) -> Iterator[pa.RecordBatch]:
    for fragment in fragments:
        try:
            yield from _fragment_batches(fragment, columns, schema)
        except BuildError as error:
            failures.append(error)
            raise
        except (OSError, pa.ArrowException) as error:
            failures.append(_broken(fragment, str(error)))
            raise


def _fragment_batches(
    fragment: NumberedFragment, columns: dict[str, pa.DataType], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    file, number = _open(fragment), fragment.first_row
    present = [column for column in columns if COLUMN_PREFIX + column in file.schema_arrow.names]
    wanted = ["row", "id", "content", "columns", "offset", "length", *SIGNALS]
    for batch in file.iter_batches(BATCH_ROWS, columns=wanted + [COLUMN_PREFIX + column for column in present]):
        rows = batch.num_rows
        hi, lo = _halves(batch["id"])
        chi, clo = _halves(batch["content"])
        arrays: list[Any] = [
            np.arange(number, number + rows, dtype=np.int64),
            np.full(rows, fragment.number, np.uint32),
            batch["row"],
            *(hi, lo, chi, clo, batch["columns"], batch["offset"], batch["length"]),
            *(batch[signal].cast(pa.int64()) for signal in SIGNALS),
        ]
        for column, kind in columns.items():
            if column in present:  # not safe: an integer beyond 2^53 may become the nearest float64
                arrays.append(batch[COLUMN_PREFIX + column].cast(kind, safe=False))
            else:
                arrays.append(pa.nulls(rows, kind))
        yield pa.RecordBatch.from_arrays([pa.array(array) for array in arrays], schema=schema)
        number += rows


def _halves(ids: pa.ExtensionArray) -> tuple[Any, Any]:
    """Halves of a uuid column without NULLs."""
    storage = ids.storage
    data = memoryview(storage.buffers()[1])[16 * storage.offset : 16 * (storage.offset + len(storage))]
    return split_ids(data)
