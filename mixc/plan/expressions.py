"""The spec's expressions over the columns there are: which each reads, and mistakes told in the user's
words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NoReturn

import duckdb

from mixc.errors import PlanError, SpecError
from mixc.measure.facts import SIGNALS
from mixc.plan.database import first_line, rows
from mixc.spec.check import mix_entries
from mixc.spec.diagnostics import Place, Span, fail, printable, suggest
from mixc.spec.expression import Expression, parse_expression
from mixc.spec.groups import stage_sources
from mixc.spec.load import KeyPath
from mixc.spec.schema import Order, Spec

Locate = Callable[[KeyPath, tuple[int, int] | None], Place | Span | None]
"""Where a value stands in the user's files, and characters [start, end) of it if they are given; None if not
known."""

ROW = "__mixc_row"
"""The column of a source's view that numbers its rows. No expression can name it: it is no column of the
source's."""


def nowhere(path: KeyPath, characters: tuple[int, int] | None = None) -> None:
    """The Locate of a spec that was not read from a file."""


def spec_error(
    what: str,
    path: KeyPath,
    locate: Locate,
    *,
    characters: tuple[int, int] | None = None,
    why: str = "",
    mend: str = "",
) -> SpecError:
    """A SpecError at a value of the spec; the caller raises it."""
    place = locate(path, characters)
    if place is None:
        return SpecError(what, where=dotted(path), why=why, mend=mend)
    return fail(what, place, why=why, mend=mend)


def plan_error(what: str, path: KeyPath, locate: Locate, *, why: str = "", mend: str = "") -> PlanError:
    """A PlanError at a value of the spec; the caller raises it."""
    place = locate(path, None)
    if isinstance(place, Span):
        place = place.place
    return PlanError(what, where=str(place) if place else dotted(path), why=why, mend=mend)


def dotted(path: KeyPath) -> str:
    """`stages[0].mix.chat.where`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An expression as one source has to compute it."""

    path: KeyPath
    expression: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Expressions:
    """All of a spec's expressions, parsed."""

    where: dict[str, Use]
    """By source."""
    stage_where: dict[tuple[int, str], Use]
    """By stage and source."""
    quantile: dict[tuple[int, str], Use]
    balance: dict[tuple[int, str], Use]
    order: dict[int, Use]
    """By stage."""

    def of_source(self, source: str, stages: Iterable[int]) -> list[Use]:
        """Those that `source`, which takes part in `stages`, has to compute, in the spec's order."""
        uses = [self.where[source]] if source in self.where else []
        for stage in stages:
            own = [by.get((stage, source)) for by in (self.stage_where, self.quantile, self.balance)]
            uses += [use for use in (*own, self.order.get(stage)) if use]
        return uses


def parse_expressions(spec: Spec, locate: Locate) -> Expressions:
    """All expressions of a spec; those that a mix gives a group are its members'. Raises SpecError for an expression
    that is not one; `mixc check` finds the same mistakes earlier."""

    def parse(text: str, path: KeyPath) -> Use:
        try:
            return Use(path=path, expression=parse_expression(text))
        except SpecError as error:
            characters = (getattr(error, "start", 0), getattr(error, "end", len(text)))
            raise spec_error(error.what, path, locate, characters=characters, why=error.why, mend=error.mend) from None

    where = {
        name: parse(source.where, ("sources", name, "where"))
        for name, source in sorted(spec.sources.items())
        if source.where is not None
    }
    stage_where, quantile, balance, order = {}, {}, {}, {}
    for number, stage in enumerate(spec.stages):
        for name, entry in mix_entries(stage.mix).items():
            path: KeyPath = ("stages", number, "mix", name)
            for source in stage_sources([name], spec.groups):
                if entry.where is not None:
                    stage_where[number, source] = parse(entry.where, (*path, "where"))
                if entry.quantile is not None:
                    quantile[number, source] = parse(entry.quantile.by, (*path, "quantile", "by"))
                if entry.balance is not None:
                    balance[number, source] = parse(entry.balance.by, (*path, "balance", "by"))
        if isinstance(stage.order, Order) and stage.order.by is not None:
            order[number] = parse(stage.order.by, ("stages", number, "order", "by"))
    return Expressions(where=where, stage_where=stage_where, quantile=quantile, balance=balance, order=order)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a source's expressions read."""

    columns: tuple[str, ...]
    """The source's own columns, in sorted order."""
    signals: tuple[str, ...]
    """Computed signals, in sorted order."""
    hidden: tuple[str, ...]
    """Columns that an expression names but a signal of the same name hides."""


