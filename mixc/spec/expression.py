"""`where` and `order.by`: one DuckDB expression over columns and signals, and nothing that could be more.

The text is parsed by DuckDB's own parser and never executed here. It is parsed twice, bare and in
parentheses, because each alone can be misled: `a) or (b` is whole only inside parentheses, `a from t` and
`a; select 1` only outside. Both must give one select item and the same tree. Then every node of the tree
must be on an allow-list: no subquery, no aggregate or window, no function that reads a file, a setting or
a clock, and none whose result may differ between machines (`ln`, `exp` and `pow` are the C library's,
which does not round them correctly everywhere).
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mixc.errors import SpecError
from mixc.spec.diagnostics import printable, suggest

MAX_LENGTH = 10_000
"""Characters of an expression."""
MAX_DEPTH = 100
"""Nesting of its tree."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPERATORS = _words(
    "+ - * / // % || & | << >> ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape"
)
"""As the tree names them: `~~` is LIKE, `~~*` ILIKE, `~~~` GLOB."""

FUNCTIONS = _words(
    # numbers: exactly rounded by IEEE 754 or integral
    "abs sign round floor ceil ceiling trunc sqrt mod greatest least isnan isinf isfinite "
    # choice and absence
    "if coalesce ifnull nullif "
    # text
    "lower upper length len char_length character_length strlen trim ltrim rtrim substring substr left right "
    "replace concat contains starts_with ends_with prefix suffix position strpos instr "
    "regexp_matches regexp_full_match regexp_extract regexp_replace"
)
"""Pure, deterministic, one row at a time."""

INEXACT = _words("ln log log2 log10 exp pow power ** ^ cbrt sin cos tan asin acos atan atan2 gamma lgamma")
"""Pure, but computed by the C library, whose last digit differs between machines."""

PLACES = 22
"""Decimal places to which `round` and `trunc` may go, before or after the point: DuckDB scales by the C library's power of
ten, which is exact as far as a double holds it, up to 10^22."""

TYPES = _words(
    "BOOLEAN BOOL LOGICAL TINYINT SMALLINT INTEGER INT BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT "
    "UHUGEINT INT1 INT2 INT4 INT8 INT16 INT32 INT64 INT128 UINT8 UINT16 UINT32 UINT64 UINT128 SHORT LONG "
    "SIGNED FLOAT FLOAT4 FLOAT8 REAL DOUBLE DECIMAL NUMERIC DEC VARCHAR TEXT STRING CHAR BPCHAR "
    "DATE TIME TIMESTAMP DATETIME"
)
"""What a value may be cast to. TIMESTAMP WITH TIME ZONE is left out: it depends on the session's zone."""

CLOCKS = _words(
    "current_catalog current_database current_date current_localtime current_localtimestamp current_role "
    "current_schema current_time current_timestamp current_user localtime localtimestamp session_user "
    "user rowid"
)
"""Bare words that DuckDB reads as functions when no column has the name, or that name a row's place."""

_PLAIN = {
    "CONJUNCTION": None,
    "COMPARISON": None,
    "BETWEEN": None,
    "CASE": None,
    "CONSTANT": None,
    "OPERATOR": _words(
        "OPERATOR_NOT COMPARE_IN COMPARE_NOT_IN OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL OPERATOR_COALESCE OPERATOR_NULLIF"
    ),
}
"""Node classes without rules of their own, and the types allowed in them (None: all)."""

_ONE_ROW = "an expression sees one row: its columns and signals"

_REFUSED = {
    "SUBQUERY": ("a subquery", _ONE_ROW),
    "WINDOW": ("a window function", _ONE_ROW),
    "STAR": ("`*`", "name the columns"),
    "PARAMETER": ("a parameter", "write the value"),
    "LAMBDA": ("a lambda", ""),
    "COLLATE": ("COLLATE", "use lower() to ignore case"),
    "POSITIONAL_REFERENCE": ("a column by number", "name the column"),
    "DEFAULT": ("DEFAULT", ""),
    "ARRAY_EXTRACT": ("`[...]`", "only plain columns can be used"),
    "ARRAY_SLICE": ("`[...]`", "use substring()"),
    "STRUCT_EXTRACT": ("a field of a column", "only plain columns can be used"),
    "OPERATOR_TRY": ("TRY", "use TRY_CAST"),
    "GROUPING_FUNCTION": ("an aggregate function", _ONE_ROW),
}

