"""A Parquet table written row by row in bounded memory, with columns whose names and types only its rows tell.

The fixed columns come first, then one `col:NAME` for each further column, by name. A further column's type is the
narrowest that holds all of its values: bool, int64, uint64, double, string; null if there are none. Numbers that no
integer type holds together are double, anything else together is string. In a string column a number is written in its
shortest form (1, not 1.0) and a boolean as true or false.

While rows of one row group after the other keep their types, they go straight to the file. When a type must widen, a
new part file begins, and the parts are rewritten as one at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.facts import COLUMN_PREFIX
from mixc.sources.sample import Scalar

Type = Literal["null", "bool", "natural", "int64", "uint64", "double", "string"]
"""`natural` is an integer that both int64 and uint64 hold."""

_ARROW: dict[Type, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "natural": pa.int64(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "double": pa.float64(),
    "string": pa.string(),
}


class ColumnTable:
    def __init__(self, path: Path, schema: pa.Schema, *, row_group: int) -> None:
        self.rows = 0
        self._path, self._schema, self._row_group = path, schema, row_group
        self._fixed: list[Mapping[str, Any]] = []
        self._extra: list[Mapping[str, Scalar]] = []
        self._types: dict[str, Type] = {}
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, fixed: Mapping[str, Any], extra: Mapping[str, Scalar] | None = None) -> None:
        self._fixed.append(fixed)
        self._extra.append(extra or {})
        self.rows += 1
        if len(self._fixed) >= self._row_group:
            self._flush()

    def close(self) -> dict[str, str]:
        """Finish the file. The further columns and their Arrow types, by name."""
        if self._fixed or not self._parts:
            self._flush()
        assert self._writer is not None
        self._writer.close()
        if len(self._parts) == 1:
            self._parts[0].rename(self._path)
        else:
            with pq.ParquetWriter(self._path, self._full_schema(), compression="zstd") as writer:
                for part in self._parts:
                    for group in _row_groups(part):
                        writer.write_table(self._widened(group))
                    part.unlink()
        return {name: str(_ARROW[self._types[name]]) for name in sorted(self._types)}

    def _flush(self) -> None:
        types = dict(self._types)
        for row in self._extra:
            for name, value in row.items():
                types[name] = _wider(types.get(name, "null"), _type(value))
        before, self._types = self._full_schema(), types
        if self._writer is None or self._full_schema() != before:
            if self._writer is not None:
                self._writer.close()
            self._parts.append(self._path.with_name(f"{self._path.name}.{len(self._parts)}"))
            self._writer = pq.ParquetWriter(self._parts[-1], self._full_schema(), compression="zstd")
        arrays = [_fixed_array([row[field.name] for row in self._fixed], field.type) for field in self._schema]
        arrays += [_array([row.get(name) for row in self._extra], types[name]) for name in sorted(types)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._full_schema()))
        self._fixed, self._extra = [], []

    def _full_schema(self) -> pa.Schema:
        fields = [*self._schema]
        fields += [pa.field(COLUMN_PREFIX + name, _ARROW[self._types[name]]) for name in sorted(self._types)]
        return pa.schema(fields)

    def _widened(self, table: pa.Table) -> pa.Table:
        schema = self._full_schema()
        arrays = [table[field.name] for field in self._schema]
        for name in sorted(self._types):
            column, type = COLUMN_PREFIX + name, self._types[name]
            if column not in table.schema.names:
                arrays.append(pa.nulls(len(table), _ARROW[type]))
            elif table.schema.field(column).type == _ARROW[type]:
                arrays.append(table[column])
            else:
                arrays.append(_array(table[column].to_pylist(), type))
        return pa.Table.from_arrays(arrays, schema=schema)


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


def _fixed_array(values: list[Any], type: pa.DataType) -> pa.Array:
    if isinstance(type, pa.BaseExtensionType):  # uuid, given as 16 bytes
        return pa.ExtensionArray.from_storage(type, pa.array(values, type.storage_type))
    return pa.array(values, type)


def _array(values: list[Scalar], type: Type) -> pa.Array:
    if type == "double":
        values = [None if value is None else _double(value) for value in values]
    elif type == "string":
        values = [None if value is None else _text(value) for value in values]
    return pa.array(values, _ARROW[type])


def _double(value: Scalar) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # bool and str columns never become double
    except OverflowError:
        return float("inf") if isinstance(value, int) and value > 0 else float("-inf")


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and _type(value) != "double":
        return str(value)
    number = _double(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1 << 53 else repr(number)
