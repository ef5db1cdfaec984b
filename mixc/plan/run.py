"""The plan pass: facts and a spec in, the tables of `tables.py` out.

Reads the facts of every object once into columns in memory, computes the spec's expressions in DuckDB, decides what
each stage takes and in which order by sorting keys, then packs and divides window by window.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np

from mixc.plan import tables
from mixc.plan.checks import Survivors, Warn, check_copies, check_mix, check_offers, check_sources
from mixc.plan.clean import (
    RULES,
    WHERE,
    Winners,
    copies,
    drop_contaminated,
    drop_exact,
    drop_near,
    hold_out,
    preference,
)
from mixc.plan.consumed import Consumed
from mixc.plan.database import Shared, borrow, open_database
from mixc.plan.divide import warmup_steps
from mixc.plan.drops import drops, kept_out
from mixc.plan.evaluate import condition, create_view
from mixc.plan.expressions import Expressions, Locate, nowhere, parse_expressions, resolve
from mixc.plan.judge import Furthest, judge
from mixc.plan.layout import Layout
from mixc.plan.load import (
    NumberedFragment,
    PlannedFragment,
    SourceTable,
    common_type,
    load_samples,
    number_fragments,
    signal_type,
    source_columns,
)
from mixc.plan.order import ordered_samples, windows
from mixc.plan.samples import ALIVE, Samples
from mixc.plan.select import Offer, StageRules
from mixc.plan.share import Share, fill_stage
from mixc.plan.tables import Continued, PlanSummary, SourcePlan, StagePlan
from mixc.plan.write import TableWriter, uuids
from mixc.signals.registry import INTERNAL
from mixc.spec.check import mix_entries
from mixc.spec.diagnostics import printable
from mixc.spec.groups import reach
from mixc.spec.quantity import parse_count, parse_held_out, parse_warmup
from mixc.spec.schema import MixEntry, Order, Spec, Stage
from shards.manifest import Geometry

SCRATCH = ".scratch"
"""Folder of a plan in the making; removed when it is made."""
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
    consumed: Consumed | None = None,
    shared: Shared | None = None,
) -> PlanSummary:
    """Plan a mixture and write the tables into the folder `out`, summary.json last.

    `fragments` in any order; `rejects` are the unusable rows by source and reason, for the report; `consumed` is what
    the run used that the spec continues. `threads` and `memory_limit` (`4GB`) bound DuckDB and change nothing in the
    plan. `locate` finds the spec's values in the user's file, for messages. `shared` is a database that is used for several
    plans, in place of an own one; then `memory_limit` is its. SpecError: the spec does not fit itself or the columns there
    are. PlanError: the data cannot fill it. BuildError: an object cannot be read.
    """
    locate = locate or nowhere
    warnings: list[str] = []
    expressions = parse_expressions(spec, locate)
    for number in range(len(spec.stages)):
        check_mix(spec, number, locate)
    mixes = [_entries(spec, stage) for stage in spec.stages]
    numbered = number_fragments(fragments)
    by_source: dict[str, list[NumberedFragment]] = {name: [] for name in sorted(spec.sources)}
    for fragment in numbered:
        by_source[fragment.fragment.source].append(fragment)
    out.mkdir(parents=True, exist_ok=True)
    opened = (
        borrow(shared, out / SCRATCH, threads)
        if shared
        else open_database(out / SCRATCH, threads=threads, memory_limit=memory_limit)
    )
    with opened as connection:
        sources = _sources(connection, by_source, mixes, expressions, locate, warnings.append)
        samples = load_samples(by_source, threads=threads or os.cpu_count() or 1)
        winners, contaminated, held_out, left = _clean(
            connection, samples, spec, sources, expressions, locate, out / SCRATCH
        )
        held = {name for mix in mixes for name, entry in mix.items() if entry.held_out}
        check_sources(spec, mixes, left, expressions, locate, warnings.append)
        if not spec.dedup.exact:
            check_copies(spec, copies(samples), left, warnings.append)

        all_rules: dict[int, StageRules] = {}
        stages = []
        furthest = Furthest.empty(len(samples))
        before, before_in_stage = (None, None) if consumed is None else consumed.of(samples)
        uses = np.zeros(len(samples), np.uint32) if before is None else before.copy()
        with (
            TableWriter(
                out / "placements.parquet", tables.PLACEMENTS_SCHEMA, sorted_by=["stage", "step", "pack"]
            ) as places,
            TableWriter(out / "packs.parquet", tables.PACKS_SCHEMA, sorted_by=["stage", "step", "pack"]) as packs,
        ):
            for number, stage in enumerate(spec.stages):
                rules = all_rules[number] = _rules(spec, number, mixes[number], geometry)
                prior: np.ndarray | None = uses
                if stage.reuse:
                    continued = consumed is not None and consumed.stage == stage.name
                    prior = before_in_stage if continued else None
                offers = judge(
                    connection,
                    samples,
                    rules,
                    [sources[name] for name in sorted(mixes[number])],
                    mixes[number],
                    expressions,
                    locate,
                    seed=spec.seed,
                    prior=prior,
                    furthest=furthest,
                )
                check_offers(spec, number, offers, expressions, locate, warnings.append)
                share = fill_stage(samples, spec, number, mixes[number], offers, locate, warnings.append)
                for offer in offers:
                    taken = offer.eligible[share.chosen[offer.name].which]
                    furthest.used[taken] = True
                    np.add.at(uses, taken, np.uint32(1))
                layout = Layout(
                    number=number,
                    stage=stage,
                    rules=rules,
                    names=sorted(spec.sources),
                    places=places,
                    packs=packs,
                )
                order = _order(stage)
                batches = ordered_samples(
                    samples,
                    offers,
                    share.chosen,
                    seed=spec.seed,
                    stage=stage.name,
                    unit=stage.unit,
                    direction=order.direction if order.by is not None else None,
                    ramps=share.ramps,
                )
                for window in windows(batches, size=parse_count(order.window), sequence_length=stage.sequence_length):
                    layout.add(window, seed=spec.seed)
                layout.finish()
                stages.append(_stage_plan(stage, rules, share, offers, layout, warnings.append))
        counts = _write_drops(
            out,
            drops(
                samples, list(sources.values()), expressions, all_rules, furthest, winners, contaminated, before, held
            ),
        )
    _write_kept_out(out, kept_out(samples, sorted(spec.sources), furthest))
    if spec.held_out:
        _write_held_out(out, samples, sorted(spec.sources), held_out)
    _write_fragments(out, numbered)
    summary = PlanSummary(
        stages=stages,
        drops=counts,
        rejects={
            source: {reason: count for reason, count in sorted(reasons.items()) if count}
            for source, reasons in sorted(rejects.items())
        },
        warnings=warnings,
        continues=None if consumed is None or before is None else _continued(consumed, before, furthest),
    )
    text = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    (out / "summary.json").write_bytes(text + b"\n")
    return summary


def _entries(spec: Spec, stage: Stage) -> dict[str, MixEntry]:
    """The stage's sources, by name in sorted order: each with the entry of the mix that leads to it."""
    mix = mix_entries(stage.mix)
    found = reach(mix, spec.groups).sources
    return {name: mix[found[name][0]] for name in sorted(found)}