_AGGREGATES = _words(
    "count count_star sum avg mean min max any_value first last median mode quantile stddev variance list "
    "array_agg string_agg arg_min arg_max bool_and bool_or product"
)


class ExpressionError(SpecError):
    """A bad expression. Characters [start, end) of `text` are at fault."""

    def __init__(self, what: str, text: str, start: int, end: int, *, why: str = "", mend: str = "") -> None:
        super().__init__(what, where=f"character {start + 1} of `{printable(text)}`", why=why, mend=mend)
        self.text, self.start, self.end = text, start, max(end, start + 1)


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. `sql` may be embedded in any larger statement."""

    text: str
    columns: tuple[str, ...]
    """Columns and signals that it reads, as written, in order of first use. DuckDB's names ignore case."""
    places: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """Where each of `columns` first stands in `text`: characters [start, end)."""

    @property
    def sql(self) -> str:
        """In parentheses; the line break ends a comment that the text may end with."""
        return f"({self.text}\n)"


@functools.lru_cache(maxsize=1024)
def parse_expression(text: str) -> Expression:
    """Parses and checks; imports duckdb. Raises ExpressionError, which knows the characters at fault."""
    if not text.strip():
        raise ExpressionError("the expression is empty", text, 0, 1, mend="write a condition, or leave the key out")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text):,} characters, more than {MAX_LENGTH:,}", text, 0, 1)
    odd = next((i for i, c in enumerate(text) if (c < " " and c not in "\t\n\r") or "\ud800" <= c <= "\udfff"), None)
    if odd is not None:
        raise ExpressionError(f"the expression holds U+{ord(text[odd]):04X}", text, odd, odd + 1)
    opened = itertools.accumulate((c == "(") - (c == ")") for c in text)
    if max(opened) > MAX_DEPTH:  # the parser's time grows with the square of brackets that stay open
        raise ExpressionError(_DEEP, text, 0, len(text))
    columns: dict[str, tuple[int, int]] = {}
    try:
        inside, bare = _tree("SELECT (", text), _tree("SELECT ", text)
        if _shape(inside.node) != _shape(bare.node):
            raise ExpressionError("this is not one whole expression", text, 0, len(text))
        for node in _walk(inside, inside.node, 0):
            if node["class"] == "COLUMN_REF":
                columns.setdefault(node["column_names"][0], inside.where(node))
    except RecursionError:
        raise ExpressionError(_DEEP, text, 0, len(text)) from None
    return Expression(text, tuple(columns), tuple(columns.values()))


_DEEP = "the expression is nested too deeply"


@dataclass(frozen=True, slots=True)
class _Tree:
    text: str
    prefix: int
    """Bytes before the text in what was parsed."""
    node: dict[str, Any]

    def where(self, node: dict[str, Any]) -> tuple[int, int]:
        """Characters of the text that a node came from; all of it where DuckDB does not say."""
        # DuckDB before 2.0 gives no length; a missing place is 2^64 - 1
        start = node.get("query_location", -1) - self.prefix
        data = self.text.encode()
        if not self.known(node):
            return 0, len(self.text)
        first = len(data[:start].decode("utf-8", "ignore"))
        length = len(data[start : start + max(1, node.get("query_location_length", 1))].decode("utf-8", "ignore"))
        return first, first + max(1, length)

    def known(self, node: dict[str, Any]) -> bool:
        return 0 <= int(node.get("query_location", -1)) - self.prefix < len(self.text.encode())

    def refuse(self, node: dict[str, Any], what: str, mend: str = "", why: str = "") -> ExpressionError:
        where = self.where(node)
        return ExpressionError(f"{what} cannot be used in an expression", self.text, *where, mend=mend, why=why)


@functools.cache
def _parser() -> Any:
    import duckdb

    # One thread: with none in the background the process may still fork. Nothing is executed, and
    # nothing could be read.
    return duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


