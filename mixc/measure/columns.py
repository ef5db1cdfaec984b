"""A Parquet table written row by row in bounded memory, with columns whose names and types only its rows tell.

The fixed columns come first, then one `col:NAME` for each further column, by name. A further column's type is the
narrowest that holds all of its values: bool, int64, uint64, double, string; null if there are none. Numbers that no
integer type holds together are double, anything else together is string (`as_text`).

While rows of one row group after the other keep their types, they go straight to the file. When a type must widen, a
new part file begins, and the parts are rewritten as one at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.facts import COLUMN_PREFIX
from mixc.sources.sample import Scalar

Type = Literal["null", "bool", "natural", "int64", "uint64", "double", "string"]
"""`natural` is an integer that both int64 and uint64 hold."""

Values: TypeAlias = "Sequence[Any] | npt.NDArray[Any] | pa.Array"

_ARROW: dict[Type, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "natural": pa.int64(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "double": pa.float64(),
    "string": pa.string(),
}


CELLS = 1 << 20
"""Further values that are held at most before a row group is written: with the limit of a value's length (COLUMN_TEXT_LIMIT)
it bounds memory, whatever columns a source has."""


class ColumnTable:
    def __init__(self, path: Path, schema: pa.Schema, *, row_group: int) -> None:
        self.rows = 0
        self._path, self._schema, self._row_group = path, schema, row_group
        self._fixed: list[pa.Table] = []
        self._extra: list[Mapping[str, Scalar]] = []
        self._held = self._cells = 0
        self._types: dict[str, Type] = {}
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, fixed: Mapping[str, Values], extra: Sequence[Mapping[str, Scalar]] = ()) -> None:
        """Rows: the fixed columns by name, and of each row its further values, or none at all. A group is written when at least
        `row_group` rows are held, so how rows are added shows in where groups end, and in nothing else."""
        table = pa.Table.from_arrays(
            [_fixed_array(fixed[field.name], field.type) for field in self._schema], schema=self._schema
        )
        self._fixed.append(table)
        self._extra += extra if extra else [{}] * len(table)
        self._held += len(table)
        self._cells += sum(map(len, extra))
        self.rows += len(table)
        if self._held >= self._row_group or self._cells >= CELLS:
            self._flush()

    def close(self) -> dict[str, str]:
        """Finish the file. The further columns and their Arrow types, by name."""
        if self._held or not self._parts:
            self._flush()
        assert self._writer is not None
        self._writer.close()
        if len(self._parts) == 1:
            self._parts[0].rename(self._path)
        else:
            with _writer(self._path, self._full_schema()) as writer:
                for part in self._parts:
                    for group in _row_groups(part):
                        writer.write_table(self._widened(group))
                    part.unlink()
        return {name: str(_ARROW[self._types[name]]) for name in sorted(self._types)}

    def _flush(self) -> None:
        columns: dict[str, list[Scalar]] = {
            name: [row.get(name) for row in self._extra] for name in sorted(self._types.keys() | _names(self._extra))
        }
        kinds = {name: set(map(type, values)) for name, values in columns.items()}
        types = {name: _wider(self._types.get(name, "null"), _common(columns[name], kinds[name])) for name in columns}
        before, self._types = self._full_schema(), types
        if self._writer is None or self._full_schema() != before:
            if self._writer is not None:
                self._writer.close()
            self._parts.append(self._path.with_name(f"{self._path.name}.{len(self._parts)}"))
            self._writer = _writer(self._parts[-1], self._full_schema())
        # in one piece, or the pieces would show in where pages end
        table = pa.concat_tables(self._fixed).combine_chunks() if self._fixed else self._schema.empty_table()
        for name, values in columns.items():
            table = table.append_column(COLUMN_PREFIX + name, _array(values, types[name], kinds[name]))
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._fixed, self._extra, self._held, self._cells = [], [], 0, 0

    def _full_schema(self) -> pa.Schema:
        fields = [*self._schema]
        fields += [pa.field(COLUMN_PREFIX + name, _ARROW[self._types[name]]) for name in sorted(self._types)]
        return pa.schema(fields)

    def _widened(self, table: pa.Table) -> pa.Table:
        schema = self._full_schema()
        arrays = [table[field.name] for field in self._schema]
        for name, wider in sorted(self._types.items()):
            column = COLUMN_PREFIX + name
            if column not in table.schema.names:
                arrays.append(pa.nulls(len(table), _ARROW[wider]))
            elif table.schema.field(column).type == _ARROW[wider]:
                arrays.append(table[column])
            else:
                values = table[column].to_pylist()
                arrays.append(_array(values, wider, set(map(type, values))))
        return pa.Table.from_arrays(arrays, schema=schema)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Dictionaries only of strings, which repeat: to make one of digests, and then throw it away, is half the work."""
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=strings or False)


