"""Why a sample is in no stage: one rule for each, the one where it came furthest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from mixc.plan.database import insert, literal
from mixc.plan.expressions import Expressions
from mixc.plan.load import SourceTable
from mixc.plan.select import StageRules

RULES = ("where", "dedup_exact", "unused_source", "stage_where", "too_long", "budget")
"""In the order in which a sample meets them."""

_DROPS = """
    WITH
        used AS (SELECT DISTINCT n FROM ({used})),
        furthest AS (
            SELECT n, rank, detail FROM (
                SELECT *, row_number() OVER (PARTITION BY n ORDER BY rank DESC, stage) AS place
                FROM ({judged}) ANTI JOIN used USING (n)
            ) WHERE place = 1
        )
    SELECT
        s.source AS source, s.hi AS hi, s.lo AS lo,
        CASE
            WHEN NOT s.passes THEN 'where'
            WHEN l.n IS NOT NULL THEN 'dedup_exact'
            WHEN NOT own.mixed THEN 'unused_source'
            ELSE CASE f.rank WHEN 1 THEN 'stage_where' WHEN 2 THEN 'too_long' ELSE 'budget' END
        END AS rule,
        CASE
            WHEN NOT s.passes THEN own.condition
            WHEN l.n IS NOT NULL THEN
                winner.name || ' ' || ((winner_hi::UHUGEINT << 64) | winner_lo::UHUGEINT)::UUID::VARCHAR
            WHEN NOT own.mixed THEN ''
            ELSE f.detail
        END AS detail,
        s.tokens AS tokens, s.fragment AS fragment, s.row AS row
    FROM samples s ANTI JOIN used USING (n)
    JOIN source_names own ON s.source = own.source
    LEFT JOIN losers l ON s.n = l.n
    LEFT JOIN source_names winner ON winner.source = l.winner_source
    LEFT JOIN furthest f ON s.n = f.n
    ORDER BY s.source, s.hi, s.lo
"""

_JUDGED = """
    SELECT
        n, {stage} AS stage,
        CASE rule WHEN 'stage_where' THEN 1 WHEN 'too_long' THEN 2 ELSE 3 END AS rank,
        CASE rule
            WHEN 'stage_where' THEN CASE source {conditions} END
            WHEN 'too_long' THEN {name} || ': ' || tokens || ' tokens, ' || tiles || ' tiles'
            ELSE {name}
        END AS detail
    FROM judged_{stage}
"""


def drops_sql(
    connection: duckdb.DuckDBPyConnection,
    sources: Sequence[SourceTable],
    expressions: Expressions,
    stages: Mapping[int, StageRules],
) -> str:
    """The query of every sample that no stage uses: source (index), hi, lo, rule, detail, tokens, fragment,
    row; sorted by source and id.

    Of stage_where, too_long and budget a sample has the last that it met in any stage, and of equals the
    first stage's. Detail: the condition; the winner's source and id; the stage, with the condition or the
    counts. Needs the tables of select.py for all `stages`; makes `source_names`.
    """
    mixed = {name for rules in stages.values() for name in rules.splits}
    conditions = [expressions.where.get(source.name) for source in sources]
    insert(
        connection,
        "CREATE TABLE source_names AS SELECT * FROM incoming",
        pa.table(
            {
                "source": pa.array([source.index for source in sources], pa.uint16()),
                "name": pa.array([source.name for source in sources], pa.string()),
                "condition": pa.array([use.expression.text if use else None for use in conditions], pa.string()),
                "mixed": pa.array([source.name in mixed for source in sources], pa.bool_()),
            }
        ),
    )
    judged = []
    for number, rules in stages.items():
        texts = " ".join(
            f"WHEN {source.index} THEN {literal(f'{rules.name}: {use.expression.text}')}"
            for source in sources
            if (use := expressions.stage_where.get((number, source.name)))
        )
        judged.append(_JUDGED.format(stage=number, name=literal(rules.name), conditions=texts or "WHEN NULL THEN NULL"))
    used = " UNION ALL ".join(f"SELECT n FROM chosen_{number}" for number in stages)
    return _DROPS.format(used=used, judged=" UNION ALL ".join(judged))