def _tree(prefix: str, text: str) -> _Tree:
    """The one select item of `prefix` + text, closed as `prefix` asks."""
    import duckdb

    statement = prefix + text + ("\n)" if prefix.endswith("(") else "\n")
    try:
        (answer,) = _parser().execute("SELECT json_serialize_sql($1::VARCHAR)", [statement]).fetchone()
        parsed = json.loads(answer)
    except duckdb.Error as error:  # beyond the parser's own depth
        raise ExpressionError(_DEEP, text, 0, len(text), why=printable(str(error))) from None
    if parsed["error"]:
        raise _syntax(text, len(prefix), parsed)
    statements = parsed["statements"]
    if len(statements) != 1:
        at = text.find(";")
        raise ExpressionError(
            "a second statement cannot be used in an expression",
            text,
            max(at, 0),
            len(text),
            mend="end it before `;`",
        )
    select = statements[0]["node"]
    items = select.get("select_list", [])
    whole = (
        select.get("type") == "SELECT_NODE"
        and len(items) == 1
        and select["from_table"]["type"] == "EMPTY"
        and not select["modifiers"]
        and not select["cte_map"]["map"]
        and not any(select[key] for key in ("where_clause", "group_expressions", "having", "sample", "qualify"))
    )
    if not whole or items[0]["alias"]:
        raise ExpressionError(
            "this is more than one expression",
            text,
            0,
            len(text),
            mend="write one condition; join several by `and`",
        )
    return _Tree(text, len(prefix), items[0])


def _syntax(text: str, prefix: int, parsed: dict[str, Any]) -> ExpressionError:
    data = text.encode()
    at = int(parsed.get("position") or prefix) - prefix
    message = printable(parsed.get("error_message") or "syntax error", 200)
    start = len(data[: max(0, at)].decode("utf-8", "ignore"))
    rest = text[start:]
    if rest.startswith(";"):
        return ExpressionError(
            "a second statement cannot be used in an expression",
            text,
            start,
            len(text),
            mend="end it before `;`",
        )
    if "without selection list" in message:
        return ExpressionError("the expression is only a comment", text, 0, len(text))
    if not rest.strip():
        end = len(text.rstrip())
        return ExpressionError("the expression ends too early", text, max(0, end - 1), end)
    word = message.partition('near "')[2].removesuffix('"')
    return ExpressionError(f"not a DuckDB expression: {message}", text, start, start + max(1, len(word)))


def _shape(value: Any) -> Any:
    """The tree without places, which differ with the prefix."""
    if isinstance(value, dict):
        return {k: _shape(v) for k, v in value.items() if not k.startswith("query_location")}
    return [_shape(v) for v in value] if isinstance(value, list) else value


