"""Arrow IPC streams, as Hugging Face `save_to_disk` writes them: a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

from mixc.errors import SourceError
from mixc.sources.files import Opener, open_binary, printable
from mixc.sources.formats import table
from mixc.sources.images import references
from mixc.sources.raw import RawRow, reject
from mixc.sources.rename import rename
from mixc.sources.sample import Reject
from mixc.spec.schema import Source

_ROWS = 64
"""Rows that are Python objects at once. A batch itself is as large as its writer made it."""


def rows(path: str, source: Source) -> Iterator[RawRow | Reject]:
    """The rows of a file. Raises OSError, and SourceError when it is no Arrow stream or lacks a column the source
    needs. Where the stream breaks off, the rows before are kept and one Reject follows."""
    with _opened(path) as stream:
        table.check(path, stream.schema, source, "arrow")
        yield from _rows(stream, table.wanted(stream.schema, source, "arrow"))


def columns(path: str, source: Source) -> dict[str, str]:
    """The scalar columns that the source does not use, and their types. Raises as `rows`."""
    with _opened(path) as stream:
        table.check(path, stream.schema, source, "arrow")
        return table.scalar_columns(stream.schema, source, "arrow")


def all_names(path: str) -> set[str]:
    """Every column. Raises as `rows`."""
    with _opened(path) as stream:
        return set(stream.schema.names)


def image_references(path: str, name: str, columns: Mapping[str, str] | None, opener: Opener) -> tuple[set[str], bool]:
    """The image paths that the rows name in the column `name`, and whether there is one, as `parquet` has it."""
    with _opened(path, opener) as stream:
        column = table.image_column(stream.schema, name, columns)
        if column is None:
            return set(), False
        kind = stream.schema.field(column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return set(), True
        found: set[str] = set()
        for row in _rows(stream, [column]):
            if isinstance(row, RawRow):
                found.update(references(rename(row.values, columns).get(name)))
        return found, True


def _rows(stream: pa.RecordBatchReader, wanted: list[str]) -> Iterator[RawRow | Reject]:
    row = 0
    try:
        for batch in stream:
            _validate(batch)
            for at in range(0, batch.num_rows, _ROWS):
                yield from table.values(batch.slice(at, _ROWS), wanted, row + at)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield reject(row, "broken_row", f"nothing after row {row} can be read: {why}")


def _validate(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid for damaged offsets, which would read outside of the buffers. Text that is not UTF-8 is no
    such damage: it is found row by row."""
    for array in batch.columns:
        if pa.types.is_string(array.type):
            array = array.view(pa.binary())
        elif pa.types.is_large_string(array.type):
            array = array.view(pa.large_binary())
        array.validate(full=True)


@contextmanager
def _opened(path: str, opener: Opener = open_binary) -> Iterator[pa.RecordBatchReader]:
    with opener(path) as file:
        try:
            stream = pa.ipc.open_stream(file)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                "this file is not an Arrow stream, or is cut off",
                where=printable(path),
                why=str(error).splitlines()[0],
                mend="save the data set again with `save_to_disk`",
            ) from None
        table.check_names(path, stream.schema)
        yield stream
