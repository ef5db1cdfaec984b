"""Which samples a stage takes: thresholds, exact duplicates, what is too long, and the choice within each
source.

Tables in the database, each made once:

    samples     one row a sample of any source, under its final id; `passes` is its source's `where` losers
    samples that exact deduplication drops, and who won judged_J    for stage J, every living sample of its
    sources: units, pieces, value of `order.by`, and the `rule` that
                keeps it out, or NULL
    chosen_J    for stage J, (sample, epoch) pairs that it takes, with the key that shuffles them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from mixc.plan.database import insert, rows
from mixc.plan.expressions import (
    ROW,
    Expressions,
    Locate,
    order_family,
    raise_translated,
    require_condition,
    spec_error,
    value_type,
)
from mixc.plan.keys import DUPLICATE_FUNCTION, KEY_FUNCTION, make_key
from mixc.plan.load import SourceTable

UNITS = {"tokens": "tokens", "supervised_tokens": "supervised", "samples": "1", "images": "images"}
"""What a share or a budget may count, as SQL over judged_J."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRules:
    """What decides whether a sample can stand in a stage."""

    number: int
    name: str
    sequence_length: int
    max_tiles: int
    splits: Mapping[str, bool]
    """By source of the stage: whether a sample longer than sequence_length is cut into pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligible:
    """What one source offers to one stage, once."""

    alive: int
    """Samples that pass the source's `where` and deduplication."""
    samples: int
    """Those that the stage can also use."""
    too_long: int
    sizes: Mapping[str, int]
    """Of the latter, by unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors:
    """What is left of a source before any stage."""

    rows: int
    passing: int
    """Of `where`."""
    alive: int
    """Of deduplication too."""


def make_samples(
    connection: duckdb.DuckDBPyConnection,
    sources: Sequence[SourceTable],
    expressions: Expressions,
    locate: Locate,
) -> None:
    """Create `samples`: final ids of duplicates, and each source's `where`.

    Rows of a source with equal id are ranked by the digest of their columns, then (equal in all that counts)
    by place; rank r > 0 takes `duplicate_id(id, r)`. Ranks are given before any threshold, so that no
    threshold renames a sample.
    """
    connection.execute(
        "CREATE TABLE samples (n BIGINT, source USMALLINT, hi UBIGINT, lo UBIGINT, chi UBIGINT, clo UBIGINT,"
        " rank UBIGINT, tokens BIGINT, supervised BIGINT, images BIGINT, tiles BIGINT, fragment UINTEGER,"
        " row UBIGINT, start UBIGINT, length UINTEGER, passes BOOLEAN)"
    )
    for source in sources:
        facts = source.table
        equal = f"SELECT hi, lo FROM {facts} GROUP BY hi, lo HAVING count(*) > 1"
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE ranks AS SELECT n,"
            " (row_number() OVER (PARTITION BY hi, lo ORDER BY columns, n) - 1)::UBIGINT AS rank"
            f" FROM {facts} SEMI JOIN ({equal}) USING (hi, lo)"
        )
        condition = _flags(connection, source, expressions, locate)
        # Two statements, so that the function in Python sees duplicates only.
        for renamed in (False, True):
            half = f"{DUPLICATE_FUNCTION}(f.hi, f.lo, r.rank, {{}}::UBIGINT)"
            connection.execute(
                f"INSERT INTO samples SELECT f.n, {source.index},"
                f" {half.format(0) if renamed else 'f.hi'}, {half.format(1) if renamed else 'f.lo'},"
                f" chi, clo, {'r.rank' if renamed else '0'},"
                f" tokens, supervised_tokens, images, tiles, fragment, row, start, length, {condition}"
                f" FROM {facts} f LEFT JOIN ranks r USING (n)"
                + (" JOIN flags USING (n)" if condition != "true" else "")
                + f" WHERE coalesce(r.rank, 0) {'>' if renamed else '='} 0"
            )


def _flags(connection: duckdb.DuckDBPyConnection, source: SourceTable, expressions: Expressions, locate: Locate) -> str:
    """Create `flags` for the source's `where`; the SQL that reads it."""
    use = expressions.where.get(source.name)
    if use is None or source.rows == 0:
        return "true"
    require_condition(connection, source.view, use, source.name, locate)
    try:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE flags AS SELECT {ROW} AS n,"
            f" coalesce({use.expression.sql}, false) AS passes FROM {source.view}"
        )
    except duckdb.Error as error:
        raise_translated(connection, source.view, use, source.name, locate, error)
    return "passes"