def _sources(
    connection: duckdb.DuckDBPyConnection,
    by_source: Mapping[str, Sequence[NumberedFragment]],
    mixes: Sequence[Mapping[str, MixEntry]],
    expressions: Expressions,
    locate: Locate,
    warn: Warn,
) -> dict[str, SourceTable]:
    sources = {}
    for index, (name, own) in enumerate(by_source.items()):
        uses = expressions.of_source(name, [j for j, mix in enumerate(mixes) if name in mix])
        types = source_columns(own)
        if not any(fragment.fragment.samples for fragment in own):
            uses = []  # without a row there may be no columns; check_sources says what is wrong
        computed = {signal for fragment in own for signal in fragment.fragment.signals} - set(INTERNAL)
        resolved = resolve(name, uses, types, locate, computed=computed)
        for column in resolved.hidden:
            warn(
                f"source `{name}` has a column `{printable(column)}`, but in its expressions that name is the"
                " signal; rename the column to use it"
            )
        sources[name] = SourceTable(
            name=name,
            index=index,
            fragments=own,
            columns={column: common_type(types[column]) for column in resolved.columns},
            signals={signal: signal_type(own, signal) for signal in resolved.signals},
            rows=sum(fragment.fragment.samples for fragment in own),
        )
        create_view(connection, sources[name])
    return sources


def _clean(
    connection: duckdb.DuckDBPyConnection,
    samples: Samples,
    spec: Spec,
    sources: Mapping[str, SourceTable],
    expressions: Expressions,
    locate: Locate,
    scratch: Path,
) -> tuple[Winners, dict[int, str], np.ndarray, dict[str, Survivors]]:
    """Apply every rule before the stages'. The duplicates' winners, what contaminated samples share, the samples held
    out, and what is left of each source."""
    for name, source in sources.items():
        use = expressions.where.get(name)
        if use is not None and source.rows:
            own = samples.of_source(source.index)
            samples.rule[own][~condition(connection, source, use, None, locate)] = WHERE
    contaminated = drop_contaminated(samples, list(sources.values())) if spec.decontaminate is not None else {}
    winners = Winners()
    preferred = preference(spec.dedup, list(sources))
    if spec.dedup.exact:
        drop_exact(samples, preferred, winners)
    drop_near(samples, list(sources.values()), spec.dedup, preferred, winners, scratch)
    held_out = np.zeros(0, np.int64)
    if spec.held_out:
        amounts = {name: parse_held_out(amount) for name, amount in spec.held_out.items()}
        held_out = hold_out(samples, list(sources.values()), amounts, seed=spec.seed)
    left = {}
    for name, source in sources.items():
        counts = np.bincount(samples.rule[samples.of_source(source.index)], minlength=len(RULES) + 1)
        left[name] = Survivors(
            rows=source.rows,
            passing=source.rows - int(counts[WHERE]),
            alive=int(counts[ALIVE]),
            dropped={RULES[rule]: int(counts[rule]) for rule in RULES if rule != WHERE and counts[rule]},
        )
    return winners, contaminated, held_out, left


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