def _walk(tree: _Tree, value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Every expression node, each checked. It goes through all that a node holds, known field or not, so that
    nothing that another version of DuckDB puts into one escapes the check."""
    if depth > 4 * MAX_DEPTH:  # an expression node is a dict, in a list, in an argument, ...
        raise ExpressionError(_DEEP, tree.text, 0, len(tree.text))
    if isinstance(value, list):
        for item in value:
            yield from _walk(tree, item, depth + 1)
    elif isinstance(value, dict):
        if value.get("class") == "TYPE":
            return  # checked with its CAST
        if "class" in value:
            _check(tree, value)
            yield value
        for key, item in value.items():
            if key != "value":  # a constant's, in DuckDB before 2.0: {type: {id}, value}
                yield from _walk(tree, item, depth + 1)


def _check(tree: _Tree, node: dict[str, Any]) -> None:
    kind, detail = node["class"], node["type"]
    if node.get("alias"):
        raise tree.refuse(node, f"the name `{printable(node['alias'])}` for a value")
    if kind == "FUNCTION":
        _check_function(tree, node)
    elif kind == "CAST":
        _check_cast(tree, node)
    elif kind == "COLUMN_REF":
        names = node["column_names"]
        if len(names) != 1:
            mend = f'a column is one name; write "{".".join(names)}" in double quotes if its name has a dot'
            raise tree.refuse(node, f"`{printable('.'.join(names))}`", mend)
        if names[0].lower() in CLOCKS:
            raise tree.refuse(node, f"`{printable(names[0])}`", "it is no column but a function of DuckDB")
    elif kind in _PLAIN:
        allowed = _PLAIN[kind]
        if allowed is not None and detail not in allowed:
            raise tree.refuse(node, *_REFUSED.get(detail, (f"`{detail}`", "")))
    else:
        raise tree.refuse(node, *_REFUSED.get(kind, (f"`{kind}`", "")))


def _check_function(tree: _Tree, node: dict[str, Any]) -> None:
    name = node["function_name"].lower()
    shown = printable("count(*)" if name == "count_star" else name)
    # DuckDB before 2.0 puts what its grammar writes as words (`x IN ...`, TRIM(BOTH ...)) in the schema
    # `main`
    if node.get("schema") not in (None, "", "main") or node.get("catalog"):
        raise tree.refuse(node, f"`{printable(node['schema'])}.{shown}`", f"write {shown}(...)")
    if name in _AGGREGATES:
        raise tree.refuse(node, f"the aggregate function `{shown}`", _ONE_ROW)
    if name in INEXACT:
        raise tree.refuse(node, f"`{shown}`", why="its last digit differs between machines, and with it the mixture")
    if name == "row":
        raise tree.refuse(node, "a list of values in parentheses", "use `in (...)` for membership")
    if name not in OPERATORS and name not in FUNCTIONS:
        close = suggest(name, FUNCTIONS)
        mend = close if close.startswith("did") else "docs/spec.md lists the functions: each gives one row one answer"
        raise tree.refuse(node, f"the function `{shown}`" if name.isidentifier() else f"`{shown}`", mend)
    if (
        node.get("filter")
        or node.get("distinct")
        or node.get("export_state")
        or (node.get("order_bys") or {}).get("orders")
        or any(argument.get("name") for argument in node.get("arguments", ()))
    ):
        raise tree.refuse(node, f"`{shown}` with named arguments, DISTINCT, FILTER or ORDER BY")
    if name in ("round", "trunc") and len(node.get("arguments") or node.get("children") or ()) == 2:
        places = _integer(_argument(node, 1))
        if places is None or abs(places) > PLACES:
            mend = f"write the places as a number from {-PLACES} to {PLACES}"
            raise tree.refuse(node, f"`{shown}` to such places", mend, "its last digit differs between machines")
    if name.startswith("regexp_"):
        operator = tree.text[tree.where(node)[0]] in "~!" if tree.known(node) else "~" in tree.text
        if operator:
            mend = "write regexp_matches(x, '...') for a part or regexp_full_match(x, '...') for the whole"
            raise tree.refuse(node, "`~`", mend, "which of the two it means depends on the version of DuckDB")


def _argument(node: dict[str, Any], place: int) -> dict[str, Any]:
    """The expression of a function's argument."""
    argument: dict[str, Any] = (node.get("arguments") or node["children"])[place]
    inner: dict[str, Any] = argument.get("expression", argument)  # DuckDB before 2.0 has the expression itself
    return inner


def _integer(node: dict[str, Any]) -> int | None:
    """Of a whole number written out; None for any other expression."""
    if node["class"] != "CONSTANT":
        return None
    literal = node.get("literal") or {}
    written = literal.get("text") if literal.get("kind") == "INTEGER" else (node.get("value") or {}).get("value")
    try:
        return int(written) if isinstance(written, int | str) and not isinstance(written, bool) else None
    except ValueError:
        return None


def _check_cast(tree: _Tree, node: dict[str, Any]) -> None:
    target = node.get("type_expr")
    if target is None:  # DuckDB before 2.0
        name = node["cast_type"]["id"]
        plain = True
    else:
        name = target.get("type_name", "")
        children = target.get("children", [])
        plain = (
            target.get("class") == "TYPE"
            and not target.get("schema")
            and not target.get("catalog")
            and all(c.get("class") == "CONSTANT" for c in children)
        )
    if not plain or name.upper() not in TYPES:
        raise tree.refuse(node, f"a cast to {printable(name)}", "cast to BIGINT, DOUBLE, DECIMAL, VARCHAR or BOOLEAN")