def drop_duplicates(connection: duckdb.DuckDBPyConnection, *, exact: bool) -> None:
    """Create `losers`: of passing samples with equal content all but one, which is of the source whose name
    sorts first and, within it, first among equals."""
    equal = "SELECT chi, clo FROM samples WHERE passes GROUP BY chi, clo HAVING count(*) > 1"
    connection.execute(
        "CREATE TABLE losers AS SELECT n, winner_source, winner_hi, winner_lo FROM ("
        "  SELECT n, row_number() OVER first AS place, first_value(source) OVER first AS winner_source,"
        "    first_value(hi) OVER first AS winner_hi, first_value(lo) OVER first AS winner_lo"
        f"  FROM samples SEMI JOIN ({equal}) USING (chi, clo) WHERE passes AND {'true' if exact else 'false'}"
        "  WINDOW first AS (PARTITION BY chi, clo ORDER BY source, rank)"
        ") WHERE place > 1"
    )
    connection.execute("CREATE VIEW alive AS SELECT * FROM samples ANTI JOIN losers USING (n) WHERE passes")


def survivors(connection: duckdb.DuckDBPyConnection, sources: Sequence[SourceTable]) -> dict[str, Survivors]:
    """By source name."""
    passing = dict(rows(connection, "SELECT source, count(*) FROM samples WHERE passes GROUP BY source"))
    alive = dict(rows(connection, "SELECT source, count(*) FROM alive GROUP BY source"))
    return {
        source.name: Survivors(rows=source.rows, passing=passing.get(source.index, 0), alive=alive.get(source.index, 0))
        for source in sources
    }


def judge(
    connection: duckdb.DuckDBPyConnection,
    stage: StageRules,
    sources: Sequence[SourceTable],
    expressions: Expressions,
    locate: Locate,
) -> dict[str, Eligible]:
    """Create judged_J for the stage's sources; what each offers, by name.

    A sample is too long when its tokens exceed sequence_length and its source is not split, or its tiles
    max_tiles. A piece's first token is not supervised, so a sample of p pieces has p - 1 supervised tokens
    less.
    """
    parts, families = [], {}
    length = stage.sequence_length
    for source in sources:
        condition = expressions.stage_where.get((stage.number, source.name))
        flags, values = f"flags_{source.index}", f"values_{source.index}"
        alive = f"SELECT n AS {ROW} FROM alive WHERE source = {source.index}"
        living = f"{source.view} SEMI JOIN ({alive}) USING ({ROW})"
        if condition is not None:
            require_condition(connection, source.view, condition, source.name, locate)
            try:
                connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE {flags} AS"
                    f" SELECT {ROW} AS n, coalesce({condition.expression.sql}, false) AS passes FROM {living}"
                )
            except duckdb.Error as error:
                raise_translated(connection, source.view, condition, source.name, locate, error)
            living += f" SEMI JOIN (SELECT n AS {ROW} FROM {flags} WHERE passes) USING ({ROW})"
        by = expressions.order.get(stage.number)
        if by is not None:
            families[source.name] = order_family(value_type(connection, source.view, by, source.name, locate))
            try:
                connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE {values} AS"
                    f" SELECT {ROW} AS n, {by.expression.sql} AS value FROM {living}"
                )
            except duckdb.Error as error:
                raise_translated(connection, source.view, by, source.name, locate, error)
        pieces = f"greatest(1, (s.tokens + {length - 1}) // {length})" if stage.splits[source.name] else "1"
        too_long = "false" if stage.splits[source.name] else f"s.tokens > {length}"
        parts.append(
            f"SELECT s.n, s.source, s.hi, s.lo, s.tokens, s.supervised - ({pieces} - 1) AS supervised,"
            f" s.images, s.tiles, ({pieces})::BIGINT AS pieces, {'v.value' if by else 'NULL'} AS value,"
            f" CASE WHEN NOT {'f.passes' if condition else 'true'} THEN 'stage_where'"
            f" WHEN {too_long} OR s.tiles > {stage.max_tiles} THEN 'too_long' END AS rule FROM alive s"
            + (f" JOIN {flags} f USING (n)" if condition else "")
            + (f" LEFT JOIN {values} v USING (n)" if by else "")
            + f" WHERE s.source = {source.index}"
        )
    known = {family for family in families.values() if family != "nothing"}
    if len(known) > 1:
        raise spec_error(
            f"order.by of stage `{stage.name}` is of different kinds in its sources",
            expressions.order[stage.number].path,
            locate,
            why="; ".join(f"in `{name}` it is {family}" for name, family in sorted(families.items())),
            mend="cast it, as in `cast(x as double)`",
        )
    connection.execute(f"CREATE TABLE judged_{stage.number} AS {' UNION ALL '.join(parts)}")
    for source in sources:
        connection.execute(f"DROP TABLE IF EXISTS flags_{source.index}")
        connection.execute(f"DROP TABLE IF EXISTS values_{source.index}")

    totals = ", ".join(f"coalesce(sum({sql}) FILTER (rule IS NULL), 0)::BIGINT" for sql in UNITS.values())
    counts = rows(
        connection,
        "SELECT source, count(*), count(*) FILTER (rule IS NULL), count(*) FILTER (rule = 'too_long'),"
        f" {totals} FROM judged_{stage.number} GROUP BY source",
    )
    by_index = {index: row for index, *row in counts}
    offers = {}
    for source in sources:
        alive, samples, long, *sizes = by_index.get(source.index, [0] * (3 + len(UNITS)))
        offers[source.name] = Eligible(
            alive=alive, samples=samples, too_long=long, sizes=dict(zip(UNITS, sizes, strict=True))
        )
    return offers