def _order(stage: Stage) -> Order:
    return stage.order if isinstance(stage.order, Order) else Order()


def _stage_plan(
    stage: Stage,
    rules: StageRules,
    share: Share,
    offers: Sequence[Offer],
    layout: Layout,
    warn: Warn,
) -> StagePlan:
    total = {name: int(values.sum()) for name, values in layout.totals.items()}
    taken = sum(each.units for each in share.chosen.values())
    sources = {}
    for offer in offers:
        name, units = offer.name, share.chosen[offer.name].units
        counts = {key: int(values[offer.index]) for key, values in layout.totals.items()}
        size = offer.sizes[stage.unit]
        epochs = units / size if size else 0.0
        sources[name] = SourcePlan(
            wished=float(share.allocation.shares[name]),
            met=units / taken,
            epochs=epochs,
            eligible=len(offer.eligible),
            samples=counts["samples"],
            tokens=counts["tokens"],
            supervised_tokens=counts["supervised"],
            images=counts["images"],
            tiles=counts["tiles"],
        )
        if epochs > MANY_EPOCHS:
            warn(f"stage `{stage.name}`: `{name}` is repeated for {epochs:.1f} epochs")
    counts_of = {"samples": "whole", "supervised_tokens": "supervised"}
    reached = total[counts_of.get(share.unit, share.unit)]
    meant = share.total - share.allocation.unmet
    if abs(reached - meant) > OFF_BUDGET * meant:
        warn(
            f"stage `{stage.name}`: the budget of {int(meant):,} {share.unit} comes to {reached:,};"
            " a small stage cannot be cut finer than its samples, and another unit than its shares' only on average"
        )
    batch, full = stage.train.batch, layout.written - layout.empty
    capacity = full * rules.sequence_length
    if total["tokens"] < (1 - MUCH_PADDING) * capacity:
        tiles_bind = total["tiles"] * rules.sequence_length > total["tokens"] * rules.max_tiles
        part = f"{1 - total['tokens'] / capacity:.0%}"
        if tiles_bind:
            mend = f"max_tiles, {rules.max_tiles}, is what fills the packs"
        elif total["samples"] > (window := parse_count(_order(stage).window)):
            mend = f"a wider `order: {{window: ...}}` than {window:,} may find what fills them"
        else:  # no window can help
            mend = (
                f"its samples leave that much of {rules.sequence_length:,}, and no smaller ones are left to fill it: take another "
                "sequence_length, or mix in more short samples"
            )
        warn(f"stage `{stage.name}`: {part} of its packs' tokens are padding; {mend}")
    if 2 * layout.empty >= batch:
        warn(
            f"stage `{stage.name}`: {layout.empty} of the {batch} packs of its last step {'is' if layout.empty == 1 else 'are'} empty"
        )
    steps = layout.written // batch
    return StagePlan(
        name=stage.name,
        unit=stage.unit,
        budget=share.total,
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
        rank_skew=layout.rank_skew,
        rank_skew_max=layout.rank_skew_max,
        sources=sources,
        warmup_steps=warmup_steps(parse_warmup(stage.train.warmup), steps),
    )


def _continued(consumed: Consumed, before: np.ndarray, furthest: Furthest) -> Continued:
    known = before > 0
    return Continued(
        root=consumed.root,
        stage=consumed.stage,
        step=consumed.step,
        consumed=len(consumed.hi),
        digest=consumed.digest,
        unknown=len(consumed.hi) - int(known.sum()),
        again=int((known & furthest.used).sum()),
    )


def _write_drops(out: Path, batches: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Write drops.parquet; the counts by rule."""
    counts: dict[str, int] = {}
    with TableWriter(out / "drops.parquet", tables.DROPS_SCHEMA, sorted_by=["source"]) as writer:
        for columns in batches:
            writer.write(columns)
            for item in columns["rule"].value_counts().to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return dict(sorted(counts.items()))


def _write_kept_out(out: Path, batches: Iterable[dict[str, Any]]) -> None:
    with TableWriter(out / "kept_out.parquet", tables.KEPT_OUT_SCHEMA, sorted_by=["stage", "fragment"]) as writer:
        for columns in batches:
            writer.write(columns)


def _write_held_out(out: Path, samples: Samples, names: Sequence[str], numbers: np.ndarray) -> None:
    with TableWriter(out / "held_out.parquet", tables.HELD_OUT_SCHEMA) as writer:
        writer.write(
            {
                "source": np.array(names, object)[samples.source_of(numbers)],
                "id": uuids(samples.hi[numbers], samples.lo[numbers]),
                "content": uuids(samples.chi[numbers], samples.clo[numbers]),
                "tokens": samples.tokens[numbers],
                "fragment": samples.fragment_of(numbers),
                "row": samples.row[numbers],
                "offset": samples.start[numbers],
                "length": samples.length[numbers],
            }
        )


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
