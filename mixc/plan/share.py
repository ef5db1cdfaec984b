"""How much of each source a stage takes, and the choice of the samples that make it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from mixc.plan.allocate import Allocation, Demand, allocate, epoch_budget
from mixc.plan.balance import balanced_targets
from mixc.plan.checks import Warn, entry_path, report_shortfalls
from mixc.plan.expressions import Locate, plan_error
from mixc.plan.groups import flatten
from mixc.plan.samples import Samples
from mixc.plan.schedule import Ramp
from mixc.plan.select import Chosen, Offer, choose
from mixc.spec.check import mix_entries
from mixc.spec.quantity import as_written, parse_budget
from mixc.spec.schema import MixEntry, Spec, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a stage was given."""

    unit: str
    """Of the budget; for a budget in epochs, the stage's."""
    total: int
    """The budget, in that unit."""
    allocation: Allocation
    chosen: dict[str, Chosen]
    """By source; its units are the stage's."""
    ramps: dict[str, Ramp]
    """By source, of a stage whose shares change on the way."""


def fill_stage(
    samples: Samples,
    spec: Spec,
    number: int,
    entries: Mapping[str, MixEntry],
    offers: Sequence[Offer],
    locate: Locate,
    warn: Warn,
) -> Share:
    """Divide the stage's budget over its sources and choose what they give.

    `entries` and `offers` are of the stage's sources. Raises PlanError when the sources cannot fill the stage, SpecError
    for a budget that is none.
    """
    stage = spec.stages[number]
    budget = parse_budget(stage.budget, stage.unit)
    unit = stage.unit if budget.unit == "epochs" else budget.unit
    sizes = {offer.name: offer.sizes[stage.unit] for offer in offers}
    by_size = all(entry.weight is None for entry in mix_entries(stage.mix).values())
    for name, size in sizes.items():
        if size == 0 and not by_size:
            raise plan_error(
                f"stage `{stage.name}`: source `{name}` holds no {stage.unit} and cannot fill a share",
                entry_path(spec, number, name),
                locate,
                mend="count another unit, or take the source out of the mix",
            )
    if not any(offer.sizes[stage.unit] and offer.sizes[unit] for offer in offers):
        raise plan_error(
            f"stage `{stage.name}`: its sources hold no {unit if sum(sizes.values()) else stage.unit}",
            ("stages", number, "budget"),
            locate,
            mend="count another unit",
        )
    default_epochs = max(Fraction(1), Fraction(budget.amount)) if budget.unit == "epochs" else Fraction(1)
    caps = {
        name: default_epochs if entry.max_epochs is None else as_written(entry.max_epochs)
        for name, entry in entries.items()
    }
    used = {offer.name: offer.used(samples, stage.unit, caps[offer.name]) for offer in offers}
    left = {
        name: max(0, min(size, floor(caps[name] * size) - used[name])) if used[name] else size
        for name, size in sizes.items()
    }
    if not any(left.values()):
        raise plan_error(
            f"stage `{stage.name}`: everything that its sources hold was used before",
            ("stages", number, "mix"),
            locate,
            why="a sample that an earlier stage took is not taken again unless asked",
            mend="set `reuse: true`, or raise max_epochs",
        )
    parts = flatten(
        mix_entries(stage.mix),
        spec.groups,
        left,
        end=stage.mix_end,
        temperature=as_written(stage.temperature),
    )
    demands = [
        Demand(
            name=offer.name,
            weight=parts[offer.name].share,
            size=sizes[offer.name],
            budget_size=offer.sizes[unit],
            max_epochs=caps[offer.name],
            used=used[offer.name],
        )
        for offer in offers
    ]
    if budget.unit == "epochs":
        total = epoch_budget(Fraction(budget.amount), demands)
    else:
        total = int(budget.amount)
    allocation = allocate(demands, budget=total, policy=stage.on_exhausted)
    report_shortfalls(spec, number, demands, allocation, unit, locate, warn)

    chosen = {}
    for offer in offers:
        target = allocation.targets[offer.name]
        chosen[offer.name] = _choose(samples, offer, entries[offer.name], spec.seed, stage, target, caps[offer.name])
        if chosen[offer.name].units == 0:
            share = f"its {target:,} {stage.unit} are nearer to none than to one sample" if target else "it is 0"
            warn(f"stage `{stage.name}`: the share of `{offer.name}` rounds to nothing: {share}")
    if not any(each.units for each in chosen.values()):
        raise plan_error(
            f"stage `{stage.name}` would be empty",
            ("stages", number, "budget"),
            locate,
            why=f"{total:,} {unit} are nearer to none than to one sample",
            mend="raise the budget",
        )
    ramps = {
        name: Ramp.of(part.start, part.end, stage.mix_schedule)
        for name, part in parts.items()
        if part.start != part.end
    }
    return Share(unit=unit, total=total, allocation=allocation, chosen=chosen, ramps=ramps)


def _choose(
    samples: Samples, offer: Offer, entry: MixEntry, seed: int, stage: Stage, target: int, cap: Fraction
) -> Chosen:
    if entry.balance is None:
        return choose(samples, offer, None, seed=seed, stage=stage.name, unit=stage.unit, target=target)
    assert offer.classes is not None
    units = offer.units(samples, stage.unit)
    by_class = np.argsort(offer.classes, kind="stable")
    codes, starts = np.unique(offer.classes[by_class], return_index=True)
    members = {offer.class_names[code]: own for code, own in zip(codes, np.split(by_class, starts[1:]), strict=True)}
    temperature = None if entry.balance.temperature is None else as_written(entry.balance.temperature)
    targets = balanced_targets(
        {name: int(units[own].sum()) for name, own in members.items()},
        total=target,
        temperature=temperature,
        max_epochs=cap,
    )
    # What one class gives too much or too little the next makes up for, so that the source is as near to its target as
    # without classes, be each of them worth less than a sample.
    parts, wished, taken = [], 0, 0
    for name, own in members.items():
        wished += targets[name]
        room = floor(cap * int(units[own].sum())) - offer.used(samples, stage.unit, cap, own)
        amount = min(wished - taken, room)
        if amount > 0:
            part = choose(samples, offer, own, seed=seed, stage=stage.name, unit=stage.unit, target=amount)
            parts.append(part)
            taken += part.units
    return Chosen(
        which=np.concatenate([np.zeros(0, np.int64), *(part.which for part in parts)]),
        epoch=np.concatenate([np.zeros(0, np.uint32), *(part.epoch for part in parts)]),
        units=taken,
    )
