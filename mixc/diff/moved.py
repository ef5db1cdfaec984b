"""The rule that keeps a moved sample out of each stage where it does not stand, though the other side has it there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.diff.changed import Canonical
from mixc.diff.kept_out import RULES, stage_rules
from mixc.diff.placements import Placements
from mixc.plan.tables import StagePlan

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class MovedSide:
    """Where moved samples do not stand on one side. Sources and stages go by A's names."""

    plan: Path
    placements: Placements
    stages: Mapping[str, StagePlan]
    other: Mapping[str, StagePlan]
    """The stages of the other side."""
    spec: Canonical
    spec_of_other: Canonical
    no_stage: str
    """What is said of a stage that this side has not: `new_stage` of A, `gone_stage` of B."""
    _codes: dict[str, Array] = field(default_factory=dict)
    _known: bool = False

    def look_up(self, samples: Int, missing: Collection[tuple[str, str]]) -> None:
        """Find out about the moved samples, numbers [M] of the placements' different ones. `missing`: stages and sources of which
        any of them does not stand here."""
        names = list(self.stages)
        wanted = {(names.index(stage), source) for stage, source in missing if self._mixes(stage, source)}
        found = stage_rules(self.plan, self.placements, samples, wanted)
        self._known = found is not None
        self._codes = {names[number]: codes for number, codes in (found or {}).items()}

    def counts(self, stage: str, source: str, which: Int) -> dict[str, int]:
        """Rules that keep moved samples (places in what was looked up) of one source out of a stage, and how many."""
        if (rule := self._of_all(stage, source)) is not None:
            return {rule: len(which)}
        codes = self._codes.get(stage)
        if codes is None:
            return {RULES[0]: len(which)}
        counts = np.bincount(codes[which], minlength=len(RULES)).tolist()
        return {rule: count for rule, count in zip(RULES, counts, strict=True) if count}

    def _mixes(self, stage: str, source: str) -> bool:
        return stage in self.stages and source in self.stages[stage].sources

    def _of_all(self, stage: str, source: str) -> str | None:
        """What is so for all samples of a source."""
        if stage not in self.stages:
            return self.no_stage
        if not self._mixes(stage, source):
            return "not_mixed"
        return None if self._known else self._possible(stage, source)

    def _possible(self, stage: str, source: str) -> str:
        """Of a plan that does not say it, made by an earlier version: what may be. What passes a rule on the other side passes the
        same rule here, so only rules that differ are possible, and the budget."""
        here, there = (_entry(spec, stage, source) for spec in (self.spec, self.spec_of_other))
        own, other = self.stages[stage], self.other[stage]
        rules = []
        if here.get("where") is not None and here.get("where") != there.get("where"):
            rules.append("stage_where")
        if here.get("quantile") is not None:
            rules.append("quantile")
        if own.sequence_length < other.sequence_length or own.max_tiles < other.max_tiles:
            rules.append("too_long")
        return " or ".join([*rules, "budget"])


def _entry(spec: Canonical, stage: str, source: str) -> dict[str, Any]:
    form = next(each for each in spec["stages"] if each["name"] == stage)
    found: dict[str, Any] = form["mix"].get(source, {})
    return found
