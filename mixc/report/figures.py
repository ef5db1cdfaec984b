"""What the report shows of a plan, as numbers: asked of the plan's tables in DuckDB, out of core, so that a page of a hundred
million samples is as small as one of a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import msgspec

LENGTH_BINS = 40
FILL_BINS = 25
CURRICULUM_BINS = 80
"""Stretches of a stage over which the division among sources is shown: not more than a screen can."""
TILE_BARS = 32
EXAMPLES = 3
"""Of each rule and source, in the page."""
SAMPLES = 2
"""Of each source in each stage, in the gallery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How the tokens of a stage's steps are divided among sources, along the stage."""

    sources: list[str]
    steps: list[tuple[int, int]]
    """First and last step of each stretch."""
    tokens: list[list[int]]
    """[stretch][source]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drops:
    """The samples of one source that one rule dropped."""

    rule: str
    source: str
    samples: int
    tokens: int
    examples: list[Example]
    """Those of the least ids."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    detail: str
    path: str
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTotals:
    """What a forecast needs of a stage, all steps together."""

    tokens: int
    tiles: int
    targets: int
    """Supervised tokens."""
    pairs: int
    """Sum of squared segment lengths: what attention costs."""


class Figures:
    """The plan of a build, as `open_plan` opens it, to be asked."""

    def __init__(self, plan: duckdb.DuckDBPyConnection) -> None:
        self._db = plan

    def lengths(self, stage: int, longest: int) -> list[int]:
        """Placed samples by tokens, LENGTH_BINS bins of equal width from 0 to `longest`, which the last one holds."""
        return self._binned(
            f"least(tokens * {LENGTH_BINS}::BIGINT // {longest}, {LENGTH_BINS - 1})", "placements", stage, LENGTH_BINS
        )

    def fill(self, stage: int, capacity: int) -> list[int]:
        """Packs that are not empty by how full they are, FILL_BINS bins of equal width; the last holds the full ones."""
        return self._binned(
            f"least(tokens * {FILL_BINS}::BIGINT // {capacity}, {FILL_BINS - 1})",
            "packs",
            stage,
            FILL_BINS,
            "AND tokens > 0",
        )

    def tiles(self, stage: int) -> list[int]:
        """Placed samples by tiles, from 0 on; the last of TILE_BARS holds what has more. Without the empty bars at the end."""
        counts = self._binned(f"least(tiles, {TILE_BARS - 1})", "placements", stage, TILE_BARS)
        while counts and not counts[-1]:
            counts.pop()
        return counts

    def division(self, stage: int, steps: int, sources: Sequence[str]) -> Division:
        """How the tokens along a stage are divided among `sources`."""
        stretches = min(steps, CURRICULUM_BINS)
        if not stretches:
            return Division(sources=list(sources), steps=[], tokens=[])
        place = {name: number for number, name in enumerate(sources)}
        tokens = [[0] * len(sources) for _ in range(stretches)]
        for stretch, source, count in self._db.execute(
            f"SELECT step * {stretches}::BIGINT // {steps}, source, sum(tokens)::BIGINT FROM placements WHERE stage = ? "
            "GROUP BY ALL",
            [stage],
        ).fetchall():
            tokens[stretch][place[source]] = count
        first = [-(-stretch * steps // stretches) for stretch in range(stretches + 1)]
        return Division(
            sources=list(sources),
            steps=[(first[stretch], first[stretch + 1] - 1) for stretch in range(stretches)],
            tokens=tokens,
        )

    def drops(self) -> list[Drops]:
        """What each rule dropped of each source: rules by name, sources by name."""
        rows = self._db.execute(
            f"""
            SELECT rule, source, count(*), sum(tokens)::BIGINT,
                   min(struct_pack(id := replace(id::VARCHAR, '-', ''), detail := coalesce(detail, ''),
                                   fragment := fragment, "row" := "row"), {EXAMPLES})
            FROM drops GROUP BY rule, source ORDER BY rule, source
            """
        ).fetchall()
        wanted = sorted({example["fragment"] for *_, examples in rows for example in examples})
        paths = dict(
            self._db.execute(
                "SELECT fragment, path FROM fragments WHERE list_contains(?, fragment)", [wanted]
            ).fetchall()
        )
        return [
            Drops(
                rule=rule,
                source=source,
                samples=samples,
                tokens=tokens,
                examples=[
                    Example(id=e["id"], detail=e["detail"], path=paths[e["fragment"]], row=e["row"]) for e in examples
                ],
            )
            for rule, source, samples, tokens, examples in rows
        ]

    def totals(self, stage: int) -> StageTotals:
        row = self._db.execute(
            "SELECT coalesce(sum(tokens), 0)::BIGINT, coalesce(sum(tiles), 0)::BIGINT, "
            "coalesce(sum(supervised_tokens), 0)::BIGINT, coalesce(sum(tokens::HUGEINT * tokens), 0)::HUGEINT "
            "FROM placements WHERE stage = ?",
            [stage],
        ).fetchone()
        assert row is not None
        tokens, tiles, targets, pairs = map(int, row)
        return StageTotals(tokens=tokens, tiles=tiles, targets=targets, pairs=pairs)

    def some(self, stage: int) -> dict[str, list[tuple[int, int]]]:
        """By source, sorted, where some of its samples stand in a stage: (pack, place) of the SAMPLES of the least ids, which are
        as good as drawn, as an id is a digest."""
        rows = self._db.execute(
            f"""
            SELECT source, min(struct_pack(id := id, pack := pack, place := place), {SAMPLES})
            FROM placements WHERE stage = ? AND piece = 0 AND epoch = 0 GROUP BY source ORDER BY source
            """,
            [stage],
        ).fetchall()
        return {source: [(each["pack"], each["place"]) for each in found] for source, found in rows}

    def _binned(self, bin: str, table: str, stage: int, bins: int, condition: str = "") -> list[int]:
        counts = [0] * bins
        rows: list[tuple[Any, ...]] = self._db.execute(
            f"SELECT {bin}, count(*) FROM {table} WHERE stage = ? {condition} GROUP BY 1", [stage]
        ).fetchall()
        for number, count in rows:
            counts[int(number)] = count
        return counts
