"""Expressions: what users need passes, and nothing that could be more than one pure expression over one row does."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.spec.expression import FUNCTIONS, INEXACT, OPERATORS, ExpressionError, parse_expression

GOOD = {
    "language = 'en' and repetition < 0.2": ("language", "repetition"),
    "a between 1 and 2": ("a",),
    "a in (1, 2) or b not in ('x', 'y')": ("a", "b"),
    "not a is null": ("a",),
    "a is not distinct from b": ("a", "b"),
    "case when a > 1 then b else c end": ("a", "b", "c"),
    "if(a > 1, b, c) = 2": ("a", "b", "c"),
    "a::int > 3 and try_cast(b as double) > 1": ("a", "b"),
    "cast(a as decimal(10, 2)) > 1": ("a",),
    "a like 'x%' and b not ilike '%y!%' escape '!'": ("a", "b"),
    "a similar to 'x.*'": ("a",),
    "regexp_matches(lower(a), 'stock (photo|image)')": ("a",),
    "a || b = 'xy'": ("a", "b"),
    "a // 2 = 1 and b % 2 = 0 and -c < 3.5e2": ("a", "b", "c"),
    "trim(both 'x' from a) = substring(b from 1 for 2)": ("a", "b"),
    "position('a' in b) > 0": ("b",),
    '"a column" > 0 and "with ""quotes""" < 1 and "a.b" = 1': ("a column", 'with "quotes"', "a.b"),
    "coalesce(a, b, 0) >= greatest(a, least(b, c))": ("a", "b", "c"),
    "A < 1 and a < 2": ("A", "a"),
    "Größe > 1 and 'é' = b": ("Größe", "b"),
    "date '2020-01-01' < a::date": ("a",),
    "(a) or (b)": ("a", "b"),
    "a = 1 -- why": ("a",),
    "a /* ) or ( */ = 1": ("a",),
    "a = $$it's$$ or a = E'\\x41'": ("a",),
    "a\n  < 1\n": ("a",),
    "true": (),
    "round(a, 2) = trunc(b, -22) or round(a) = 1": ("a", "b"),
    "abs(complexity - 2.5)": ("complexity",),
}


@pytest.mark.parametrize("text", GOOD)
def test_good(text: str) -> None:
    expression = parse_expression(text)
    assert expression.text == text
    assert expression.columns == GOOD[text]
    for (start, end), column in zip(expression.places, expression.columns, strict=True):
        assert text[start:end] in (column, '"' + column.replace('"', '""') + '"')


