"""Parquet, a batch of rows at a time: only the columns that are used, in memory bounded by a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.errors import SourceError
from mixc.sources.files import open_binary, printable
from mixc.sources.formats import table
from mixc.sources.fragment import Part
from mixc.sources.images import references
from mixc.sources.raw import RawRow, reject
from mixc.sources.rename import rename
from mixc.sources.sample import Reject
from mixc.spec.schema import Source

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 4096
_BUFFER_BYTES = 1 << 20
"""Column chunks are read through a buffer of this size, not whole: a row group of images can be gigabytes."""
_DAMAGED_ROWS = 1 << 20
"""Rejects for the rest of a damaged row group at most: its row count comes from the file and may be damaged
too."""


def rows(path: str, source: Source, part: Part | None = None) -> Iterator[RawRow | Reject]:
    """The rows of a file, or of a part of it. Raises OSError, and SourceError when it is not Parquet or lacks a column
    the source needs.

    A row group that is damaged (checksums are verified where the writer left any) is a Reject for each of its
    rows that could not be read; the next row group is read again.
    """
    with opened(path) as file:
        schema = file.schema_arrow
        table.check(path, schema, source, "parquet")
        wanted = table.wanted(schema, source, "parquet")
        row = 0 if part is None else part.first_row
        for group in _groups(file, part):
            first, count = row, file.metadata.row_group(group).num_rows
            try:
                for batch in _batches(file, group, wanted):
                    for values in table.values(batch, wanted, row):
                        yield values
                        row += 1
            except (pa.ArrowException, OSError) as error:
                for lost in range(row, min(first + count, row + _DAMAGED_ROWS)):
                    yield reject(lost, "broken_row", f"row group {group} is damaged: {error}")
            row = first + count


def columns(path: str, source: Source) -> dict[str, str]:
    """The scalar columns that the source does not use, and their types. Raises as `rows`."""
    with opened(path) as file:
        table.check(path, file.schema_arrow, source, "parquet")
        return table.scalar_columns(file.schema_arrow, source, "parquet")


def all_names(path: str) -> set[str]:
    """Every column. Raises as `rows`."""
    with opened(path) as file:
        return set(file.schema_arrow.names)


def image_references(
    file: pq.ParquetFile, name: str, columns: Mapping[str, str] | None, part: Part | None = None
) -> tuple[set[str], bool]:
    """The image paths that the rows of an `opened` file, or of a part of it, name in the column `name`, and whether there is
    one. `columns` are the source's new names.

    A column of bytes, or of structs none of whose bytes are null (told from statistics), is not read.
    """
    schema = file.schema_arrow
    column = table.image_column(schema, name, columns)
    if column is None:
        return set(), False
    kind = schema.field(column).type
    found: set[str] = set()
    for group in _groups(file, part):
        if column == (columns or {}).get(name, name) and not _may_name_files(file, group, column, kind):
            continue
        try:
            for batch in _batches(file, group, [column]):
                for item in table.values(batch, [column], 0):
                    if isinstance(item, RawRow):
                        found.update(references(rename(item.values, columns).get(name)))
        except (pa.ArrowException, OSError):
            continue  # what cannot be read names nothing; `rows` rejects it
    return found, True


def _groups(file: pq.ParquetFile, part: Part | None) -> range:
    return range(file.num_row_groups) if part is None else range(part.first, part.last)


@contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile]:
    """Raises OSError, and SourceError when it is not Parquet."""
    with open_binary(path) as stream:
        try:
            file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                "this file is not Parquet, or its end is cut off",
                where=printable(path),
                why=str(error).splitlines()[0],
                mend="make or download it again: Parquet has its index at the end, so no row can be read",
            ) from None
        table.check_names(path, file.schema_arrow)
        yield file


def _batches(file: pq.ParquetFile, group: int, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    meta = file.metadata.row_group(group)
    size = _BATCH_BYTES * max(meta.num_rows, 1) // max(meta.total_byte_size, 1)
    # one thread: the pipeline runs a process a fragment
    yield from file.iter_batches(
        batch_size=max(1, min(size, _BATCH_ROWS)), row_groups=[group], columns=wanted, use_threads=False
    )


def _may_name_files(file: pq.ParquetFile, group: int, name: str, kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return False
    if not pa.types.is_struct(kind):
        return True
    meta = file.metadata.row_group(group)
    for index in range(meta.num_columns):
        column = meta.column(index)
        parts = column.path_in_schema.split(".")
        if parts[0] == name and parts[-1] == "bytes":
            statistics = column.statistics
            return statistics is None or not statistics.has_null_count or statistics.null_count > 0
    return True
