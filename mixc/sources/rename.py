"""Renamed and nested columns: `columns: {caption: meta.captions.0.long}`. Pure.

A path is a column's name; or names and list positions with dots between. A name that exists as it is written, dots
and all, wins over nesting, at every depth; of several such names the longest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

Paths = Mapping[str, str]
"""By the new name, the path of the value."""

_ABSENT = object()
_INDEX_DIGITS = 9


def rename(values: Mapping[str, object], paths: Paths | None) -> Mapping[str, object]:
    """The row with its new names. Every path is looked up in the row as it was, so two names can be exchanged.

    A column that is renamed loses its old name; one out of which a nested value is taken keeps it. A path that the
    row lacks gives no column. A new name hides a column of that name.
    """
    if not paths:
        return values
    taken = {new: found for new, path in paths.items() if (found := _find(values, path)) is not _ABSENT}
    gone = {path for path in paths.values() if path in values} | paths.keys()
    return {name: value for name, value in values.items() if name not in gone} | taken


def root(path: str, names: Collection[str]) -> str | None:
    """The column, one of `names`, that a path begins in; None when there is none."""
    return next((head for head, _ in _splits(path) if head in names), None)


def renamed(schema: pa.Schema, paths: Paths | None) -> dict[str, pa.DataType]:
    """The types of a schema's columns under their new names."""
    fields = {field.name: field.type for field in schema}
    if not paths:
        return fields
    taken = {new: kind for new, path in paths.items() if (kind := _type(fields, path)) is not None}
    gone = {path for path in paths.values() if path in fields} | paths.keys()
    return {name: kind for name, kind in fields.items() if name not in gone} | taken


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """(head, rest) for every place at which a path may be split, the longest head first."""
    yield path, ""
    at = len(path)
    while (at := path.rfind(".", 0, at)) >= 0:
        yield path[:at], path[at + 1 :]


def _find(value: object, path: str) -> object:
    if isinstance(value, Mapping):
        for head, rest in _splits(path):
            if head in value:
                return _find(value[head], rest) if len(head) < len(path) else value[head]
    elif isinstance(value, list):
        head, dot, rest = path.partition(".")
        if _is_index(head) and int(head) < len(value):
            return _find(value[int(head)], rest) if dot else value[int(head)]
    return _ABSENT


def _type(kind: dict[str, pa.DataType] | pa.DataType, path: str) -> pa.DataType | None:
    """`_find`, of types."""
    if isinstance(kind, dict) or pa.types.is_struct(kind):
        fields: dict[str, Any] = kind if isinstance(kind, dict) else {field.name: field.type for field in kind}
        for head, rest in _splits(path):
            if head in fields:
                return _type(fields[head], rest) if len(head) < len(path) else fields[head]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        head, dot, rest = path.partition(".")
        if _is_index(head):
            return _type(kind.value_type, rest) if dot else kind.value_type
    return None


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _INDEX_DIGITS
