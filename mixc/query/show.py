"""Answers as text: a table for people, CSV and JSON for programs. The last two are written as rows come."""

from __future__ import annotations

import csv
import datetime
import decimal
import math
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from mixc.query.ask import BATCH_ROWS, Answer, QueryError
from mixc.query.tables import Table
from mixc.spec.diagnostics import printable

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_ROWS = 1_000
"""Rows of an answer that a table shows: more are for --csv and --json."""
_CELL = 80
"""Characters of a value that a table shows."""
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


def plain(value: Any) -> Any:
    """A value of DuckDB's as JSON has it. Ids and bytes are hex, as everywhere in mixc; an integer beyond 64 bits and a
    decimal are text, for they would not survive being numbers; NaN and infinities, which JSON has not, are null."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return str(value)


def write_json(answer: Answer, out: TextIO) -> None:
    """One document: `columns` with names and types, and `rows`, an object each. Raises QueryError where two columns have one
    name."""
    names = [column.name for column in answer.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise QueryError(f"two columns are called `{printable(twice)}`", mend="name them apart with AS")
    columns = msgspec.json.encode(answer.columns).decode()
    out.write(f'{{\n  "columns": {columns},\n  "rows": [')
    before = "\n    "
    for row in answer.rows():
        out.write(before + msgspec.json.encode(dict(zip(names, map(plain, row), strict=True))).decode())
        before = ",\n    "
    out.write("\n  ]\n}\n")


def write_csv(answer: Answer, out: TextIO) -> None:
    """RFC 4180 with line feeds; the first line names the columns. NULL is an empty field, a list or a struct is JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in answer.columns])
    rows = answer.rows()
    while some := [[_field(value) for value in row] for row in islice(rows, BATCH_ROWS)]:
        writer.writerows(some)


def show(answer: Answer, console: Console) -> int | None:
    """A table of the first rows. Gives how many rows that are when there are more."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for column in answer.columns:
        number = column.type.removeprefix("U").startswith(_NUMBERS) and not column.type.endswith("]")
        grid.add_column(escape(printable(column.name)), justify="right" if number else "left", overflow="fold")
    rows = answer.rows()
    for row in islice(rows, SHOWN_ROWS):
        grid.add_row(*(escape(_cell(value)) for value in row))
    console.print(grid)
    return SHOWN_ROWS if next(rows, None) is not None else None


def table_lines(tables: list[Table]) -> Iterator[str]:
    """Every table: what it holds, then its columns and their types."""
    for table in tables:
        yield f"{table.name}: {table.about}"
        width = max(len(column.name) for column in table.columns)
        for column in table.columns:
            yield f"  {column.name:{width}}  {column.type}"


def _field(value: Any) -> str:
    value = plain(value) if not isinstance(value, float) else value
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)
    return msgspec.json.encode(value).decode()


def _cell(value: Any) -> str:
    return "NULL" if value is None else printable(_field(value), _CELL)
