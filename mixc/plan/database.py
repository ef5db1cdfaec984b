"""The DuckDB connection that a plan is made in: shut in from its first statement, and deterministic.

It can reach no file but its own spill files: facts come in and tables go out as Arrow. So the user's
expressions, which `mixc/spec/expression.py` has checked by an allow-list, meet a second wall here. All
arithmetic in SQL that decides something is on integers, every order is total, and every user's expression is
computed for every row of its table before anything filters by it: DuckDB reorders the parts of a filter by
how long they took, which may decide whether a cast fails.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from mixc.errors import PlanError

Shared: TypeAlias = "Callable[[int | None], duckdb.DuckDBPyConnection]"
"""What `shared_database` gives: the connection, for a number of threads."""


@contextmanager
def open_database(
    scratch: Path, *, threads: int | None = None, memory_limit: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database in memory that spills into `scratch`, a folder made now and removed
    at the end.

    `threads` defaults to the machine's cores, `memory_limit` (`4GB`) to DuckDB's 80 % of its memory; neither
    changes a plan. PlanError when DuckDB does not take a setting, or memory or disk run out.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    connection = None
    try:
        connection = duckdb.connect(":memory:")
        connection.execute(f"SET temp_directory = {literal(str(scratch))}")
        if threads is not None:
            connection.execute(f"SET threads = {int(threads)}")
        if memory_limit is not None:
            try:
                connection.execute(f"SET memory_limit = {literal(memory_limit)}")
            except duckdb.Error as error:
                raise PlanError(
                    f"{memory_limit!r} is not a memory limit",
                    why=first_line(error),
                    mend="write `4GB` or `512MB`",
                ) from None
        connection.execute("SET preserve_insertion_order = true")
        connection.execute("SET default_collation = ''")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET default_null_order = 'nulls_last'")
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise PlanError(
            "the plan does not fit the memory and disk that it may use",
            why=first_line(error),
            mend=f"allow more memory, or make room for spill files under {scratch.parent}",
        ) from None
    finally:
        if connection is not None:
            connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def shared_database(scratch: Path) -> Iterator[Shared]:
    """For several plans, one after the other: a function that gives the one connection, made when it is first called, with the
    threads of that call. To make one takes longer than to plan a small mixture in it."""
    with ExitStack() as stack:
        made: list[duckdb.DuckDBPyConnection] = []

        def database(threads: int | None) -> duckdb.DuckDBPyConnection:
            if not made:
                made.append(stack.enter_context(open_database(scratch, threads=threads)))
            return made[0]

        yield database


@contextmanager
def borrow(shared: Shared, scratch: Path, threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """The shared connection, in the place of an own one that `open_database` would give: with the folder `scratch`."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield shared(threads)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def insert(connection: duckdb.DuckDBPyConnection, sql: str, reader: pa.RecordBatchReader | pa.Table) -> None:
    """Run `sql`, in which the name `incoming` stands for the Arrow stream."""
    connection.register("incoming", reader)
    try:
        connection.execute(sql)
    finally:
        connection.unregister("incoming")


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """All rows of a small result. Fetched whole: DuckDB 2 refuses other work while a result has rows left."""
    return connection.execute(sql).fetchall()


def stream(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[pa.RecordBatch]:
    """The rows of `sql` in its order, in batches of any size. Nothing else may run on the connection
    meanwhile."""
    relation: Any = connection.sql(sql)
    if relation is None:  # pragma: no cover - only for a statement without rows
        return
    yield from (relation.to_arrow_reader() if hasattr(relation, "to_arrow_reader") else relation.fetch_arrow_reader())


def literal(text: str) -> str:
    """A string as SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def first_line(error: duckdb.Error) -> str:
    """What DuckDB says, without its class and its excerpt of SQL that the user did not write."""
    return re.sub(r"^[A-Za-z ]+ Error: ", "", str(error).split("\n", 1)[0]).strip()
