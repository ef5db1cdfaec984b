"""What a spec asks, held against what there is: errors that stop a plan, warnings for its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite

import msgspec

from mixc.errors import PlanError
from mixc.plan.allocate import Allocation, Demand
from mixc.plan.expressions import Expressions, Locate, Use, plan_error, spec_error
from mixc.plan.select import Offer
from mixc.spec.check import mix_entries
from mixc.spec.diagnostics import printable, suggest
from mixc.spec.groups import reach
from mixc.spec.load import KeyPath
from mixc.spec.schema import MixEntry, Spec
from shards.counted import counted

FEW_KEPT = Fraction(1, 100)
"""A threshold that keeps less than this warns."""

MANY_COPIES = Fraction(1, 100)
"""A source of which this part or more repeats other samples of it warns."""

FEW = 6
"""Entries of a mix that a mend writes out."""

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors:
    """What is left of a source before any stage."""

    rows: int
    passing: int
    """Of `where`."""
    alive: int
    """Of every rule before the stages."""
    dropped: Mapping[str, int]
    """Of those that passed, by the rule that dropped them."""


def entry_path(spec: Spec, number: int, source: str) -> KeyPath:
    """Where the stage's mix names the source, or the group that leads to it."""
    key = reach(spec.stages[number].mix, spec.groups).sources[source][0]
    return ("stages", number, "mix", key)


def check_mix(spec: Spec, number: int, locate: Locate) -> None:
    """Raises SpecError; `mixc check` finds the same mistakes earlier and all at once."""
    path = ("stages", number, "mix")
    stage = spec.stages[number]
    mix = mix_entries(stage.mix)
    if not mix:
        raise spec_error(f"stage `{stage.name}` mixes nothing", path, locate, mend="name a source")
    for name, entry in mix.items():
        if name not in spec.sources and name not in spec.groups:
            raise spec_error(
                f"there is no source `{printable(name)}`",
                (*path, name),
                locate,
                mend=suggest(name, [*spec.sources, *spec.groups]),
            )
        starts = (
            entry.weight is None or entry.weight > 0 or (entry.weight == 0 and (stage.mix_end or {}).get(name, 0) > 0)
        )
        for key, value, fits in (
            ("weight", entry.weight, starts),
            ("max_epochs", entry.max_epochs, entry.max_epochs is None or entry.max_epochs > 0),
        ):
            if value is not None and not (isfinite(value) and fits):
                raise spec_error(f"{key} must be a number above 0, got {value}", (*path, name, key), locate)
    found = reach(mix, spec.groups)
    for route in found.cycles:
        raise spec_error(f"the group `{route[-1]}` holds itself: {' > '.join(route)}", ("groups", route[-1]), locate)
    for first, second in found.twice:
        raise spec_error(
            f"stage `{stage.name}` reaches `{first[-1]}` twice: {' > '.join(first)} and {' > '.join(second)}",
            path,
            locate,
            mend="leave one out",
        )
    for name in found.sources:
        if name not in spec.sources:
            raise spec_error(f"there is no source `{printable(name)}`", path, locate, mend=suggest(name, spec.sources))
        if spec.sources[name].too_long == "split" and spec.sources[name].kind != "text":
            raise spec_error(
                f"source `{name}` cannot be split: only text can be cut",
                ("sources", name, "too_long"),
                locate,
            )
    without = [name for name, entry in mix.items() if entry.weight is None]
    if without and len(without) < len(mix):
        raise spec_error(
            f"stage `{stage.name}` gives `{without[0]}` no weight and others one",
            (*path, without[0]),
            locate,
            mend="give each source a weight, or none of them",
        )
    if stage.mix_end is not None and set(stage.mix_end) != set(mix):
        raise spec_error(
            f"`mix_end` of stage `{stage.name}` does not name what its mix does", ("stages", number, "mix_end"), locate
        )


