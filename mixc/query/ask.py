"""One query over a build's tables: what it may be, how it runs, and what a mistake in it looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb

from mixc.errors import MixcError
from mixc.query.tables import ABOUT, Column
from mixc.spec.diagnostics import printable

BATCH_ROWS = 4096
"""Rows that are in Python's memory at a time."""
_LINE = 500
"""Characters of a line of DuckDB's message that are shown."""


class QueryError(MixcError):
    """The query is wrong, or more than the machine can do: DuckDB's own words, with its caret."""


class Answer:
    """Columns of an answer, and its rows, once, as they are computed: no answer is held whole."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, query: str) -> None:
        """Raises QueryError."""
        self._connection = connection
        self._threads = ThreadPoolExecutor(1)
        _one_select(connection, query)
        self._run(lambda: connection.execute(query))
        self.columns = [Column(name=name, type=str(type)) for name, type, *_ in connection.description or []]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Raises QueryError, be it after some rows."""
        while batch := self._run(lambda: self._connection.fetchmany(BATCH_ROWS)):
            yield from batch

    def _run(self, work: Callable[[], Any]) -> Any:
        """In a thread: DuckDB does not hear ctrl-C, and the main thread does."""
        running = self._threads.submit(work)
        try:
            return running.result()
        except KeyboardInterrupt:
            self._connection.interrupt()
            running.exception()  # until it has let go of the connection
            raise
        except duckdb.Error as error:
            raise _told(error) from None


def _one_select(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise _told(error) from None
    if len(statements) != 1:
        raise QueryError(
            "a query is one statement" if statements else "there is no statement in this query",
            mend='as in "select source, count(*) from placements group by source"',
        )
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(
            f"a query begins with select, from, with, describe or summarize; this is {kind.name.lower().replace('_', ' ')}",
            why="the tables of a build are only read",
            mend="name the values of a PIVOT: `pivot t on c in ('a', 'b') using ...`" if kind.name == "MULTI" else "",
        )


def _told(error: duckdb.Error) -> QueryError:
    """DuckDB's message without its class: the first line, then candidates and the excerpt with its caret."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryError(
            "the query needs more memory, or more disk to spill to, than it may use",
            why=printable(str(error).split("\n", 1)[0], _LINE),
            mend="allow it more with --memory, or let it aggregate",
        )
    lines = [_clean(line) for line in str(error).split("\n")]
    first = lines[0].partition(" Error: ")[2] or lines[0]
    told = "\n".join([first, *(f"  {line}" for line in lines[1:] if line.strip())])
    mend = ""
    if isinstance(error, duckdb.CatalogException) and first.startswith("Table"):
        mend = f"the tables are {', '.join(sorted(ABOUT))}"
    elif first.startswith("reading the stream"):  # Arrow, in the middle of a file
        mend = "`mixc verify` says what is wrong with the build"
    return QueryError(told, mend=mend)


def _clean(line: str) -> str:
    """Safe for a terminal, with the blanks that a caret stands under."""
    return "".join(c if c.isprintable() else "�" for c in line[:_LINE])
