"""No expression that passes reads a file, a setting, a clock, another row or more than its columns; and none crashes.

Expressions are made in two ways: grown by a grammar that mixes what is allowed with what is hostile, and mutated from a list
of hostile texts. What `parse_expression` accepts is run as the plan runs it, in the plan's own connection, over a table whose
columns have hostile names and whose values are hostile too. Then

- the query plan scans the table and nothing else,
- every row's value is what that row alone gives, and the same a second time,
- no canary shows: not the environment's, not a file's, not a setting's, in no value and in no error,
- settings, tables and rows are what they were.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.plan.database import insert, literal, open_database, quoted
from mixc.spec.expression import FUNCTIONS, ExpressionError, parse_expression

CANARY = "canary-7f3a91c2"

NAMES = [
    *("a", "b", "text", "score", "Größe", "表", "select", "from", "order", "null", "true", "1", "$1", "?", "#1", "*"),
    *('a"b', "it's", "a;drop table facts", "--", "/*", "*/", "a.b", ")", "(", "a) or (b", "';--", "read_text('x')"),
    *("random()", "COLUMNS('.*')", "a as b", "x -> x", "E'\\x41'", "$$", "U&'\\0041'", "::regclass", " lead", "tail "),
    *("\u202egnirts", "a\u200bb", "`a`", "[0]", "{'a': 1}", "facts", "value", "incoming", "current_user ", "𝔞"),
]
"""Of columns. One that only differs in case from another is not among them: the plan refuses those."""

ROWS = 7


def values(column: int) -> pa.Array:
    """A column of one of the types that facts have."""
    hostile = ["x", "", "'; drop table facts; --", '"', "read_text('/etc/passwd')", None, f"${{{CANARY[:3]}}}"]
    return [
        pa.array([1, 2, None, -(2**63), 2**63 - 1, 0, 7], pa.int64()),
        pa.array([0.5, float("nan"), float("inf"), None, -0.0, 1e300, 5e-324], pa.float64()),
        pa.array(hostile, pa.string()),
        pa.array([True, False, None, True, False, None, True], pa.bool_()),
        pa.array([2**64 - 1, 0, 1, None, 5, 6, 7], pa.uint64()),
    ][column % 5]


TABLE = pa.table({name: values(i) for i, name in enumerate(NAMES)})
FOLDED = {name.casefold(): name for name in NAMES}
assert len(FOLDED) == len(NAMES)


class Plan:
    """The plan's connection, and what of it must not change."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, file: Path) -> None:
        self.connection, self.file = connection, file
        insert(connection, "CREATE TABLE facts AS SELECT * FROM incoming", TABLE)
        for row in range(ROWS):
            insert(connection, f"CREATE TABLE row_{row} AS SELECT * FROM incoming", TABLE.slice(row, 1))
        self.state = self.look()

    def look(self) -> str:
        queries = [
            "SELECT name, value FROM duckdb_settings() ORDER BY ALL",
            "SELECT * FROM duckdb_tables() ORDER BY ALL",
            "SELECT * FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
            "SELECT * FROM facts",
        ]
        return repr([self.connection.execute(query).fetchall() for query in queries])

    def run(self, sql: str, table: str) -> tuple[list[Any] | None, str]:
        """Values, or None and what DuckDB said."""
        try:
            found = self.connection.execute(f"SELECT {sql} AS value FROM {table}")
            assert len(found.description) == 1
            return [repr(value) for (value,) in found.fetchall()], ""
        except (duckdb.InternalException, duckdb.FatalException, duckdb.PermissionException, duckdb.IOException):
            raise  # a crash, or a wall that only the database kept
        except duckdb.Error as error:
            return None, str(error)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    folder = tmp_path_factory.mktemp('it\'s; a "folder" --')
    file = folder / "canary.csv"
    file.write_text(f"{CANARY}\n")
    os.environ["MIXC_CANARY"] = CANARY
    before = Path.cwd()
    os.chdir(folder)  # so that a bare name would find the file
    try:
        with open_database(folder / "spill '; drop" / CANARY, threads=1) as connection:
            yield Plan(connection, file)
    finally:
        os.chdir(before)
        del os.environ["MIXC_CANARY"]


SCANS = ("SCAN", "READ", "FUNCTION", "SUBQUERY", "JOIN", "AGGREGATE", "WINDOW", "UNNEST", "GROUP")