def check_sources(
    spec: Spec,
    mixes: Sequence[Mapping[str, MixEntry]],
    left: Mapping[str, Survivors],
    expressions: Expressions,
    locate: Locate,
    warn: Warn,
) -> None:
    """PlanError for a source that a stage needs and that has nothing; warnings for others and for sharp
    thresholds."""
    evaluates = any(entry.held_out for mix in mixes for entry in mix.values())
    for name, counts in left.items():
        entries = [mix[name] for mix in mixes if name in mix]
        used, held = bool(entries), any(entry.held_out for entry in entries)
        if not used and evaluates:
            pass  # it is there for what it means to the others: whose duplicates go, what is held out
        elif not used:
            warn(f"source `{name}` is in no stage's mix: none of its {counted(counts.rows, 'sample')} is used")
        elif counts.rows == 0:
            raise plan_error(
                f"source `{name}` has no samples", ("sources", name), locate, mend="see the rejects for why"
            )
        if counts.rows == 0 or name not in expressions.where:
            pass
        elif counts.passing == 0 and used:
            raise _keeps_nothing(expressions.where[name], name, counts.rows, locate)
        elif counts.passing < FEW_KEPT * counts.rows:
            warn(f"`where` of source `{name}` keeps {counts.passing:,} of {counted(counts.rows, 'sample')}")
        if held and counts.rows and not counts.dropped.get("held_out"):
            raise plan_error(
                f"nothing is held out of source `{name}`",
                ("held_out", name),
                locate,
                why=f"`{printable(str(spec.held_out.get(name, 'no amount')))}` of {counts.alive:,} samples come to none",
                mend="hold more out, in the spec that is trained from as well",
            )
        if used and not held and counts.passing and counts.alive == 0:
            lost = max(counts.dropped, key=lambda rule: counts.dropped[rule])
            whys = {
                "decontaminate": ("shares something with a benchmark", "loosen decontaminate"),
                "held_out": ("is held out", "hold less out"),
            }
            what, mend = whys.get(lost, ("is a duplicate of another source's", f"set {lost.replace('_', '.', 1)} off"))
            raise plan_error(
                f"every sample of source `{name}` {what}",
                ("sources", name),
                locate,
                why=", ".join(f"{rule}: {count:,}" for rule, count in counts.dropped.items()),
                mend=f"take it out of the mix, or {mend}",
            )


def check_copies(spec: Spec, copies: Mapping[tuple[int, int], int], left: Mapping[str, Survivors], warn: Warn) -> None:
    """Warn of content that stands in several sources, or often in one, where nothing drops it."""
    names = sorted(spec.sources)
    for (source, other), count in copies.items():
        name = names[source]
        if source == other and count >= MANY_COPIES * left[name].alive:
            warn(
                f"{count:,} of the {left[name].alive:,} samples of `{name}` repeat others of it; set dedup.exact to drop them"
            )
        elif source != other:
            warn(
                f"sources overlap: {count:,} samples of `{name}` stand in `{names[other]}` too; set dedup.exact to drop them"
            )


def check_offers(
    spec: Spec,
    number: int,
    offers: Iterable[Offer],
    expressions: Expressions,
    locate: Locate,
    warn: Warn,
) -> None:
    """PlanError for a source of the stage that has nothing to offer; warnings for sharp thresholds."""
    stage = spec.stages[number]
    for offer in offers:
        name = offer.name
        path = entry_path(spec, number, name)
        use = expressions.stage_where.get((number, name))
        if use is not None and offer.matching == 0:
            raise _keeps_nothing(use, name, offer.alive, locate)
        if use is not None and offer.matching < FEW_KEPT * offer.alive:
            warn(
                f"stage `{stage.name}`: `where` of `{name}` keeps {offer.matching:,} of {counted(offer.alive, 'sample')}"
            )
        if offer.passing == 0:
            raise plan_error(
                f"stage `{stage.name}`: the quantile of `{name}` holds no sample",
                path,
                locate,
                why=f"{offer.matching:,} samples came so far",
                mend="widen it",
            )
        if len(offer.eligible) == 0:
            raise plan_error(
                f"stage `{stage.name}`: no sample of source `{name}` fits a pack",
                path,
                locate,
                why=f"all {offer.too_long:,} have over {stage.sequence_length:,} tokens or too many tiles",
                mend="raise sequence_length or max_tiles",
            )


