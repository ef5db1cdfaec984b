"""Why a sample stands where it does, or nowhere: each rule that it met, in the order of docs/planning.md, in words. Pure.

Rules are named as in the drops table, and then `share`, `epoch` and `order`. A sample's *lot* is its `select` key as a part of
2^64: a source gives the samples of a round from the lowest lot on, until its share is full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np

from mixc.plan.keys import key64, make_key, split_ids
from mixc.plan.tables import PlanSummary, StagePlan
from mixc.spec.check import mix_entries
from mixc.spec.expression import parse_expression
from mixc.spec.groups import reach
from mixc.spec.quantity import parse_count
from mixc.spec.schema import MixEntry, Order, Spec, Stage
from shards.counted import counted

MOST_NAMED = 3
"""Duplicates that are named one by one."""

Values = Mapping[str, Any]
"""Of one sample's columns and signals, by name in lower case; those that are known."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    rule: str
    text: str


class Loser(msgspec.Struct, frozen=True, kw_only=True):
    """A duplicate in whose place another sample stands."""

    rule: str
    source: str
    id: str


def lot(seed: int, stage: str, epoch: int, id: str) -> float:
    """The lot, in [0, 1), of the sample `id`, 32 hexadecimal digits, in a round of a stage."""
    hi, lo = split_ids(bytes.fromhex(id))
    return int(key64(make_key(seed, "select", stage, epoch), np.asarray(hi), np.asarray(lo))[0]) / 2**64


def columns_of(spec: Spec, source: str) -> set[str]:
    """Columns and signals, in lower case, that the reasons of a source's samples tell: those of the spec's expressions, and
    `tokens`, which tells a split text."""
    texts = [spec.sources[source].where]
    for stage in spec.stages:
        entry = _entry(spec, stage, source)
        if entry is None:
            continue
        texts += [
            entry.where,
            None if entry.quantile is None else entry.quantile.by,
            None if entry.balance is None else entry.balance.by,
            stage.order.by if isinstance(stage.order, Order) else None,
        ]
    return {"tokens", *(name.casefold() for text in texts if text for name in _columns(text))}