def operators(node: Any) -> Iterator[tuple[str, str]]:
    """(name, table) of a query plan's operators."""
    for each in node if isinstance(node, list) else [node]:
        info = each.get("extra_info") or {}
        yield each.get("name", "").strip(), str(info.get("Table", "")) if isinstance(info, dict) else ""
        yield from operators(each.get("children", []))


def hold(plan: Plan, text: str) -> bool:
    """Check an expression; whether it passed and its columns are there, as the plan requires before it runs one."""
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        assert 0 <= error.start < error.end
        assert CANARY not in str(error).replace(text, "")
        return False
    if any(name.casefold() not in FOLDED for name in expression.columns):
        return False
    whole, said = plan.run(expression.sql, "facts")
    again, _ = plan.run(expression.sql, "facts")
    assert whole == again
    if CANARY not in text:
        assert CANARY not in said
        assert CANARY not in repr(whole)
    if whole is None:
        return True
    assert len(whole) == ROWS
    alone = [plan.run(expression.sql, f"row_{row}")[0] for row in range(ROWS)]
    assert [value for each in alone if each is not None for value in each] == whole
    ((_, explained),) = plan.connection.execute(
        f"EXPLAIN (FORMAT JSON) SELECT {expression.sql} AS value FROM facts"
    ).fetchall()
    for name, table in operators(json.loads(explained)):
        assert name in ("PROJECTION", "SEQ_SCAN", "TABLE_SCAN", "DUMMY_SCAN", ""), name
        assert not table or table.rpartition(".")[2].strip('"') == "facts", table
    return True


# A grammar

COLUMN = st.sampled_from(NAMES).map(quoted) | st.sampled_from(["a", "b", "text", "score", "A", "TEXT"])
TEXTS = st.sampled_from(["x", "", "%", "a_b", "[", "(", "\\", "'", "2020-01-01", "1e5", "nan", "now", "canary.csv"])
CONSTANT = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    TEXTS.map(literal),
    st.sampled_from(
        ["null", "true", "false", "$$x$$", "E'\\x41\\n'", "date '2020-02-30'", "1_0", "0x1F", ".5", "1e400"]
    ),
)
HOSTILE = st.sampled_from(
    [
        *(
            "read_csv('canary.csv')",
            "read_text('canary.csv')",
            "(from 'canary.csv')",
            "glob('*')",
            "getenv('MIXC_CANARY')",
        ),
        *("current_setting('temp_directory')", "(select 1)", "(select max(a) from facts)", "exists (select 1)"),
        *("random()", "now()", "current_date", "current_user", "user", "rowid", "version()", "pg_backend_pid()"),
        *("$1", "?", ":name", "#1", "*", "columns(*)", "columns('a')", "facts", "facts.a", "a.b.c", "main.facts.a"),
        *(
            "a::regclass",
            "'facts'::regclass",
            "a::int[]",
            "a::struct(x int)",
            "a::json",
            "a::timestamptz",
            "a::interval",
        ),
        *(
            "[1, 2]",
            "[x for x in [1]]",
            "{'k': a}",
            "map {1: 2}",
            "a[1]",
            "a[1:2]",
            "row(1, 2)",
            "(a, b)",
            "struct_pack(k := a)",
        ),
        *("lambda x: x", "x -> x", "list_transform([a], x -> x)", "try(a)", "a at time zone 'UTC'", "a collate nocase"),
        *("sum(a)", "count(*)", "row_number() over ()", "a ^ b", "a ** 2", "a ~ 'x'", "@a", "a!", "~a", "a ->> 'k'"),
        *("U&'\\0041'", "x'41'", "b'1'", "interval '1 day'", "unnest([1])", "generate_series(1, 3)", "nextval('s')"),
        *("getvariable('x')", "query('select 1')", "query_table('facts')", "txid_current()", "uuid()", "hash(a)"),
        *("round(score, b)", "round(score, 300)", "default", "cast(a as enum('x'))", "is_histogram_other_bin(a)"),
        *(
            "add_parquet_key('k')",
            "write_log('x')",
            "error('x')",
            "sleep_ms(1)",
            "icu_sort_key(text, 'de')",
            "strftime(a, 'x')",
        ),
    ]
)
BINARY = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "||",
    "&",
    "|",
    "<<",
    ">>",
    "=",
    "<>",
    "<",
    ">=",
    "and",
    "or",
    "like",
    "not like",
]
BINARY += ["ilike", "glob", "similar to", "is distinct from", "is not distinct from", "in", "^@", "->", "~~~", "!~~*"]
ARITIES = (1, 2, 2, 3)
TYPES = [
    "int",
    "bigint",
    "double",
    "varchar",
    "boolean",
    "decimal(10, 2)",
    "date",
    "timestamp",
    "time",
    "utinyint",
    "hugeint",
]


