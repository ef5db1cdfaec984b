"""Values as JSON and CSV have them."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import uuid

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mixc.query.ask import Answer, QueryError
from mixc.query.show import SHOWN_ROWS, plain, show, write_csv, write_json


def answer(query: str) -> Answer:
    return Answer(duckdb.connect(), query)


def as_json(query: str) -> dict:
    out = io.StringIO()
    write_json(answer(query), out)
    return json.loads(out.getvalue())


def as_csv(query: str) -> list[list[str]]:
    out = io.StringIO()
    write_csv(answer(query), out)
    return list(csv.reader(io.StringIO(out.getvalue())))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (uuid.UUID(int=10), "0" * 31 + "a"),
        (b"\x00\xff", "00ff"),
        (float("nan"), None),
        (float("-inf"), None),
        ((1 << 64) - 1, (1 << 64) - 1),
        (1 << 64, "18446744073709551616"),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2020, 2, 1), "2020-02-01"),
        ({1: [b"\x01", None]}, {"1": ["01", None]}),
        (True, True),
    ],
)
def test_values_that_json_has_not(value: object, told: object) -> None:
    assert plain(value) == told


def test_one_json_document_of_columns_and_rows() -> None:
    assert as_json("select 1::utinyint as a, ['x'] as b, 2::hugeint as c union all by name select 3 as a") == {
        "columns": [
            {"name": "a", "type": "INTEGER"},
            {"name": "b", "type": "VARCHAR[]"},
            {"name": "c", "type": "HUGEINT"},
        ],
        "rows": [{"a": 1, "b": ["x"], "c": 2}, {"a": 3, "b": None, "c": None}],
    }
    assert as_json("select 1 as a where false")["rows"] == []
    with pytest.raises(QueryError, match="two columns are called `a`"):
        as_json("select 1 as a, 2 as a")


ANSWER = Answer(duckdb.connect(), "select 1 as n, 'x' as t")


@given(st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0\r"))), max_size=5))
def test_any_text_comes_back_from_csv(texts: list[str | None]) -> None:
    found = ANSWER
    found.rows = lambda: iter([(n, text) for n, text in enumerate(texts)])  # type: ignore[method-assign]
    out = io.StringIO()
    write_csv(found, out)
    assert list(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [
        ["n", "t"],
        *([str(n), text or ""] for n, text in enumerate(texts)),
    ]


def test_lists_and_numbers_in_csv() -> None:
    assert as_csv("select [1, 2] as l, true as b, 0.5::double as f, null as n") == [
        ["l", "b", "f", "n"],
        ["[1,2]", "true", "0.5", ""],
    ]


def test_a_table_is_short_and_safe_for_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    assert show(answer("select chr(27) || '[31m[bold]' as bad, repeat('x', 500) as long"), console) is None
    text = out.getvalue()
    assert "\x1b" not in text and "[31m[bold]" in text and "…" in text and "x" * 80 not in text
    assert show(answer(f"from range({SHOWN_ROWS})"), console) is None
    assert show(answer(f"from range({SHOWN_ROWS + 1})"), console) == SHOWN_ROWS
