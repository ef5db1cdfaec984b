"""How much of each source a stage takes, and the choice of the samples that make it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import duckdb

from mixc.plan.allocate import Allocation, Demand, allocate, epoch_budget
from mixc.plan.checks import Warn, report_shortfalls
from mixc.plan.expressions import Locate, plan_error
from mixc.plan.load import SourceTable
from mixc.plan.select import Eligible, StageRules, choose, create_chosen
from mixc.spec.quantity import parse_budget
from mixc.spec.schema import MixEntry, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a stage was given."""

    unit: str
    """Of the budget; for a budget in epochs, the stage's."""
    total: int
    """The budget, in that unit."""
    allocation: Allocation
    taken: dict[str, int]
    """Units of the shares that were chosen, by source."""


def fill_stage(
    connection: duckdb.DuckDBPyConnection,
    spec: Spec,
    number: int,
    mix: Mapping[str, MixEntry],
    rules: StageRules,
    members: Sequence[SourceTable],
    offers: Mapping[str, Eligible],
    locate: Locate,
    warn: Warn,
) -> Share:
    """Divide the stage's budget over its sources and put what they give into chosen_J.

    `members` and `offers` are the sources of `mix`. Raises PlanError when the sources cannot fill the stage, SpecError
    for a budget that is none.
    """
    stage = spec.stages[number]
    budget = parse_budget(stage.budget, stage.unit)
    unit = stage.unit if budget.unit == "epochs" else budget.unit
    sizes = {name: offers[name].sizes[stage.unit] for name in mix}
    by_size = all(entry.weight is None for entry in mix.values())
    for name, size in sizes.items():
        if size == 0 and not by_size:
            raise plan_error(
                f"stage `{stage.name}`: source `{name}` holds no {stage.unit} and cannot fill a share",
                ("stages", number, "mix", name),
                locate,
                mend="count another unit, or take the source out of the mix",
            )
    if not any(sizes[name] and offers[name].sizes[unit] for name in mix):
        raise plan_error(
            f"stage `{stage.name}`: its sources hold no {unit if sum(sizes.values()) else stage.unit}",
            ("stages", number, "budget"),
            locate,
            mend="count another unit",
        )
    default_epochs = max(Fraction(1), Fraction(budget.amount)) if budget.unit == "epochs" else Fraction(1)
    demands = [
        Demand(
            name=name,
            weight=Fraction(sizes[name]) if entry.weight is None else _decimal(entry.weight),
            size=sizes[name],
            budget_size=offers[name].sizes[unit],
            max_epochs=default_epochs if entry.max_epochs is None else _decimal(entry.max_epochs),
        )
        for name, entry in mix.items()
    ]
    if budget.unit == "epochs":
        total = epoch_budget(Fraction(budget.amount), list(sizes.values()))
    else:
        total = int(budget.amount)
    allocation = allocate(demands, budget=total, policy=stage.on_exhausted)
    report_shortfalls(stage, number, demands, allocation, unit, locate, warn)

    create_chosen(connection, number)
    taken = {}
    for source in members:
        name = source.name
        target = allocation.targets[name]
        taken[name] = (
            choose(connection, rules, source, seed=spec.seed, unit=stage.unit, size=sizes[name], target=target)
            if sizes[name]
            else 0
        )
        if taken[name] == 0:
            share = f"its {target:,} {stage.unit} are nearer to none than to one sample" if target else "it is 0"
            warn(f"stage `{stage.name}`: the share of `{name}` rounds to nothing: {share}")
    if not any(taken.values()):
        raise plan_error(
            f"stage `{stage.name}` would be empty",
            ("stages", number, "budget"),
            locate,
            why=f"{total:,} {unit} are nearer to none than to one sample",
            mend="raise the budget",
        )
    return Share(unit=unit, total=total, allocation=allocation, taken=taken)


def _decimal(number: float) -> Fraction:
    """What the user wrote: 0.7 is 7/10, not the binary fraction nearest to it."""
    return Fraction(repr(number))
