"""Which samples a stage can use: its thresholds, its quantiles, and what fits a pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from mixc.plan.clean import HELD_OUT
from mixc.plan.evaluate import condition, evaluate, labels, sortable
from mixc.plan.expressions import Expressions, Locate, Use, order_family, spec_error, value_type
from mixc.plan.keys import key64, make_key
from mixc.plan.load import SourceTable
from mixc.plan.samples import ALIVE, Samples
from mixc.plan.select import UNITS, Offer, StageRules
from mixc.sorting import total_order
from mixc.spec.quantity import as_written
from mixc.spec.schema import MixEntry, Quantile

Array = npt.NDArray[Any]

STAGE_WHERE, QUANTILE, TOO_LONG, BUDGET = range(1, 5)
"""How far a sample came in a stage that could not use it, or did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOut:
    """Samples of one source that one rule kept out of one stage, as bits: an eighth of a byte for each sample of the source."""

    stage: int
    rule: int
    first: int
    """The sample of the first bit."""
    bits: Array
    """uint8."""

    @classmethod
    def of(cls, numbers: Array, rule: int, stage: int) -> KeptOut:
        first = int(numbers[0])
        mask = np.zeros(int(numbers[-1]) - first + 1, bool)
        mask[numbers - first] = True
        return cls(stage=stage, rule=rule, first=first, bits=np.packbits(mask))

    def numbers(self) -> npt.NDArray[np.int64]:
        """The samples, ascending."""
        return np.flatnonzero(np.unpackbits(self.bits)) + self.first


@dataclass(slots=True, kw_only=True)
class Furthest:
    """For every sample, the last rule that it met in any stage, and the first stage where it did."""

    rule: Array
    """uint8 [N]: 0 for a sample that no stage judged."""
    stage: Array
    """uint16 [N]."""
    used: Array
    """bool [N]: it stands in a stage."""
    kept_out: list[KeptOut] = field(default_factory=list)
    """All that a stage's own rules kept out of it, in the order in which they did."""

    @classmethod
    def empty(cls, count: int) -> Furthest:
        return cls(rule=np.zeros(count, np.uint8), stage=np.zeros(count, np.uint16), used=np.zeros(count, bool))

    def reach(self, numbers: Array, rule: int, stage: int) -> None:
        """`numbers`: ascending, of one source."""
        further = numbers[self.rule[numbers] < rule]
        self.rule[further], self.stage[further] = rule, stage
        if rule != BUDGET and len(numbers):
            self.kept_out.append(KeptOut.of(numbers, rule, stage))


def judge(
    connection: duckdb.DuckDBPyConnection,
    samples: Samples,
    stage: StageRules,
    sources: Sequence[SourceTable],
    entries: Mapping[str, MixEntry],
    expressions: Expressions,
    locate: Locate,
    *,
    seed: int,
    prior: Array | None,
    furthest: Furthest,
) -> list[Offer]:
    """What each of the stage's sources offers, in the order of `sources`. `prior` uint32 [N] counts earlier uses.

    A sample is too long when its tokens exceed sequence_length and its source is not split, or its tiles
    max_tiles. A piece's first token is not supervised, so a sample of p pieces has p - 1 supervised tokens
    less.
    """
    offers = [
        _offer(connection, samples, stage, source, entries[source.name], expressions, locate, seed, prior, furthest)
        for source in sources
    ]
    by = expressions.order.get(stage.number)
    if by is not None:
        _order_values(connection, stage, sources, offers, by, samples, locate)
    return offers