def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def call(count: int) -> st.SearchStrategy[str]:
        arguments = st.lists(inner, min_size=count, max_size=count).map(", ".join)
        return st.builds("{}({})".format, st.sampled_from(sorted(FUNCTIONS)), arguments)

    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(BINARY), inner),
        st.builds("{} {} {}".format, inner, st.sampled_from(BINARY), inner),
        st.builds("{} in ({}, {})".format, inner, inner, inner),
        st.builds("{} between {} and {}".format, inner, inner, inner),
        st.builds("case when {} then {} else {} end".format, inner, inner, inner),
        st.builds("case {} when {} then {} end".format, inner, inner, inner),
        st.builds("{}({} as {})".format, st.sampled_from(["cast", "try_cast"]), inner, st.sampled_from(TYPES)),
        st.builds("{}::{}".format, inner, st.sampled_from(TYPES)),
        st.builds("{} {}".format, st.sampled_from(["not", "-", "+", "(((", "/* c */"]), inner),
        st.builds(
            "{} {}".format, inner, st.sampled_from(["is null", "is not null", "-- c", ")))", ";", "as x", ", 1"])
        ),
        st.builds("trim(both {} from {})".format, inner, inner),
        *(call(count) for count in ARITIES),
    )


PLAIN = st.recursive(COLUMN | CONSTANT, grow, max_leaves=8)
MIXED = st.recursive(COLUMN | CONSTANT | HOSTILE, grow, max_leaves=6)


@given(PLAIN)
@settings(max_examples=400)
def test_grown_from_what_is_allowed(plan: Plan, text: str) -> None:
    hold(plan, text)


@given(MIXED)
@settings(max_examples=300)
def test_grown_with_what_is_hostile(plan: Plan, text: str) -> None:
    hold(plan, text)


# Mutations

SEEDS = [
    "a > 1; copy facts to 'x.csv'",
    "a > 1); attach 'x.db' as y; select (1",
    "a) from facts; install httpfs; load httpfs; select (a",
    "a > 1 /* ; */ ; pragma database_list --",
    "a = (select column0 from read_csv('canary.csv', header = false))",
    "a in (from 'canary.csv')",
    "exists (table facts)",
    "text = read_text('canary.csv')",
    "text = (select content from read_text('canary.csv'))",
    "getenv('MIXC_CANARY') = text",
    "a = any (select b from facts)",
    "a = (values (1))",
    "a > lateral (select 1)",
    "sum(a) over (partition by b order by a rows unbounded preceding) > 1",
    "columns(c -> c like 'a%') > 1",
    "columns(*) exclude (a) > 1",
    "* replace (a + 1 as a)",
    "a::int::regclass::text = 'facts'",
    "list_aggregate([a], 'sum') > 1",
    "array_filter([1], x -> x > a)",
    "struct_extract({'k': a}, 'k') = 1",
    "(a).b = 1",
    '"facts"."a" = 1',
    'facts."a" = $1',
    "a = ?1 or a = :canary or a = $canary",
    "a = U&'d\\0061t\\+000061' uescape '!'",
    "a = E'\\u0041\\'; drop table facts; --'",
    "a = $tag$ '; $tag$",
    "a = $$ ) or (b $$",
    "a = 'x' 'y'",
    "a = 'x'\n'y'",
    "a = ‘x’ or a = “y”",
    "a = 1\u00a0or\u2003b = 2\u2028and\ufeffa = 3",
    "ａ > １",
    "a > 1 -- \r; drop table facts",
    "a > 1 /* /* nested */ */",
    "a > 1 /*! drop */",
    "((((((((((a))))))))))",
    "not not not not a",
    "case when a then case when b then 1 end end",
    "a is null is null is null",
    "- - - a",
    "a between 1 and 2 between 3 and 4",
    "coalesce(a, b, score, text)",
    "cast(cast(a as varchar) as decimal(38, 37))",
    "interval (a) day > '1 day'",
    "timestamp 'epoch' < '2020-01-01'::timestamp",
    "extract(year from '2020-01-01'::date) = 2020",
    "position('x' in text) > 0",
    "overlay(text placing 'x' from 1)",
    "text similar to '(a+)+$'",
    "regexp_matches(text, '(?:(?:a*)*)*b')",
    "regexp_replace(text, '.', '\\0\\0', 'g')",
    "a = 1 union all select 2",
    "a = 1 limit 1 offset (select 1)",
    "a = 1 qualify row_number() over () = 1",
    "a = 1 using sample 1",
    "a at (version => 1)",
    "pivot facts on a",
    "describe facts",
    "set threads = 1",
    "call pragma_version()",
    "create macro m(x) as x",
    "prepare p as select 1",
    "export database 'x'",
]
PIECES = [
    *("'", '"', "$$", "--", "/*", "*/", ";", "(", ")", "[", "]", "{", "}", ",", ".", "::", "->", "\n", "\r", "\t", " ")
]
PIECES += [
    "\0",
    "\x1a",
    "\u202e",
    "’",
    "select",
    "from",
    "facts",
    "a",
    "1",
    "not",
    "null",
    "as",
    "$1",
    "E'",
    "U&'",
    "\\",
    "*",
]