REFUSED = {
    # more than one expression, or less
    "a) or (b": (")", "syntax error"),
    "a; select 1": ("; select 1", "a second statement"),
    "a;": (";", "a second statement"),
    "a, b": ("a, b", "more than one expression"),
    "(a, b)": ("(a, b)", "a list of values"),
    "a as b": ("as", "syntax error"),
    "a b": ("b", "syntax error"),
    "a from t": ("from", "syntax error"),
    "a where b": ("where", "syntax error"),
    "a order by b": ("order", "syntax error"),
    "a limit 1": ("limit", "syntax error"),
    "a union select 1": ("union", "syntax error"),
    "distinct a": ("distinct", "syntax error"),
    "select 1": ("select", "syntax error"),
    "a into b": ("into", "syntax error"),
    "with x as (select 1) select 1": ("with", "syntax error"),
    "": ("", "empty"),
    " \n": (" ", "empty"),
    "-- only": ("-- only", "only a comment"),
    "a and": ("d", "ends too early"),
    "(a": ("a", "ends too early"),
    "a /*": ("/*", "unterminated"),
    "'a": ("'", "unterminated"),
    # other rows, other tables
    "(select 1)": ("(select 1)", "a subquery"),
    "exists (from 'f.csv')": ("exists (from 'f.csv')", "a subquery"),
    "a in (select b)": ("(select b)", "a subquery"),
    "a = any([1, 2])": ("a = any([1, 2])", "a subquery"),
    "sum(a) > 1": ("sum(a)", "the aggregate function `sum`"),
    "count(*) > 1": ("count(*)", "the aggregate function `count(*)`"),
    "count(a) filter (where b)": ("count(a) filter (where b)", "the aggregate"),
    "row_number() over () < 9": ("row_number() over ()", "a window function"),
    "rowid < 9": ("rowid", "`rowid`"),
    # files, settings, clocks, chance
    "a = read_text('/etc/passwd')": ("read_text('/etc/passwd')", "the function `read_text`"),
    "read_csv('x') is null": ("read_csv('x')", "the function `read_csv`"),
    "getenv('HOME') = a": ("getenv('HOME')", "the function `getenv`"),
    "current_setting('threads') > 1": ("current_setting('threads')", "the function `current_setting`"),
    "getvariable('x')": ("getvariable('x')", "the function `getvariable`"),
    "random() < 0.5": ("random()", "the function `random`"),
    "now() > a": ("now()", "the function `now`"),
    "uuid() = a": ("uuid()", "the function `uuid`"),
    "hash(a) % 2 = 0": ("hash(a)", "the function `hash`"),
    "a < current_date": ("current_date", "`current_date`"),
    "a = current_timestamp": ("current_timestamp", "`current_timestamp`"),
    "a = user": ("user", "`user`"),
    '"current_user" = a': ('"current_user"', "`current_user`"),
    "nextval('s')": ("nextval('s')", "the function `nextval`"),
    "error('x')": ("error('x')", "the function `error`"),
    "a > interval 1 day": ("interval 1 day", "the function `to_days`"),
    "a at time zone 'UTC'": ("a at time zone 'UTC'", "the function `timezone`"),
    # what only looks like a column
    "a = ?": ("?", "a parameter"),
    "a = $1": ("$1", "a parameter"),
    "*": ("*", "`*`"),
    "columns('x')": ("columns('x')", "`*`"),
    "#1": ("#1", "a column by number"),
    "t.a = 1": ("t.a", "`t.a`"),
    "s.t.a = 1": ("s.t.a", "`s.t.a`"),
    "a[1] = 1": ("[1]", "`[...]`"),
    "a.lower() = 'x'": ("a.lower()", "`a.lower`"),
    "default": ("default", "DEFAULT"),
    # what has no one answer everywhere
    "ln(a) < 1": ("ln(a)", "`ln`"),
    "a ** 2 > 1": ("a ** 2", "`**`"),
    "a ~ 'x'": ("~ 'x'", "`~`"),
    "a !~ 'x'": ("!~ 'x'", "`~`"),
    "a::timestamptz > b": ("::timestamptz", "a cast to timestamptz"),
    "a collate nocase = 'x'": ("a collate nocase", "COLLATE"),
    "round(a, b)": ("round(a, b)", "`round` to such places"),
    "round(a, 23)": ("round(a, 23)", "`round` to such places"),
    "trunc(a, '2')": ("trunc(a, '2')", "`trunc` to such places"),
    "round(a, 1 + 1)": ("round(a, 1 + 1)", "`round` to such places"),
    # what is not a plain value
    "a::json = b": ("::json", "a cast to json"),
    "a::mood = b": ("::mood", "a cast to mood"),
    "a::int[] = b": ("::int[]", "a cast to list"),
    "[1, 2] = a": ("[1, 2]", "the function `list_value`"),
    "{'x': 1} = a": ("{'x': 1}", "the function `struct_pack`"),
    "x -> x + 1": ("x -> x + 1", "a lambda"),
    "list_filter(a, lambda x: x)": ("list_filter(a, lambda x: x)", "the function `list_filter`"),
    "lower(string := a)": ("lower(string := a)", "named arguments"),
    "try(a)": ("try(a)", "TRY"),
    "a\x07": ("\x07", "U+0007"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_at_its_place(text: str) -> None:
    marked, message = REFUSED[text]
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    error = caught.value
    assert message in error.what
    assert text[error.start : error.end] == marked
    assert "Traceback" not in str(error)


def test_places_count_characters() -> None:
    """DuckDB counts bytes."""
    text = "'日本語é' = a and random() < 1"
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert text[caught.value.start : caught.value.end] == "random()"


@pytest.mark.parametrize(
    "text", ["(" * 3000 + "a" + ")" * 3000, "not " * 2000 + "a", "+".join("a" * 2000), "(" * 5000, "a" * 20_000]
)
def test_depth_and_length_are_bounded(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text)


def test_long_conditions_are_fine() -> None:
    assert parse_expression(" or ".join(f"a = {i}" for i in range(500))).columns == ("a",)


def test_suggestions() -> None:
    with pytest.raises(ExpressionError, match="regexp_match`") as caught:
        parse_expression("regexp_match(a, 'x')")
    assert caught.value.mend == "did you mean `regexp_matches`?"


GRAMMAR = {"if", "ifnull", "coalesce", "nullif"}
"""Functions that the parser turns into other nodes; the catalogue does not have them all."""


def test_the_list_is_of_pure_functions() -> None:
    """By DuckDB's own catalogue: scalar, and the same result whenever the arguments are the same."""
    rows = duckdb.connect().execute("select function_name, function_type, stability from duckdb_functions()").fetchall()
    catalogue: dict[str, set[tuple[str, str | None]]] = {}
    for name, kind, stability in rows:
        catalogue.setdefault(name, set()).add((kind, stability))
    assert catalogue.keys() >= FUNCTIONS - GRAMMAR
    for name in FUNCTIONS & catalogue.keys():
        kinds = {kind for kind, _ in catalogue[name]}
        assert kinds <= {"scalar", "macro"}, name
        assert {stability for kind, stability in catalogue[name] if kind == "scalar"} <= {"CONSISTENT"}, name


def test_every_other_function_is_refused() -> None:
    names = {name for (name,) in duckdb.connect().execute("select function_name from duckdb_functions()").fetchall()}
    others = sorted(name for name in names - FUNCTIONS - OPERATORS if name.isidentifier())
    assert len(others) > 300
    assert INEXACT & set(others)
    accepted = []
    for name in others:
        try:
            parse_expression(f'"{name}"(a)')
        except ExpressionError:
            continue
        accepted.append(name)
    assert accepted == []


PIECES = [
    *("a", "b", "c", "1", "'x'", '"b"', "=", "<", "and", "or", "not", "("),
    *("(", "(", ")", ")", ")", ",", ";", "--", "/*", "*/", "\n", "*"),
    *(".", "::", "int", "case", "when", "then", "end", "is", "null", "in", "between", "select"),
    *("from", "t", "union", "lower(", "random()", "read_csv('f')", "~", "[", "]", "{", "}", "?"),
    *("$1", "->", "as", "by", "order", "E'\\''", "$$", "||", "%", "interval", "lambda"),
]


@pytest.fixture(scope="module")
def table() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"enable_external_access": False, "threads": 1})
    connection.execute("create table t as select range as a, range * 2 as b, 'x' as c from range(3)")
    return connection


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=9))
@settings(max_examples=400, deadline=None)
def test_what_passes_is_one_value_a_row(table: duckdb.DuckDBPyConnection, pieces: list[str]) -> None:
    """Whatever passes can be embedded and cannot change the statement around it."""
    try:
        expression = parse_expression(" ".join(pieces))
    except ExpressionError as error:
        assert 0 <= error.start < error.end
        return
    try:
        rows = table.execute(f"select 1 as one, {expression.sql} as value, 2 as two from t").fetchall()
    except (duckdb.BinderException, duckdb.ConversionException, duckdb.CatalogException):
        return  # columns and types are the plan's to check
    assert len(rows) == 3
    assert all(len(row) == 3 and (row[0], row[2]) == (1, 2) for row in rows)
