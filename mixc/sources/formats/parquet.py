"""Parquet, a batch of rows at a time: only the columns that are used, in memory bounded by a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.errors import SourceError
from mixc.sources.files import open_binary, printable
from mixc.sources.images import references
from mixc.sources.names import Names, missing, names
from mixc.sources.raw import RawRow, reject
from mixc.sources.sample import Reject
from mixc.spec.schema import Source

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 4096
_BUFFER_BYTES = 1 << 20
"""Column chunks are read through a buffer of this size, not whole: a row group of images can be gigabytes."""
_DAMAGED_ROWS = 1 << 20
"""Rejects for the rest of a damaged row group at most: its row count comes from the file and may be damaged
too."""


def rows(path: str, source: Source) -> Iterator[RawRow | Reject]:
    """The rows of a file. Raises OSError, and SourceError when it is not Parquet or lacks a column the source
    needs.

    A row group that is damaged (checksums are verified where the writer left any) is a Reject for each of its
    rows that could not be read; the next row group is read again.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        _check(path, schema, source)
        used = names(source, "parquet").used
        wanted = [field.name for field in schema if field.name in used or scalar_type(field.type)]
        row = 0
        for group in range(file.num_row_groups):
            first, count = row, file.metadata.row_group(group).num_rows
            try:
                for batch in _batches(file, group, wanted):
                    for values in _values(batch, wanted, row):
                        yield values
                        row += 1
            except (pa.ArrowException, OSError) as error:
                for lost in range(row, min(first + count, row + _DAMAGED_ROWS)):
                    yield reject(lost, "broken_row", f"row group {group} is damaged: {error}")
            row = first + count


def columns(path: str, source: Source) -> dict[str, str]:
    """The scalar columns that the source does not use, and their types. Raises as `rows`."""
    used = names(source, "parquet").used
    with _opened(path) as file:
        _check(path, file.schema_arrow, source)
        return {
            field.name: kind
            for field in file.schema_arrow
            if field.name not in used and (kind := scalar_type(field.type))
        }


def all_names(path: str) -> set[str]:
    """Every column. Raises as `rows`."""
    with _opened(path) as file:
        return set(file.schema_arrow.names)


def image_references(path: str, name: str) -> tuple[set[str], bool]:
    """The image paths that the rows name, and whether there is an image column. Raises as `rows`.

    A column of bytes, or of structs none of whose bytes are null (told from statistics), is not read.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        index = schema.get_field_index(name)
        if index < 0:
            return set(), False
        found: set[str] = set()
        for group in range(file.num_row_groups):
            if not _may_name_files(file, group, name, schema.field(index).type):
                continue
            try:
                for batch in _batches(file, group, [name]):
                    for item in _values(batch, [name], 0):
                        if isinstance(item, RawRow):
                            found.update(references(item.values.get(name)))
            except (pa.ArrowException, OSError):
                continue  # what cannot be read names nothing; `rows` rejects it
        return found, True


def scalar_type(kind: pa.DataType) -> str | None:
    """The name of a column type that `where` can use: bool, int64, uint64, double, string, null; None for the
    rest."""
    if pa.types.is_dictionary(kind):
        return scalar_type(kind.value_type)
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "uint64" if pa.types.is_uint64(kind) else "int64"
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    return "null" if pa.types.is_null(kind) else None


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with open_binary(path) as stream:
        try:
            file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
            repeated = [name for name, count in Counter(file.schema_arrow.names).items() if count > 1]
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                "this file is not Parquet, or its end is cut off",
                where=printable(path),
                why=str(error).splitlines()[0],
                mend="make or download it again: Parquet has its index at the end, so no row can be read",
            ) from None
        if repeated:
            raise SourceError(
                f"two columns have the name {min(repeated)!r}",
                where=printable(path),
                mend="rename one of them: a column of a source is known by its name",
            )
        yield file


def _check(path: str, schema: pa.Schema, source: Source) -> None:
    used: Names = names(source, "parquet")
    for key, wanted in used.required(source):
        if not any(name in schema.names for name in wanted):
            raise missing(printable(path), key, wanted, schema.names)


def _batches(file: pq.ParquetFile, group: int, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    meta = file.metadata.row_group(group)
    size = _BATCH_BYTES * max(meta.num_rows, 1) // max(meta.total_byte_size, 1)
    # one thread: the pipeline runs a process a fragment
    yield from file.iter_batches(
        batch_size=max(1, min(size, _BATCH_ROWS)), row_groups=[group], columns=wanted, use_threads=False
    )


def _values(batch: pa.RecordBatch, wanted: list[str], first: int) -> Iterator[RawRow | Reject]:
    # `columns=` of pyarrow takes "a" for the column a.b too, so that a batch may hold more than was asked for
    arrays = {name: batch.column(name) for name in wanted}
    try:
        lists = [array.to_pylist() for array in arrays.values()]
    except (ValueError, OverflowError, pa.ArrowException):  # UnicodeDecodeError is a ValueError
        for index in range(batch.num_rows):
            yield _value(arrays, index, first + index)
        return
    for index, values in enumerate(zip(*lists, strict=True) if lists else [()] * batch.num_rows):
        yield RawRow(row=first + index, values=dict(zip(arrays, values, strict=True)))


def _value(arrays: dict[str, pa.Array], index: int, row: int) -> RawRow | Reject:
    values: dict[str, object] = {}
    for name, array in arrays.items():
        try:
            values[name] = array[index].as_py()
        except UnicodeDecodeError:
            return reject(row, "not_utf8", f"column {name!r} holds bytes that are not UTF-8")
        except (ValueError, OverflowError, pa.ArrowException) as error:
            return reject(row, "wrong_type", f"column {name!r}: {error}")
    return RawRow(row=row, values=values)


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
