"""Why a sample is in no stage: one rule for each, the one where it came furthest. And why one is not in this stage or that."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixc.plan.clean import CONTAMINATED, DEDUP_EXACT, DEDUP_IMAGE, HELD_OUT, WHERE, Winners
from mixc.plan.clean import RULES as CLEANING
from mixc.plan.expressions import Expressions
from mixc.plan.judge import BUDGET, QUANTILE, STAGE_WHERE, TOO_LONG, Furthest
from mixc.plan.keys import join_ids
from mixc.plan.load import SourceTable
from mixc.plan.samples import ALIVE, Samples
from mixc.plan.select import StageRules
from mixc.plan.write import uuids
from mixc.sorting import total_order

Array = npt.NDArray[Any]

BATCH = 1 << 17
RULES = (
    *(CLEANING[rule] for rule in sorted(CLEANING)),
    *("unused_source", "not_held_out", "stage_where", "quantile", "too_long", "consumed", "budget"),
)
"""In the order in which a sample meets them."""
STAGE_RULES = {STAGE_WHERE: "stage_where", QUANTILE: "quantile", TOO_LONG: "too_long", BUDGET: "budget"}
"""Of a stage, in the order in which a sample meets them."""


def drops(
    samples: Samples,
    sources: Sequence[SourceTable],
    expressions: Expressions,
    stages: Mapping[int, StageRules],
    furthest: Furthest,
    winners: Winners,
    contaminated: Mapping[int, str],
    consumed: Array | None,
    held: Collection[str],
) -> Iterator[dict[str, Any]]:
    """Columns of DROPS_SCHEMA for every sample that no stage uses, sorted by source and id, batch by batch.

    Of a stage's rules a sample has the last that it met in any stage, and of equals the first stage's. Detail: the
    condition; the benchmark's item; the winner's source and id; the stage, with the condition or the counts. Of the sources in `held` the stages take what is held out.
    """
    mixed = {name for rules in stages.values() for name in rules.splits}
    names = np.array([source.name for source in sources], object)
    for source in sources:
        own = samples.of_source(source.index)
        numbers = np.flatnonzero(~furthest.used[own]) + own.start
        numbers = numbers[total_order([samples.hi[numbers], samples.lo[numbers]])]
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            rule, detail = _reasons(
                samples,
                source,
                part,
                names,
                expressions,
                stages,
                furthest,
                winners,
                contaminated,
                consumed,
                mixed=source.name in mixed,
                held=source.name in held,
            )
            yield {
                "source": pa.array([source.name] * len(part), pa.string()),
                "id": uuids(samples.hi[part], samples.lo[part]),
                "rule": pa.array(rule, pa.string()),
                "detail": pa.array(detail, pa.string()),
                "tokens": samples.tokens[part],
                "fragment": samples.fragment_of(part),
                "row": samples.row[part],
            }


def kept_out(samples: Samples, names: Sequence[str], furthest: Furthest) -> Iterator[dict[str, Any]]:
    """Columns of KEPT_OUT_SCHEMA, in its order, batch by batch: who a stage's own rules keep out of it, but for what the drops
    table says already, which has of a sample that no stage uses the rule where it came furthest."""
    for each in furthest.kept_out:
        numbers = each.numbers()
        numbers = numbers[furthest.used[numbers] | (furthest.rule[numbers] != each.rule)]
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            source = names[int(samples.source_of(part[:1])[0])]
            yield {
                "stage": np.full(len(part), each.stage, np.uint16),
                "source": pa.array([source] * len(part), pa.string()),
                "rule": pa.array([STAGE_RULES[each.rule]] * len(part), pa.string()),
                "fragment": samples.fragment_of(part),
                "row": samples.row[part],
            }


def _reasons(
    samples: Samples,
    source: SourceTable,
    numbers: Array,
    names: Array,
    expressions: Expressions,
    stages: Mapping[int, StageRules],
    furthest: Furthest,
    winners: Winners,
    contaminated: Mapping[int, str],
    consumed: Array | None,
    *,
    mixed: bool,
    held: bool,
) -> tuple[Array, Array]:
    """Rule and detail, arrays of text."""
    rule = np.full(len(numbers), "" if mixed else "unused_source", object)
    detail = np.full(len(numbers), "", object)
    state = samples.rule[numbers]
    for code, name in CLEANING.items():
        rule[state == code] = name
    if use := expressions.where.get(source.name):
        detail[state == WHERE] = use.expression.text
    for place in np.flatnonzero(state == CONTAMINATED).tolist():
        detail[place] = contaminated[int(numbers[place])]
    lost = np.flatnonzero((state >= DEDUP_EXACT) & (state <= DEDUP_IMAGE))
    if len(lost):
        won = winners.of(numbers[lost])
        detail[lost] = names[samples.source_of(won)] + " " + _uuid_texts(samples, won)
    if not mixed:
        return rule, detail
    if held:
        rule[state == ALIVE] = "not_held_out"
    alive = state == (HELD_OUT if held else ALIVE)
    reached, stage = furthest.rule[numbers], furthest.stage[numbers]
    for number, rules in stages.items():
        here = alive & (stage == number)
        for code, name in STAGE_RULES.items():
            rule[here & (reached == code)] = name
        detail[here] = rules.name
        if use := expressions.stage_where.get((number, source.name)):
            detail[here & (reached == STAGE_WHERE)] = f"{rules.name}: {use.expression.text}"
        if use := expressions.quantile.get((number, source.name)):
            detail[here & (reached == QUANTILE)] = f"{rules.name}: {use.expression.text}"
        for place in np.flatnonzero(here & (reached == TOO_LONG)).tolist():
            tokens, tiles = samples.tokens[numbers[place]], samples.tiles[numbers[place]]
            detail[place] = f"{rules.name}: {tokens} tokens, {tiles} tiles"
    if consumed is not None:
        spent = alive & (reached == BUDGET) & (consumed[numbers] > 0)
        rule[spent], detail[spent] = "consumed", "trained in the run that this continues"
    return rule, detail


def _uuid_texts(samples: Samples, numbers: Array) -> Array:
    ids = join_ids(samples.hi[numbers], samples.lo[numbers]).hex()
    texts = [ids[at : at + 32] for at in range(0, len(ids), 32)]
    return np.array([f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts], object)