def resolve(
    source: str, uses: Iterable[Use], columns: Iterable[str], locate: Locate, *, computed: Collection[str] = ()
) -> Resolved:
    """Find what the expressions of `source` read among its `columns`, the signals of every sample and the `computed`
    ones. Names ignore case, as DuckDB's do.

    Raises SpecError for a name that is neither, or that fits several columns.
    """
    by_name: dict[str, list[str]] = {}
    for column in sorted(columns):
        by_name.setdefault(column.casefold(), []).append(column)
    needed: dict[str, str] = {}
    hidden: set[str] = set()
    signals: set[str] = set()
    for use in uses:
        for i, name in enumerate(use.expression.columns):
            folded = name.casefold()
            found = by_name.get(folded, [])
            if folded in SIGNALS or folded in computed:
                hidden.update(found)
                signals.update({folded} & set(computed))
                continue
            characters = use.expression.places[i] if use.expression.places else None
            if not found:
                known = [c for cs in by_name.values() for c in cs]
                raise spec_error(
                    f"source `{source}` has no column `{printable(name)}`",
                    use.path,
                    locate,
                    characters=characters,
                    why=_listing(source, known, computed),
                    mend=suggest(name, [*known, *SIGNALS, *sorted(computed)]),
                )
            exact = name if name in found else found[0] if len(found) == 1 else None
            if exact is None or needed.setdefault(folded, exact) != exact:
                several = ", ".join(f"`{printable(c)}`" for c in found)
                raise spec_error(
                    f"`{printable(name)}` may be any of {several} of source `{source}`",
                    use.path,
                    locate,
                    characters=characters,
                    why="names in expressions ignore case, and one source's expressions can use one of these",
                    mend="rename a column, or write the one name exactly in all of them",
                )
    return Resolved(tuple(sorted(needed.values())), tuple(sorted(signals)), tuple(sorted(hidden)))


def _listing(source: str, columns: list[str], computed: Collection[str]) -> str:
    shown = ", ".join(f"`{printable(c)}`" for c in sorted(columns)[:30]) or "none"
    more = f" and {len(columns) - 30} more" if len(columns) > 30 else ""
    return f"columns of `{source}`: {shown}{more}; signals: {', '.join([*SIGNALS, *sorted(computed)])}"


def value_type(connection: duckdb.DuckDBPyConnection, view: str, use: Use, source: str, locate: Locate) -> str:
    """DuckDB's type of an expression over a source's view. Raises SpecError when its parts do not go
    together."""
    try:
        ((_, kind, *_),) = rows(connection, f"DESCRIBE SELECT {use.expression.sql} AS value FROM {view}")
    except duckdb.Error as error:
        raise_translated(connection, view, use, source, locate, error)
    return str(kind)


def require_condition(connection: duckdb.DuckDBPyConnection, view: str, use: Use, source: str, locate: Locate) -> None:
    """Raises SpecError unless the expression gives true or false."""
    kind = value_type(connection, view, use, source, locate)
    if kind not in ("BOOLEAN", '"NULL"'):
        raise spec_error(
            f"`{printable(use.expression.text)}` gives {_in_words(kind)}, not true or false",
            use.path,
            locate,
            mend="compare it with something, as in `complexity < 2.5`",
        )


def raise_translated(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    use: Use,
    source: str,
    locate: Locate,
    error: duckdb.Error,
) -> NoReturn:
    """Raise what DuckDB says about an expression as a SpecError that also names the columns' types."""
    if isinstance(error, duckdb.OutOfMemoryException):
        raise error
    message = first_line(error)
    conversion = isinstance(error, duckdb.ConversionException | duckdb.OutOfRangeException)
    mend = "use try_cast, which gives NULL, where some values are of another form" if conversion else ""
    if message.startswith("No function matches"):
        message = "a function or operator is given a type that it does not take" + message.partition("types")[2]
        mend = "cast one side, as in `cast(x as double)`"
        message = message.split("You might need")[0].strip().rstrip(".")
    elif "Cannot compare" in message or "Cannot mix" in message:
        mend = "quote text as 'text', or cast one side"
    types = []
    wanted = {name.casefold() for name in use.expression.columns}
    for name, kind, *_ in rows(connection, f"DESCRIBE {view}"):
        if name.casefold() in wanted:
            types.append(f"{printable(name)} is {_in_words(kind)}")
    raise spec_error(
        f"`{printable(use.expression.text)}` does not work on source `{source}`: {printable(message, 300)}",
        use.path,
        locate,
        why="; ".join(types),
        mend=mend,
    ) from None


def _in_words(kind: str) -> str:
    if kind in ("VARCHAR", "BLOB"):
        return "text"
    if kind in (
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
    ):
        return "a whole number"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        return "a number"
    return {"BOOLEAN": "true or false", "DATE": "a date", "TIMESTAMP": "a time", '"NULL"': "nothing"}.get(kind, kind)


def order_family(kind: str) -> str:
    """Which values sort together: those of sources in one stage must be of one family."""
    words = _in_words(kind)
    return "a number" if words == "a whole number" else words