class Reasons:
    """The rules of one build."""

    def __init__(self, spec: Spec, summary: PlanSummary) -> None:
        self._spec, self._summary = spec, summary

    def of_use(
        self,
        *,
        stage: int,
        source: str,
        id: str,
        epoch: int,
        piece: tuple[int, int, int],
        values: Values,
        losers: Sequence[Loser],
    ) -> list[Reason]:
        """`piece` is its number and the tokens [start, end) of the sample that it holds."""
        own, planned = self._spec.stages[stage], self._summary.stages[stage]
        reasons = [*self._kept(source, values, losers), *self._held_out(source)]
        entry = _entry(self._spec, own, source) or MixEntry()
        if entry.where:
            reasons.append(Reason(rule="stage_where", text=_holds(entry.where, values)))
        if entry.quantile is not None:
            part = f"ranks {entry.quantile.at_least:.4g} to {entry.quantile.below:.4g}"
            reasons.append(Reason(rule="quantile", text=f"in {part} by {_known(entry.quantile.by, values)}"))
        number, start, end = piece
        if number or end < values.get("tokens", end):
            fits = f"longer than {planned.sequence_length:,} tokens, so split: piece {number} has its tokens {start:,} to {end:,}"
        else:
            fits = f"fits into a pack of {planned.sequence_length:,} tokens and {planned.max_tiles:,} tiles"
        reasons.append(Reason(rule="too_long", text=fits))
        reasons.append(Reason(rule="share", text=self._share(own, planned, source, entry)))
        reasons.append(Reason(rule="epoch", text=self._epoch(stage, source, id, epoch, entry, values)))
        reasons.append(Reason(rule="order", text=_order(own, values)))
        return reasons

    def of_drop(
        self, *, rule: str, detail: str, source: str, id: str, values: Values, losers: Sequence[Loser] = ()
    ) -> list[Reason]:
        """The rules that a dropped sample passed, and last the one that dropped it."""
        met: list[Reason] = []
        for reason in [*self._kept(source, values, losers), *self._held_out(source)]:
            if reason.rule == rule:
                break
            met.append(reason)
        return [*met, Reason(rule=rule, text=self._dropped(rule, detail, source, id, values))]

    def mixes(self, stage: int, source: str) -> bool:
        return _entry(self._spec, self._spec.stages[stage], source) is not None

    def possible(self, stage: int, source: str, *, tokens: int, tiles: int | None) -> str:
        """Rules that may keep a sample out of a stage, of a plan that does not say which."""
        entry, planned = _entry(self._spec, self._spec.stages[stage], source) or MixEntry(), self._summary.stages[stage]
        given = self._spec.sources[source]
        splits = given.kind == "text" and given.too_long != "drop"
        rules = [name for name, asked in (("stage_where", entry.where), ("quantile", entry.quantile)) if asked]
        if (tiles is not None and tiles > planned.max_tiles) or (not splits and tokens > planned.sequence_length):
            return " or ".join([*rules, "too_long"])
        return " or ".join([*rules, *(["too_long"] if tiles is None and not splits else []), "budget"])

    def of_absence(
        self,
        stage: int,
        *,
        rule: str,
        source: str,
        id: str,
        values: Values,
        tokens: int,
        tiles: int | None,
        before: int,
    ) -> str:
        """Why a stage does not use a sample. `tokens` and `tiles` (None: not known) are the sample's, `before` counts its uses in
        the stages before."""
        own, planned = self._spec.stages[stage], self._summary.stages[stage]
        entry = _entry(self._spec, own, source) or MixEntry()
        match rule:
            case "not_mixed":
                return f"{own.name} does not mix {source}"
            case "stage_where" if entry.where:
                return _fails(entry.where, values)
            case "quantile" if entry.quantile is not None:
                part = f"ranks {entry.quantile.at_least:.4g} to {entry.quantile.below:.4g}"
                return f"not in {part} by {_known(entry.quantile.by, values)}"
            case "too_long":
                counts = f"{tokens:,} tokens" + ("" if tiles is None else f" and {tiles:,} tiles")
                return f"{counts} do not fit into a pack of {planned.sequence_length:,} tokens and {planned.max_tiles:,} tiles"
            case "consumed":
                return "trained in the run that this continues"
            case "budget":
                given = planned.sources[source]
                used = f"its share was full: {own.name} used {given.epochs:.2f} epochs"
                if before and not own.reuse:
                    return (
                        f"{used}, and it has its turn from epoch {before} on, as stages before used it {_times(before)}"
                    )
                epoch = int(given.epochs)
                return f"{used}, its lot in epoch {epoch} is {lot(self._spec.seed, own.name, epoch, id):.4f}"
        return "the plan of this build does not say which: an earlier version of mixc made it"

    def _kept(self, source: str, values: Values, losers: Sequence[Loser]) -> list[Reason]:
        spec, reasons = self._spec, []
        if where := spec.sources[source].where:
            reasons.append(Reason(rule="where", text=_holds(where, values)))
        if spec.decontaminate is not None:
            reasons.append(Reason(rule="decontaminate", text="shares nothing with the benchmarks"))
        dedup = (
            ("dedup_exact", spec.dedup.exact, "has its content"),
            ("dedup_minhash", spec.dedup.minhash is not None, "has nearly its text"),
            ("dedup_image", spec.dedup.image is not None, "has nearly its images"),
        )
        for rule, asked, same in dedup:
            if not asked:
                continue
            own = [loser for loser in losers if loser.rule == rule]
            named = ", ".join(f"{each.id[:12]} of {each.source}" for each in own[:MOST_NAMED])
            more = f" and {len(own) - MOST_NAMED:,} more" if len(own) > MOST_NAMED else ""
            text = f"stands for {named}{more}" if own else f"no other sample that came this far {same}"
            reasons.append(Reason(rule=rule, text=text))
        return reasons

    def _held_out(self, source: str) -> list[Reason]:
        amount = self._spec.held_out.get(source)
        return [] if amount is None else [Reason(rule="held_out", text=f"not among the {amount} that are held out")]

    def _share(self, stage: Stage, planned: StagePlan, source: str, entry: MixEntry) -> str:
        mix = mix_entries(stage.mix)
        route = reach(mix, self._spec.groups).sources.get(source, (source,))
        weight = mix[route[0]].weight if route[0] in mix else None
        through = "" if len(route) == 1 else f" through {' > '.join(route[:-1])}"
        written = "in proportion to its size" if weight is None else f"by weight {weight:g}"
        given = planned.sources[source]
        change = f" at first, {stage.mix_end.get(route[0], 0):g} in the end" if stage.mix_end else ""
        unit = planned.unit.replace("_", " ")
        most = "" if entry.max_epochs is None else f" (at most {entry.max_epochs:g})"
        return (
            f"in {stage.name} {written}{change}{through}: {given.wished:.2%} of the {unit} wished, {given.met:.2%} met, by"
            f" {given.epochs:.2f} epochs{most} of {counted(given.eligible, 'eligible sample')}"
        )

    def _epoch(self, number: int, source: str, id: str, epoch: int, entry: MixEntry, values: Values) -> str:
        stage, given = self._spec.stages[number], self._summary.stages[number].sources[source]
        drawn = f"lot {lot(self._spec.seed, stage.name, epoch, id):.4f}, the lowest first until the share is full"
        if stage.reuse and given.epochs >= epoch + 1 and entry.balance is None:
            drawn = "the share has room for all of it"
        balance = "" if entry.balance is None else f", balanced by {_known(entry.balance.by, values)}"
        return f"{epoch}: {drawn}{balance}"

    def _dropped(self, rule: str, detail: str, source: str, id: str, values: Values) -> str:
        match rule:
            case "where":
                return _fails(detail, values)
            case "stage_where":
                stage, _, text = detail.partition(": ")
                return f"{_fails(text, values)}, in {stage}"
            case "quantile":
                stage, _, text = detail.partition(": ")
                return f"out of the ranks that {stage} takes by {_known(text, values)}"
            case "too_long":
                stage, _, counts = detail.partition(": ")
                limits = next((s for s in self._summary.stages if s.name == stage), None)
                room = "" if limits is None else f", of {limits.sequence_length:,} and {limits.max_tiles:,} in a pack"
                return f"{counts}{room}, in {stage}"
            case "decontaminate":
                return f"shares something with {detail}"
            case "dedup_exact" | "dedup_minhash" | "dedup_image":
                winner, _, won = detail.partition(" ")
                return f"{won.replace('-', '')[:12]} of {winner} stands for it"
            case "held_out":
                return f"among the {self._spec.held_out.get(source, 'samples')} that are held out, or equal to one"
            case "unused_source":
                return f"no stage mixes {source}"
            case "budget":
                return f"its share was full: {self._lots(source, id)}"
        return detail

    def _lots(self, source: str, id: str) -> str:
        """In each stage that has the source, the lot for the round that was not given whole."""
        found = []
        for stage, planned in zip(self._spec.stages, self._summary.stages, strict=True):
            if given := planned.sources.get(source):
                epoch = int(given.epochs)
                drawn = lot(self._spec.seed, stage.name, epoch, id)
                found.append(f"{stage.name} used {given.epochs:.2f} epochs, its lot in epoch {epoch} is {drawn:.4f}")
        return "; ".join(found)


