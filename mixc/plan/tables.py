"""The plan on disk: Parquet that anyone can query, written in the order given here.

    PLAN/placements.parquet  which sample stands where; sorted by stage, pack, place
    PLAN/packs.parquet       one row a pack; sorted by stage, pack
    PLAN/drops.parquet       for every sample that no stage uses, what dropped it; sorted by source, id, rule
    PLAN/kept_out.parquet    for a stage and a sample of its sources that its own rules keep out of it, which rule, where the
                             drops do not say it; sorted by stage, source, rule, fragment, row
    PLAN/held_out.parquet    of a spec that holds samples out: them; sorted by source, id
    PLAN/fragments.parquet   fragment number -> source, path, digest, object; sorted by number
    PLAN/summary.json        PlanSummary

`stage` counts from 0 in the spec's order. `pack` counts from 0 within a stage and is the order of training:
step s trains packs [s*batch, (s+1)*batch). Provenance columns (`fragment`, `row`, `offset`, `length`) may
differ between two plans of the same content in other files; every other column is equal, bit for bit.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa

PLACEMENTS_SCHEMA = pa.schema(
    [
        ("stage", pa.uint16()),
        ("step", pa.uint32()),
        ("pack", pa.uint32()),
        ("place", pa.uint32()),  # segment number in the pack
        ("source", pa.string()),
        ("id", pa.uuid()),
        ("content", pa.uuid()),
        ("epoch", pa.uint32()),
        ("piece", pa.uint32()),
        ("piece_start", pa.uint32()),  # tokens [piece_start, piece_end) of the sample; all of it unless split
        ("piece_end", pa.uint32()),
        ("tokens", pa.uint32()),
        ("supervised_tokens", pa.uint32()),
        ("images", pa.uint16()),
        ("tiles", pa.uint32()),
        ("weight", pa.float32()),  # loss weight of a supervised token
        ("fragment", pa.uint32()),
        ("row", pa.uint64()),
        ("offset", pa.uint64()),
        ("length", pa.uint32()),
    ]
)

PACKS_SCHEMA = pa.schema(
    [
        ("stage", pa.uint16()),
        ("step", pa.uint32()),
        ("pack", pa.uint32()),
        ("samples", pa.uint32()),
        ("tokens", pa.uint32()),
        ("supervised_tokens", pa.uint32()),
        ("images", pa.uint32()),
        ("tiles", pa.uint32()),
        ("denominator", pa.float64()),  # sum of weight * supervised tokens, exactly rounded (math.fsum)
    ]
)

DROPS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("id", pa.uuid()),
        ("rule", pa.string()),  # docs/planning.md section 1 lists them
        ("detail", pa.string()),  # the expression, the winner's id, the stage
        ("tokens", pa.uint32()),
        ("fragment", pa.uint32()),
        ("row", pa.uint64()),
    ]
)

KEPT_OUT_SCHEMA = pa.schema(
    [
        ("stage", pa.uint16()),
        ("source", pa.string()),
        ("rule", pa.string()),  # stage_where, quantile or too_long
        ("fragment", pa.uint32()),
        ("row", pa.uint64()),
    ]
)
"""Of a sample of which a stage mixes the source and which it does not use: the row here, else the rule of the drops, else `budget`.
Samples go by fragment and row, not by id: an id in each row would be most of the table."""

HELD_OUT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("id", pa.uuid()),
        ("content", pa.uuid()),
        ("tokens", pa.uint32()),
        ("fragment", pa.uint32()),
        ("row", pa.uint64()),
        ("offset", pa.uint64()),
        ("length", pa.uint32()),
    ]
)

FRAGMENTS_SCHEMA = pa.schema(
    [
        ("fragment", pa.uint32()),  # numbered by source, digest, path
        ("source", pa.string()),
        ("path", pa.string()),
        ("digest", pa.string()),
        ("object", pa.string()),  # object digest: its key in the cache
        ("samples", pa.uint64()),
        ("rejects", pa.uint64()),
    ]
)


class SourcePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One source in one stage. Counts with repetition."""

    wished: float
    met: float
    epochs: float
    eligible: int
    """Samples that pass every threshold."""
    samples: int
    tokens: int
    supervised_tokens: int
    images: int
    tiles: int


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    unit: str
    budget: int
    """Of the unit that the budget names."""
    batch: int
    sequence_length: int
    max_tiles: int
    steps: int
    packs: int
    """steps x batch, empty ones included."""
    empty_packs: int
    samples: int
    tokens: int
    supervised_tokens: int
    images: int
    tiles: int
    fill: float
    """Tokens over the capacity of the packs that are not empty."""
    rank_skew: float
    """(busiest - idlest rank) / mean work of a rank, by the cost model of `mixc.plan.cost`: the worst world size from 2
    to 64 that divides the batch, in the mean over steps. A part empty last step counts only if it is the only one."""
    rank_skew_max: float
    """The same of the worst step."""
    sources: dict[str, SourcePlan]
    warmup_steps: int


class Continued(msgspec.Struct, frozen=True, kw_only=True):
    """What the run used that the plan continues, and that the plan keeps to it."""

    root: str
    """Root digest of the run's build."""
    stage: str
    step: int
    """Its first step that was not trained."""
    consumed: int
    """Samples that were trained."""
    digest: str
    """blake3 over them and how often each was used (mixc/plan/consumed.py)."""
    unknown: int
    """Of them those that no source of the plan holds."""
    again: int
    """Of them those that the plan uses again, within max_epochs or because a stage says `reuse`."""


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    stages: list[StagePlan]
    drops: dict[str, int]
    """Samples that no stage uses, by rule."""
    rejects: dict[str, dict[str, int]]
    """Unusable rows by source and reason."""
    warnings: list[str]
    continues: Continued | None = None
