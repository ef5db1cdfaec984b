"""Differences between two plans: which samples, how often, by which rule, in which order. In DuckDB, out of core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import msgspec

from mixc.plan.database import literal

# What of a placement a training run sees, through the pack that it becomes. Provenance is not in it.
SEEN = "pack, place, source, id, epoch, piece, piece_start, piece_end, weight, tokens, supervised_tokens, images, tiles"


class SampleCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Samples by what became of them from A to B. A sample that stands in several stages counts once."""

    added: int
    """Used by B, not by A."""
    removed: int
    """Used by A, not by B."""
    moved: int
    """Used by both, not in the same stages."""
    repeated: int
    """In the same stages, but not as often."""
    added_tokens: int
    removed_tokens: int
    added_by_rule: dict[str, dict[str, int]]
    """Source -> the rule that had kept it out of A -> samples. `absent`: it was not in A's sources."""
    removed_by_rule: dict[str, dict[str, int]]
    """Source -> the rule that keeps it out of B -> samples."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    stage: str
    step: int
    pack: int


class StageOrder(msgspec.Struct, frozen=True, kw_only=True):
    first_difference: Place | None
    steps_a: int
    steps_b: int
    equal_steps: int
    """Steps that train the same packs at the same place in both."""


class Plans:
    """Two plans, opened side by side. `a` and `b` are plan folders; `stages_*` their stage names in order."""

    def __init__(self, a: Path, b: Path, stages_a: list[str], stages_b: list[str], spill: Path) -> None:
        self._db = duckdb.connect()
        self._db.execute(f"SET temp_directory = {literal(str(spill))}")
        for side, folder, stages in (("a", a, stages_a), ("b", b, stages_b)):
            self._db.execute(f"CREATE TABLE stages_{side}(stage USMALLINT, name VARCHAR)")
            self._db.executemany(f"INSERT INTO stages_{side} VALUES (?, ?)", list(enumerate(stages)))
            self._db.execute(
                f"CREATE VIEW {side} AS SELECT name, p.* FROM read_parquet({literal(str(folder / 'placements.parquet'))}) p"
                f" JOIN stages_{side} USING (stage)"
            )
            self._db.execute(f"CREATE VIEW drops_{side} AS FROM read_parquet({literal(str(folder / 'drops.parquet'))})")

    def close(self) -> None:
        self._db.close()

    def samples(self) -> SampleCounts:
        """Compare the two selections."""
        for side in ("a", "b"):
            # A sample's uses: in which stages, and how often its first piece comes in each. Its tokens count once.
            self._db.execute(
                f"""
                CREATE TABLE uses_{side} AS
                SELECT id, any_value(source) AS source, list(name ORDER BY name) AS stages,
                       list(times ORDER BY name) AS times, max(tokens)::BIGINT AS tokens
                FROM (SELECT id, source, name, count(DISTINCT epoch) AS times,
                             sum(tokens) / count(DISTINCT epoch) AS tokens
                      FROM {side} GROUP BY id, source, name)
                GROUP BY id
                """
            )
        moved, repeated = self._one(
            "SELECT count(*) FILTER (x.stages <> y.stages), count(*) FILTER (x.stages = y.stages AND x.times <> y.times)"
            " FROM uses_a x JOIN uses_b y USING (id)"
        )
        found: dict[str, tuple[int, int, dict[str, dict[str, int]]]] = {}
        for name, used, unused in (("added", "b", "a"), ("removed", "a", "b")):
            rows = self._db.execute(
                f"""
                SELECT source, coalesce(rule, 'absent') AS rule, count(*), sum(tokens)::BIGINT
                FROM (FROM uses_{used} ANTI JOIN uses_{unused} USING (id)) u
                LEFT JOIN (SELECT id, min(rule) AS rule FROM drops_{unused} GROUP BY id) USING (id)
                GROUP BY ALL ORDER BY ALL
                """
            ).fetchall()
            rules: dict[str, dict[str, int]] = {}
            for source, rule, count, _ in rows:
                rules.setdefault(source, {})[rule] = count
            found[name] = (sum(row[2] for row in rows), sum(row[3] for row in rows), rules)
        return SampleCounts(
            added=found["added"][0],
            removed=found["removed"][0],
            moved=moved,
            repeated=repeated,
            added_tokens=found["added"][1],
            removed_tokens=found["removed"][1],
            added_by_rule=found["added"][2],
            removed_by_rule=found["removed"][2],
        )

    def order(self, stage: str, steps_a: int, steps_b: int, batch_a: int, batch_b: int) -> StageOrder:
        """Compare one stage pack by pack. A stage that only one side has differs from its first step on."""
        differing = f"""
            SELECT pack FROM (
                (SELECT {SEEN} FROM a WHERE name = $1 EXCEPT ALL SELECT {SEEN} FROM b WHERE name = $1)
                UNION ALL
                (SELECT {SEEN} FROM b WHERE name = $1 EXCEPT ALL SELECT {SEEN} FROM a WHERE name = $1))
        """
        pack, differing_steps = self._one(
            f"SELECT min(pack), count(DISTINCT pack // {batch_a}) FILTER (pack // {batch_a} < {min(steps_a, steps_b)})"
            f" FROM ({differing})",
            [stage],
        )
        common = min(steps_a, steps_b)
        if batch_a != batch_b:  # other steps from the first on
            pack, differing_steps = 0, common
        elif pack is None and steps_a != steps_b:  # one is the other's beginning
            pack = common * batch_a
        first = None if pack is None else Place(stage=stage, step=pack // batch_a, pack=pack)
        return StageOrder(
            first_difference=first, steps_a=steps_a, steps_b=steps_b, equal_steps=common - differing_steps
        )

    def _one(self, query: str, parameters: list[str] | None = None) -> tuple[Any, ...]:
        row = self._db.execute(query, parameters or []).fetchone()
        assert row is not None
        return row