def _offer(
    connection: duckdb.DuckDBPyConnection,
    samples: Samples,
    stage: StageRules,
    source: SourceTable,
    entry: MixEntry,
    expressions: Expressions,
    locate: Locate,
    seed: int,
    prior: Array | None,
    furthest: Furthest,
) -> Offer:
    own = samples.of_source(source.index)
    keep = samples.rule[own] == (HELD_OUT if entry.held_out else ALIVE)
    alive = int(keep.sum())
    use = expressions.stage_where.get((stage.number, source.name))
    if use is not None:
        passes = condition(connection, source, use, keep, locate)
        furthest.reach(np.flatnonzero(keep & ~passes) + own.start, STAGE_WHERE, stage.number)
        keep = passes
    matching = int(keep.sum())
    if entry.quantile is not None:
        by = expressions.quantile[stage.number, source.name]
        inside = _quantile(connection, samples, source, entry.quantile, by, keep, locate, seed)
        furthest.reach(np.flatnonzero(keep & ~inside) + own.start, QUANTILE, stage.number)
        keep = inside
    passing = np.flatnonzero(keep) + own.start
    tokens = samples.tokens[passing]
    long = samples.tiles[passing] > stage.max_tiles
    if not stage.splits[source.name]:
        long |= tokens > stage.sequence_length
    furthest.reach(passing[long], TOO_LONG, stage.number)
    eligible = passing[~long]
    furthest.reach(eligible, BUDGET, stage.number)
    pieces = None
    if stage.splits[source.name]:
        length = np.uint32(stage.sequence_length)
        pieces = np.maximum(1, (samples.tokens[eligible] + (length - np.uint32(1))) // length).astype(np.uint32)
    uses = None if prior is None else prior[eligible]
    offer = Offer(
        name=source.name,
        index=source.index,
        alive=alive,
        matching=matching,
        passing=len(passing),
        too_long=int(long.sum()),
        eligible=eligible,
        pieces=pieces,
        sizes={},
        prior=uses if uses is not None and uses.any() else None,
    )
    offer.sizes = {unit: int(offer.units(samples, unit).sum()) for unit in UNITS}
    if entry.balance is not None:
        by = expressions.balance[stage.number, source.name]
        value_type(connection, source.view, by, source.name, locate)
        mask = np.zeros(source.rows, bool)
        mask[eligible - own.start] = True
        offer.classes, offer.class_names = labels(evaluate(connection, source, by, mask, locate))
    return offer


def _quantile(
    connection: duckdb.DuckDBPyConnection,
    samples: Samples,
    source: SourceTable,
    quantile: Quantile,
    by: Use,
    keep: Array,
    locate: Locate,
    seed: int,
) -> Array:
    """bool [rows]: of kept rows sorted by value, 'quantile' key and id, NULL left out, those of ranks
    [floor(at_least * n), floor(below * n)). The key is the same for every stage, so quantiles that meet share nothing
    and leave nothing out."""
    value_type(connection, source.view, by, source.name, locate)
    ((values, null),) = sortable(connection, [evaluate(connection, source, by, keep, locate)])
    numbers = np.flatnonzero(keep)[~null]
    own = samples.of_source(source.index)
    hi, lo = samples.hi[own][numbers], samples.lo[own][numbers]
    order = total_order([values[~null], key64(make_key(seed, "quantile", "", 0), hi, lo), hi, lo])
    first, last = (floor(as_written(part) * len(order)) for part in (quantile.at_least, quantile.below))
    inside = np.zeros(source.rows, bool)
    inside[numbers[order[first:last]]] = True
    return inside


def _order_values(
    connection: duckdb.DuckDBPyConnection,
    stage: StageRules,
    sources: Sequence[SourceTable],
    offers: Sequence[Offer],
    by: Use,
    samples: Samples,
    locate: Locate,
) -> None:
    families = {}
    for source in sources:
        families[source.name] = order_family(value_type(connection, source.view, by, source.name, locate))
    known = {family for family in families.values() if family != "nothing"}
    if len(known) > 1:
        raise spec_error(
            f"order.by of stage `{stage.name}` is of different kinds in its sources",
            by.path,
            locate,
            why="; ".join(f"in `{name}` it is {family}" for name, family in sorted(families.items())),
            mend="cast it, as in `cast(x as double)`",
        )
    columns = []
    for source, offer in zip(sources, offers, strict=True):
        mask = np.zeros(source.rows, bool)
        mask[offer.eligible - int(samples.source_starts[source.index])] = True
        columns.append(evaluate(connection, source, by, mask, locate))
    for offer, (values, nulls) in zip(offers, sortable(connection, columns), strict=True):
        offer.values, offer.nulls = values, nulls