def mutate(text: str, dice: random.Random) -> str:
    """A few edits: characters cut, doubled or put in, halves of two seeds joined."""
    for _ in range(dice.randint(1, 4)):
        at, to = sorted((dice.randint(0, len(text)), dice.randint(0, len(text))))
        to = min(to, at + 12)
        edit = dice.randrange(5)
        if edit == 0:
            text = text[:at] + text[to:]
        elif edit == 1:
            text = text[:at] + dice.choice(PIECES) + text[at:]
        elif edit == 2:
            text = text[:to] + text[at:to] + text[to:]
        elif edit == 3:
            other = dice.choice(SEEDS)
            text = text[:at] + other[dice.randint(0, len(other)) :]
        else:
            text = dice.choice(["(", "not ", "a = ", "'"]) + text + dice.choice([")", "", " = a", "'"])
    return text


@pytest.mark.parametrize("text", SEEDS)
def test_hostile_texts(plan: Plan, text: str) -> None:
    hold(plan, text)


@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
@settings(max_examples=600)
def test_mutated_hostile_texts(plan: Plan, text: str, seed: int) -> None:
    hold(plan, mutate(text, random.Random(seed)))


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_at_all(plan: Plan, text: str) -> None:
    hold(plan, text)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_any_name_is_that_column(plan: Plan, name: str) -> None:
    """In double quotes, however it reads without."""
    expression = parse_expression(quoted(name))
    assert expression.columns == (name,)
    found, said = plan.run(expression.sql, "facts")
    assert said == ""
    assert found == [repr(value) for value in TABLE[name].to_pylist()]


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()))
@settings(max_examples=200)
def test_names_and_values_become_no_sql(plan: Plan, text: str) -> None:
    """`quoted` and `literal`, by which all names and paths go into the plan's SQL."""
    connection = plan.connection
    assert connection.execute(f"SELECT {literal(text)}").fetchall() == [(text,)]
    found = connection.execute(f"SELECT 1 AS {quoted(text)}")
    assert len(found.description) == 1
    assert found.description[0][0] == text


def test_the_grammar_reaches_what_it_should(plan: Plan) -> None:
    """The tests above would hold if nothing passed."""
    passed = sum(hold(plan, text) for text in ["a > 1", '"a;drop table facts" < 3', "text like 'x%'", "a / 0 = b"])
    assert passed == 4
    with pytest.raises(AssertionError):  # an aggregate, as if the parser had let one through
        rows = plan.run("(count(*) over ())", "facts")[0]
        assert rows == [plan.run("(count(*) over ())", f"row_{i}")[0] for i in range(ROWS)]


def test_nothing_has_changed(plan: Plan) -> None:
    """Last: settings, tables and rows after all of the above."""
    assert plan.look() == plan.state