def _entry(spec: Spec, stage: Stage, source: str) -> MixEntry | None:
    mix = mix_entries(stage.mix)
    route = reach(mix, spec.groups).sources.get(source)
    return None if route is None else mix[route[0]]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _order(stage: Stage, values: Values) -> str:
    order = stage.order if isinstance(stage.order, Order) else Order()
    windows = f"packed and shuffled in windows of {parse_count(order.window):,} samples"
    if order.by is None:
        return f"shuffled, each source evenly over the stage; {windows}"
    return f"by {_known(order.by, values)}, {order.direction}; {windows}"


def _holds(text: str, values: Values) -> str:
    return f"{_known(text, values)} holds"


def _fails(text: str, values: Values) -> str:
    return f"{_known(text, values)} does not hold"


def _known(text: str, values: Values) -> str:
    """An expression, with the values of its columns where they are known."""
    told = [
        f"{name} is {_shown(values[name.casefold()])}" for name in sorted(_columns(text)) if name.casefold() in values
    ]
    return f"`{text}`" + (f" ({', '.join(told)})" if told else "")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "NULL" if value is None else str(value)
    return text if len(text) <= 60 else text[:60] + "…"


@cache
def _columns(text: str) -> frozenset[str]:
    return frozenset(parse_expression(text).columns)