def create_chosen(connection: duckdb.DuckDBPyConnection, stage: int) -> None:
    connection.execute(
        f"CREATE TABLE chosen_{stage} (n BIGINT, source USMALLINT, epoch UINTEGER, key UBIGINT, units BIGINT)"
    )


def choose(
    connection: duckdb.DuckDBPyConnection,
    stage: StageRules,
    source: SourceTable,
    *,
    seed: int,
    unit: str,
    size: int,
    target: int,
) -> int:
    """Add to chosen_J what comes nearest to `target` units of the source, of which one epoch has `size`;
    units taken.

    target // size full epochs, then of the next epoch, in the order of its 'select' keys, the shortest prefix
    whose units are nearest to what is left. The keys hang on (seed, stage, epoch, id) alone, so neither
    another source nor another share changes the order, and a smaller target takes a prefix of what a larger
    takes.
    """
    epochs, rest = divmod(target, size)
    eligible = f"(SELECT n, source, hi, lo, {UNITS[unit]} AS units FROM judged_{stage.number}"
    eligible += f" WHERE rule IS NULL AND source = {source.index})"
    taken = epochs * size
    if epochs:
        order_keys = [make_key(seed, "order", stage.name, epoch) for epoch in range(epochs)]
        insert(
            connection,
            f"INSERT INTO chosen_{stage.number}"
            f" SELECT n, source, epoch, {KEY_FUNCTION}(hi, lo, key_hi, key_lo), units"
            f" FROM {eligible} CROSS JOIN incoming",
            pa.table(
                {
                    "epoch": pa.array(range(epochs), pa.uint32()),
                    "key_hi": pa.array([key.hi for key in order_keys], pa.uint64()),
                    "key_lo": pa.array([key.lo for key in order_keys], pa.uint64()),
                }
            ),
        )
    if rest:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE prefix AS SELECT n, source, hi, lo, units,"
            " row_number() OVER by_key AS place, (sum(units) OVER by_key)::BIGINT AS upto"
            f" FROM (SELECT *, {_key(seed, 'select', stage.name, epochs)} AS key FROM {eligible})"
            " WINDOW by_key AS (ORDER BY key, hi, lo ROWS UNBOUNDED PRECEDING)"
        )
        ((place, upto),) = rows(
            connection, f"SELECT place, upto FROM prefix ORDER BY abs(upto - {rest}), place LIMIT 1"
        )
        if abs(upto - rest) < rest:  # nearer than nothing at all
            connection.execute(
                f"INSERT INTO chosen_{stage.number} SELECT n, source, {epochs},"
                f" {_key(seed, 'order', stage.name, epochs)}, units FROM prefix WHERE place <= {place}"
            )
            taken += upto
        connection.execute("DROP TABLE prefix")
    return taken


def _key(seed: int, purpose: str, stage: str, epoch: int) -> str:
    key = make_key(seed, purpose, stage, epoch)
    return f"{KEY_FUNCTION}(hi, lo, {key.hi}::UBIGINT, {key.lo}::UBIGINT)"
