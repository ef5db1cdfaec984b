"""What the mixtures are made of, from the plans' summaries: by stage and source, and how far apart they are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, log2

from mixc.diff.difference import Composition, Distance, StageChange, StageTotals
from mixc.plan.tables import SourcePlan, StagePlan

Stages = Mapping[str, StagePlan]
"""By name, in the order of training; B's under A's names."""


def joint(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """A's names in order, then those that only B has."""
    return [*a, *(name for name in b if name not in a)]


def compositions(a: Stages, b: Stages) -> list[Composition]:
    """Each source in each stage that has another part there."""
    found = []
    for stage in joint(list(a), list(b)):
        before: Mapping[str, SourcePlan] = a[stage].sources if stage in a else {}
        after: Mapping[str, SourcePlan] = b[stage].sources if stage in b else {}
        found += [
            Composition(stage=stage, source=source, a=before.get(source), b=after.get(source))
            for source in sorted(before.keys() | after.keys())
            if before.get(source) != after.get(source)
        ]
    return found


def stage_changes(a: Stages, b: Stages) -> list[StageChange]:
    """Each stage whose totals differ."""
    found = []
    for stage in joint(list(a), list(b)):
        before, after = (_totals(side[stage]) if stage in side else None for side in (a, b))
        if before != after:
            found.append(StageChange(stage=stage, a=before, b=after))
    return found


def _totals(stage: StagePlan) -> StageTotals:
    return StageTotals(**{name: getattr(stage, name) for name in StageTotals.__struct_fields__})


def distances(a: Stages, b: Stages) -> tuple[Distance, dict[str, Distance]]:
    """Of all tokens by source, and of each stage that both have."""
    return distance(_tokens(a.values()), _tokens(b.values())), {
        stage: distance(_tokens([a[stage]]), _tokens([b[stage]])) for stage in a if stage in b
    }


def _tokens(stages: Iterable[StagePlan]) -> dict[str, int]:
    found: dict[str, int] = {}
    for stage in stages:
        for name, source in stage.sources.items():
            found[name] = found.get(name, 0) + source.tokens
    return found


def distance(a: Mapping[str, int], b: Mapping[str, int]) -> Distance:
    """Between two mixtures by what each source gives, as `Distance` defines it. Nothing is as far from something as can be."""
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        same = float(total_a != total_b)
        return Distance(total_variation=same, jensen_shannon=same)
    variation, divergence = [], []
    for name in sorted(a.keys() | b.keys()):
        p, q = a.get(name, 0) / total_a, b.get(name, 0) / total_b
        middle = (p + q) / 2
        variation.append(abs(p - q))
        divergence += [part / 2 * log2(part / middle) for part in (p, q) if part]
    return Distance(
        total_variation=min(1.0, fsum(variation) / 2),
        jensen_shannon=min(1.0, max(0.0, fsum(divergence))),
    )
