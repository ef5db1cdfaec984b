"""From Arrow batches to rows, for Parquet and Arrow files alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa

from mixc.errors import SourceError
from mixc.sources.files import printable
from mixc.sources.names import names, require
from mixc.sources.raw import RawRow, reject
from mixc.sources.rename import renamed, root
from mixc.sources.sample import Reject
from mixc.spec.schema import Source


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


def scalar_columns(schema: pa.Schema, source: Source, format: str) -> dict[str, str]:
    """The scalar columns that the source does not use, under their new names, and their types."""
    used = names(source, format).used
    kinds = renamed(schema, source.columns)
    return {name: told for name, kind in kinds.items() if name not in used and (told := scalar_type(kind))}


def wanted(schema: pa.Schema, source: Source, format: str) -> list[str]:
    """The columns, by their names in the file, that `rename` and the source have a use for."""
    paths = source.columns or {}
    used = names(source, format).used - paths.keys()
    roots = {root(path, schema.names) for path in paths.values()}
    return [field.name for field in schema if field.name in used | roots or scalar_type(field.type)]


def image_column(schema: pa.Schema, name: str, columns: Mapping[str, str] | None) -> str | None:
    """The file's column in which the images that the source calls `name` lie, `columns` being its new names; None when
    there is none."""
    column = root(columns[name], schema.names) if columns and name in columns else name
    return column if column in schema.names else None


def check_names(path: str, schema: pa.Schema) -> None:
    """Raises SourceError when two columns have one name."""
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise SourceError(
            f"two columns have the name {min(repeated)!r}",
            where=printable(path),
            mend="rename one of them: a column of a source is known by its name",
        )


def check(path: str, schema: pa.Schema, source: Source, format: str) -> None:
    """Raises SourceError when a column that the source needs is not there."""
    require(printable(path), source, format, renamed(schema, source.columns), schema.names)


def values(batch: pa.RecordBatch, wanted: list[str], first: int) -> Iterator[RawRow | Reject]:
    """The rows of a batch, under the file's own names, numbered from `first`."""
    # `columns=` of pyarrow takes "a" for the column a.b too, so that a batch may hold more than was asked for
    arrays = {name: batch.column(name) for name in wanted}
    try:
        lists = [array.to_pylist() for array in arrays.values()]
    except (ValueError, OverflowError, pa.ArrowException):  # UnicodeDecodeError is a ValueError
        for index in range(batch.num_rows):
            yield _value(arrays, index, first + index)
        return
    for index, row in enumerate(zip(*lists, strict=True) if lists else [()] * batch.num_rows):
        yield RawRow(row=first + index, values=dict(zip(arrays, row, strict=True)))


def _value(arrays: dict[str, pa.Array], index: int, row: int) -> RawRow | Reject:
    found: dict[str, object] = {}
    for name, array in arrays.items():
        try:
            found[name] = array[index].as_py()
        except UnicodeDecodeError:
            return reject(row, "not_utf8", f"column {name!r} holds bytes that are not UTF-8")
        except (ValueError, OverflowError, pa.ArrowException) as error:
            return reject(row, "wrong_type", f"column {name!r}: {error}")
    return RawRow(row=row, values=found)
