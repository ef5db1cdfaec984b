"""The plan pass: facts and a spec in, the tables of `tables.py` out.

Reads the facts of every object once, decides in DuckDB what each stage takes and in which order, then packs
and divides window by window in numpy, so that memory is bounded by the window and by what DuckDB may hold
before it spills.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import fsum
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa

from mixc.plan import tables
from mixc.plan.checks import Warn, check_mix, check_offers, check_sources
from mixc.plan.database import open_database, stream
from mixc.plan.divide import warmup_steps
from mixc.plan.drops import drops_sql
from mixc.plan.expressions import Expressions, Locate, nowhere, parse_expressions, resolve
from mixc.plan.layout import Layout
from mixc.plan.load import (
    NumberedFragment,
    PlannedFragment,
    SourceTable,
    common_type,
    load_source,
    number_fragments,
    source_columns,
)
from mixc.plan.order import ordered_samples, windows
from mixc.plan.select import Eligible, StageRules, drop_duplicates, judge, make_samples, survivors
from mixc.plan.share import Share, fill_stage
from mixc.plan.tables import PlanSummary, SourcePlan, StagePlan
from mixc.plan.write import TableWriter, uuids
from mixc.spec.check import mix_entries
from mixc.spec.diagnostics import printable
from mixc.spec.quantity import parse_count, parse_warmup
from mixc.spec.schema import MixEntry, Order, Spec, Stage
from shards.manifest import Geometry

MANY_EPOCHS = 4
"""Above it a plan warns: up to 4 epochs repeated text is worth nearly as much as new (Muennighoff et al.,
"Scaling Data-Constrained Language Models", arXiv:2305.16264)."""
OFF_BUDGET = Fraction(1, 50)
"""A stage further than this from its budget warns."""
MUCH_PADDING = Fraction(1, 10)
"""Above it a plan warns."""


def plan(
    spec: Spec,
    fragments: Sequence[PlannedFragment],
    *,
    geometry: Geometry,
    out: Path,
    rejects: Mapping[str, Mapping[str, int]],
    threads: int | None = None,
    memory_limit: str | None = None,
    locate: Locate | None = None,
) -> PlanSummary:
    """Plan a mixture and write the tables into the folder `out`, summary.json last.

    `fragments` in any order; `rejects` are the unusable rows by source and reason, for the report. `threads`
    and `memory_limit` (`4GB`) bound DuckDB and change nothing in the plan. `locate` finds the spec's values
    in the user's file, for messages. SpecError: the spec does not fit itself or the columns there are.
    PlanError: the data cannot fill it. BuildError: an object cannot be read.
    """
    locate = locate or nowhere
    warnings: list[str] = []
    expressions = parse_expressions(spec, locate)
    mixes = [mix_entries(stage.mix) for stage in spec.stages]
    for number, mix in enumerate(mixes):
        check_mix(spec, number, mix, locate)
    numbered = number_fragments(fragments)
    out.mkdir(parents=True, exist_ok=True)
    with open_database(out / ".scratch", threads=threads, memory_limit=memory_limit) as connection:
        sources = _load(connection, spec, numbered, mixes, expressions, locate, warnings.append)
        make_samples(connection, list(sources.values()), expressions, locate)
        drop_duplicates(connection, exact=spec.dedup.exact)
        left = survivors(connection, list(sources.values()))
        check_sources(spec, mixes, left, expressions, locate, warnings.append)

        all_rules: dict[int, StageRules] = {}
        stages = []
        with (
            TableWriter(
                out / "placements.parquet", tables.PLACEMENTS_SCHEMA, sorted_by=["stage", "step", "pack"]
            ) as places,
            TableWriter(out / "packs.parquet", tables.PACKS_SCHEMA, sorted_by=["stage", "step", "pack"]) as packs,
        ):
            for number, stage in enumerate(spec.stages):
                rules = _rules(spec, number, mixes[number], geometry)
                members = [sources[name] for name in mixes[number]]
                offers = judge(connection, rules, members, expressions, locate)
                check_offers(spec, number, offers, expressions, locate, warnings.append)
                selection = fill_stage(
                    connection, spec, number, mixes[number], rules, members, offers, locate, warnings.append
                )
                layout = Layout(
                    number=number,
                    stage=stage,
                    rules=rules,
                    names=sorted(spec.sources),
                    places=places,
                    packs=packs,
                )
                order = stage.order if isinstance(stage.order, Order) else Order()
                batches = ordered_samples(connection, number, order.direction if order.by is not None else None)
                for window in windows(batches, size=parse_count(order.window), sequence_length=stage.sequence_length):
                    layout.add(window, seed=spec.seed)
                layout.finish()
                stages.append(_stage_plan(stage, rules, selection, offers, layout, warnings.append))
                all_rules[number] = rules
        drops = _write_drops(connection, out, sources, expressions, all_rules)
    _write_fragments(out, numbered)
    summary = PlanSummary(
        stages=stages,
        drops=drops,
        rejects={
            source: {reason: count for reason, count in sorted(reasons.items()) if count}
            for source, reasons in sorted(rejects.items())
        },
        warnings=warnings,
    )
    text = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    (out / "summary.json").write_bytes(text + b"\n")
    return summary


def _load(
    connection: duckdb.DuckDBPyConnection,
    spec: Spec,
    fragments: Sequence[NumberedFragment],
    mixes: Sequence[Mapping[str, MixEntry]],
    expressions: Expressions,
    locate: Locate,
    warn: Warn,
) -> dict[str, SourceTable]:
    by_source: dict[str, list[NumberedFragment]] = {name: [] for name in sorted(spec.sources)}
    for fragment in fragments:
        by_source[fragment.fragment.source].append(fragment)
    sources = {}
    for index, (name, own) in enumerate(by_source.items()):
        uses = expressions.of_source(name, [j for j, mix in enumerate(mixes) if name in mix])
        types = source_columns(own)
        if not any(fragment.fragment.samples for fragment in own):
            uses = []  # without a row there may be no columns; check_sources says what is wrong
        resolved = resolve(name, uses, types, locate)
        for column in resolved.hidden:
            warn(
                f"source `{name}` has a column `{printable(column)}`, but in its expressions that name is the"
                " signal; rename the column to use it"
            )
        columns = {column: common_type(types[column]) for column in resolved.columns}
        sources[name] = load_source(connection, name, index, own, columns)
    return sources


def _rules(spec: Spec, number: int, mix: Mapping[str, MixEntry], geometry: Geometry) -> StageRules:
    stage = spec.stages[number]
    # A sequence shorter than one tile can hold none, but a limit is at least 1: its tokens keep images out.
    by_length = max(1, stage.sequence_length // geometry.tokens_per_tile)
    return StageRules(
        number=number,
        name=stage.name,
        sequence_length=stage.sequence_length,
        max_tiles=stage.max_tiles or by_length,
        splits={name: spec.sources[name].kind == "text" and spec.sources[name].too_long != "drop" for name in mix},
    )


def _stage_plan(
    stage: Stage,
    rules: StageRules,
    selection: Share,
    offers: Mapping[str, Eligible],
    layout: Layout,
    warn: Warn,
) -> StagePlan:
    total = {name: int(values.sum()) for name, values in layout.totals.items()}
    taken = sum(selection.taken.values())
    sources = {}
    for name, units in selection.taken.items():
        index = layout.names.index(name)
        counts = {key: int(values[index]) for key, values in layout.totals.items()}
        size = offers[name].sizes[stage.unit]
        epochs = units / size if size else 0.0
        sources[name] = SourcePlan(
            wished=float(selection.allocation.shares[name]),
            met=units / taken,
            epochs=epochs,
            eligible=offers[name].samples,
            samples=counts["samples"],
            tokens=counts["tokens"],
            supervised_tokens=counts["supervised"],
            images=counts["images"],
            tiles=counts["tiles"],
        )
        if epochs > MANY_EPOCHS:
            warn(f"stage `{stage.name}`: `{name}` is repeated for {epochs:.1f} epochs")
    counts_of = {"samples": "whole", "supervised_tokens": "supervised"}
    reached = total[counts_of.get(selection.unit, selection.unit)]
    meant = selection.total - selection.allocation.unmet
    if abs(reached - meant) > OFF_BUDGET * meant:
        warn(
            f"stage `{stage.name}`: the budget of {int(meant):,} {selection.unit} comes to {reached:,};"
            " a small stage cannot be cut finer than its samples, and another unit than its shares' only on average"
        )
    batch, full = stage.train.batch, layout.written - layout.empty
    capacity = full * rules.sequence_length
    if total["tokens"] < (1 - MUCH_PADDING) * capacity:
        tiles_bind = total["tiles"] * rules.sequence_length > total["tokens"] * rules.max_tiles
        part = f"{1 - total['tokens'] / capacity:.0%}"
        mend = f"max_tiles, {rules.max_tiles}, is what fills the packs" if tiles_bind else "widen order.window"
        warn(f"stage `{stage.name}`: {part} of its packs' tokens are padding; {mend}")
    if 2 * layout.empty >= batch:
        warn(f"stage `{stage.name}`: {layout.empty} of the {batch} packs of its last step are empty")
    steps = layout.written // batch
    return StagePlan(
        name=stage.name,
        unit=stage.unit,
        budget=selection.total,
        batch=batch,
        sequence_length=rules.sequence_length,
        max_tiles=rules.max_tiles,
        steps=steps,
        packs=layout.written,
        empty_packs=layout.empty,
        samples=total["samples"],
        tokens=total["tokens"],
        supervised_tokens=total["supervised"],
        images=total["images"],
        tiles=total["tiles"],
        fill=total["tokens"] / capacity,
        rank_skew=fsum(layout.skews) / steps,
        sources=sources,
        warmup_steps=warmup_steps(parse_warmup(stage.train.warmup), steps),
    )


def _write_drops(
    connection: duckdb.DuckDBPyConnection,
    out: Path,
    sources: Mapping[str, SourceTable],
    expressions: Expressions,
    stages: Mapping[int, StageRules],
) -> dict[str, int]:
    """Write drops.parquet; the counts by rule."""
    names = pa.array(list(sources))
    counts: dict[str, int] = {}
    sql = drops_sql(connection, list(sources.values()), expressions, stages)
    with TableWriter(out / "drops.parquet", tables.DROPS_SCHEMA, sorted_by=["source"]) as writer:
        for batch in stream(connection, sql):
            columns = {name: batch[name] for name in ("rule", "detail", "fragment", "row")}
            columns["tokens"] = batch["tokens"].cast(pa.uint32())
            columns["source"] = names.take(batch["source"])
            columns["id"] = uuids(batch["hi"].to_numpy(), batch["lo"].to_numpy())
            writer.write(columns)
            for item in batch["rule"].value_counts().to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return dict(sorted(counts.items()))


def _write_fragments(out: Path, fragments: Sequence[NumberedFragment]) -> None:
    rows = [f.fragment for f in fragments]
    with TableWriter(out / "fragments.parquet", tables.FRAGMENTS_SCHEMA) as writer:
        writer.write(
            {
                "fragment": [f.number for f in fragments],
                "source": [f.source for f in rows],
                "path": [f.path for f in rows],
                "digest": [f.digest for f in rows],
                "object": [f.object for f in rows],
                "samples": [f.samples for f in rows],
                "rejects": [f.rejects for f in rows],
            }
        )