def _row_groups(part: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(part) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _type(value: Scalar) -> Type:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            if value < 0:
                return "int64" if value >= -(1 << 63) else "double"
            return "natural" if value < 1 << 63 else "uint64" if value < 1 << 64 else "double"
        case float():
            return "double"
        case str():
            return "string"


_WIDER: dict[frozenset[Type], Type] = {
    frozenset[Type](("natural", "int64")): "int64",
    frozenset[Type](("natural", "uint64")): "uint64",
    frozenset[Type](("natural", "double")): "double",
    frozenset[Type](("int64", "uint64")): "double",
    frozenset[Type](("int64", "double")): "double",
    frozenset[Type](("uint64", "double")): "double",
}


def _wider(a: Type, b: Type) -> Type:
    """The type that holds the values of both."""
    if a == b or b == "null":
        return a
    return b if a == "null" else _WIDER.get(frozenset((a, b)), "string")


def _names(rows: Sequence[Mapping[str, Scalar]]) -> set[str]:
    return set().union(*rows)


def _common(values: Sequence[Scalar], kinds: set[type]) -> Type:
    """The narrowest type of all values, whose Python types are `kinds`."""
    match kinds - {NoneType}:
        case found if not found:
            return "null"
        case found if found == {float}:
            return "double"
        case found if found == {str}:
            return "string"
        case found if found == {int}:
            numbers = [value for value in values if value is not None]
            return _wider(_type(min(numbers)), _type(max(numbers)))
    common: Type = "null"
    for value in values:
        common = _wider(common, _type(value))
    return common


def _fixed_array(values: Values, type: pa.DataType) -> pa.Array:
    """Of numbers and of bytes of one length, none of them null, without a look at each: `pa.array` would also import pandas."""
    if isinstance(type, pa.BaseExtensionType):  # uuid, given as 16 bytes
        return pa.ExtensionArray.from_storage(type, _fixed_array(values, type.storage_type))
    if pa.types.is_integer(type):
        kind = np.dtype(type.to_pandas_dtype())
        if isinstance(values, np.ndarray) and len(values) and (values.min() < 0 or values.max() > np.iinfo(kind).max):
            raise OverflowError(f"a value is not in {type}")
        data = np.ascontiguousarray(values, kind)  # of a list, it raises that itself
        return pa.Array.from_buffers(type, len(data), [None, pa.py_buffer(data)])
    if pa.types.is_fixed_size_binary(type):
        joined = b"".join(values)
        assert len(joined) == len(values) * type.byte_width
        return pa.Array.from_buffers(type, len(values), [None, pa.py_buffer(joined)])
    return pa.array(values, type)


def _array(values: Sequence[Scalar], type: Type, kinds: set[type]) -> pa.Array:
    """`kinds` are the values' Python types: those that have the column's own need no conversion."""
    if type == "double" and not kinds <= {float, NoneType}:
        values = [None if value is None else _double(value) for value in values]
    elif type == "string" and not kinds <= {str, NoneType}:
        values = [None if value is None else as_text(value) for value in values]
    return pa.array(values, _ARROW[type])


def _double(value: Scalar) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # bool and str columns never become double
    except OverflowError:
        return float("inf") if isinstance(value, int) and value > 0 else float("-inf")


def as_text(value: Scalar) -> str:
    """A value in a column that is text because its values are of several kinds. A number is written as its double, whichever
    column held it on the way: whole to 2^53 without a point, or else as Python writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    number = _double(value)
    return str(int(number)) if number.is_integer() and abs(number) <= 1 << 53 else repr(number)
