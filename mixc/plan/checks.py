"""What a spec asks, held against what there is: errors that stop a plan, warnings for its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import ceil, isfinite

from mixc.errors import PlanError
from mixc.plan.allocate import Allocation, Demand
from mixc.plan.expressions import Expressions, Locate, Use, plan_error, spec_error
from mixc.plan.select import Eligible, Survivors
from mixc.spec.diagnostics import printable, suggest
from mixc.spec.schema import MixEntry, Spec, Stage

FEW_KEPT = Fraction(1, 100)
"""A threshold that keeps less than this warns."""

Warn = Callable[[str], None]


def check_mix(spec: Spec, number: int, mix: Mapping[str, MixEntry], locate: Locate) -> None:
    """Raises SpecError; `mixc check` finds the same mistakes earlier and all at once."""
    path = ("stages", number, "mix")
    if not mix:
        raise spec_error(f"stage `{spec.stages[number].name}` mixes nothing", path, locate, mend="name a source")
    for name, entry in mix.items():
        if name not in spec.sources:
            raise spec_error(
                f"there is no source `{printable(name)}`",
                (*path, name),
                locate,
                mend=suggest(name, spec.sources),
            )
        for key, value in (("weight", entry.weight), ("max_epochs", entry.max_epochs)):
            if value is not None and not (isfinite(value) and value > 0):
                raise spec_error(f"{key} must be a number above 0, got {value}", (*path, name, key), locate)
        if spec.sources[name].too_long == "split" and spec.sources[name].kind != "text":
            raise spec_error(
                f"source `{name}` cannot be split: only text can be cut",
                ("sources", name, "too_long"),
                locate,
            )
    without = [name for name, entry in mix.items() if entry.weight is None]
    if without and len(without) < len(mix):
        raise spec_error(
            f"stage `{spec.stages[number].name}` gives `{without[0]}` no weight and others one",
            (*path, without[0]),
            locate,
            mend="give each source a weight, or none of them",
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
    for name, counts in left.items():
        used = any(name in mix for mix in mixes)
        if not used:
            warn(f"source `{name}` is in no stage's mix: none of its {counts.rows:,} samples is used")
        elif counts.rows == 0:
            raise plan_error(
                f"source `{name}` has no samples", ("sources", name), locate, mend="see the rejects for why"
            )
        if counts.rows == 0 or name not in expressions.where:
            pass
        elif counts.passing == 0 and used:
            raise _keeps_nothing(expressions.where[name], name, counts.rows, locate)
        elif counts.passing < FEW_KEPT * counts.rows:
            warn(f"`where` of source `{name}` keeps {counts.passing:,} of {counts.rows:,} samples")
        if used and counts.passing and counts.alive == 0:
            raise plan_error(
                f"every sample of source `{name}` is a duplicate of another source's",
                ("sources", name),
                locate,
                mend="take it out of the mix, or set dedup.exact to false",
            )


def check_offers(
    spec: Spec,
    number: int,
    offers: Mapping[str, Eligible],
    expressions: Expressions,
    locate: Locate,
    warn: Warn,
) -> None:
    """PlanError for a source of the stage that has nothing to offer; warnings for sharp thresholds."""
    stage = spec.stages[number]
    for name, offer in offers.items():
        path = ("stages", number, "mix", name)
        passing = offer.samples + offer.too_long
        use = expressions.stage_where.get((number, name))
        if use is not None and passing == 0:
            raise _keeps_nothing(use, name, offer.alive, locate)
        if use is not None and passing < FEW_KEPT * offer.alive:
            warn(f"stage `{stage.name}`: `where` of `{name}` keeps {passing:,} of {offer.alive:,} samples")
        if offer.samples == 0:
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
    stage: Stage,
    number: int,
    demands: Iterable[Demand],
    allocation: Allocation,
    unit: str,
    locate: Locate,
    warn: Warn,
) -> None:
    """PlanError under `fail`, a warning under the other policies."""
    caps = {demand.name: demand.max_epochs for demand in demands}
    lines = [
        f"`{short.name}` should give {ceil(short.wanted):,} {stage.unit} but has {int(short.available):,}"
        f" in {float(caps[short.name]):g} epochs ({float(short.epochs):.2f} epochs wanted)"
        for short in allocation.shortfalls
    ]
    if not lines:
        return
    told = "; ".join(lines)
    if stage.on_exhausted == "fail":
        first = allocation.shortfalls[0]
        raise plan_error(
            f"stage `{stage.name}`: "
            + ", ".join(f"`{short.name}`" for short in allocation.shortfalls)
            + " cannot fill the share asked for",
            ("stages", number, "mix", first.name),
            locate,
            why=told,
            mend=f"give `{first.name}` max_epochs {ceil(first.epochs)}, lower its share or the budget, or set"
            " on_exhausted",
        )
    if stage.on_exhausted == "repeat":
        warn(f"stage `{stage.name}`: repeated beyond max_epochs: {told}")
        return
    way = (
        "the rest of its share goes to the others" if stage.on_exhausted == "renormalise" else "the stage is shortened"
    )
    short = f"; {int(allocation.unmet):,} {unit} of the budget are not met" if allocation.unmet >= 1 else ""
    warn(f"stage `{stage.name}`: {told}; {way}{short}")