def _keeps_nothing(use: Use, name: str, rows: int, locate: Locate) -> PlanError:
    return plan_error(
        f"this `where` keeps no sample of source `{name}`",
        use.path,
        locate,
        why=f"`{printable(use.expression.text)}` is false or NULL for all {rows:,}",
        mend="loosen it, or take the source out of the mix",
    )


def report_shortfalls(
    spec: Spec,
    number: int,
    demands: Iterable[Demand],
    allocation: Allocation,
    unit: str,
    locate: Locate,
    warn: Warn,
) -> None:
    """PlanError under `fail`, a warning under the other policies."""
    stage = spec.stages[number]
    by_name = {demand.name: demand for demand in demands}
    before = "earlier uses included, " if any(by_name[short.name].used for short in allocation.shortfalls) else ""
    lines = [
        f"`{short.name}` should give {ceil(short.wanted):,} {stage.unit} but has {int(short.available):,}"
        f" in {_epochs(by_name[short.name].max_epochs)} ({before}{float(short.epochs):.2f} epochs wanted)"
        for short in allocation.shortfalls
    ]
    if not lines:
        return
    told = "; ".join(lines)
    if stage.on_exhausted == "fail":
        first = allocation.shortfalls[0]
        reuse = "set `reuse: true` in the stage; or " if before else ""
        raise plan_error(
            f"stage `{stage.name}`: "
            + ", ".join(f"`{short.name}`" for short in allocation.shortfalls)
            + " cannot fill the share asked for",
            entry_path(spec, number, first.name),
            locate,
            why=told,
            mend=f"{reuse}write {_repeated(spec, number, allocation)} stage `{stage.name}`; or lower the share or the budget; or write"
            " `on_exhausted: repeat`, `renormalise` or `shorten` in the stage, beside `mix`",
        )
    if stage.on_exhausted == "repeat":
        warn(f"stage `{stage.name}`: repeated beyond max_epochs: {told}")
        return
    way = (
        "the rest of its share goes to the others" if stage.on_exhausted == "renormalise" else "the stage is shortened"
    )
    short = f"; {int(allocation.unmet):,} {unit} of the budget are not met" if allocation.unmet >= 1 else ""
    warn(f"stage `{stage.name}`: {told}; {way}{short}")


def _epochs(number: Fraction) -> str:
    return counted(float(number), "epoch", f"{float(number):g}")


def _repeated(spec: Spec, number: int, allocation: Allocation) -> str:
    """What to write in the stage's mix, in the spec's own syntax, for the shares that it asks for."""
    stage = spec.stages[number]
    needed: dict[str, int] = {}
    for short in allocation.shortfalls:
        key = str(entry_path(spec, number, short.name)[-1])
        needed[key] = max(needed.get(key, 0), ceil(short.epochs))
    mix = mix_entries(stage.mix)
    if isinstance(stage.mix, list):
        entries = [
            f"{name}: {{max_epochs: {needed[name]}}}" if name in needed else f"{name}: {{}}" for name in stage.mix
        ]
        return f"`mix: {{{', '.join(_few(entries))}}}` in"
    told = []
    for name, epochs in needed.items():
        entry = mix[name]
        said = [f"weight: {entry.weight:g}"] if entry.weight is not None else []
        others = msgspec.structs.replace(entry, weight=None, max_epochs=None) != MixEntry()
        keys = [*said, *(["..."] if others else []), f"max_epochs: {epochs}"]
        told.append(f"`{name}: {{{', '.join(keys)}}}`")
    return ", ".join(_few(told)) + " in the mix of"


def _few(entries: list[str]) -> list[str]:
    return entries if len(entries) <= FEW else [*entries[:FEW], "..."]
