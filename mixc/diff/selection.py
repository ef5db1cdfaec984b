"""The selection on both sides: which samples came, went, moved or are repeated, and the rule behind each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mixc.diff.difference import Move, SampleChange, SampleCounts, StageRule, StageUse
from mixc.diff.ids import find, first_of_each, hexadecimal
from mixc.diff.moved import MovedSide
from mixc.diff.placements import Placements
from mixc.hashing import mix64
from mixc.plan.load import id_halves

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]

ABSENT = "absent"
EXAMPLES_EACH, EXAMPLES = 2, 20
"""Examples of one source and rule, and of one kind of change, at most."""
WORD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One side of the comparison."""

    placements: Placements
    plan: Path
    stages: Sequence[int]
    """The joint number of each of the plan's stages."""
    files: Sequence[str]
    """The path of each of the plan's fragments, as it is shown."""
    moved: MovedSide


def compare_selection(a: Selected, b: Selected, there: Int, stages: Sequence[str]) -> SampleCounts:
    """Compare two selections whose placements number the same list of sources. `there`: of each sample of A its number in B, or -1.
    `stages`: the joint stages' names."""
    with ThreadPoolExecutor(2) as threads:  # NumPy lets go of the lock: both at once
        left, right = threads.map(_samples, (a, b), (len(stages), len(stages)))
    common = np.flatnonzero(there >= 0)
    other = there[common]
    gone = np.flatnonzero(there < 0)
    come = np.ones(len(right.hi), bool)
    come[other] = False
    new = np.flatnonzero(come)
    same_stages = (left.mask[common] == right.mask[other]).all(axis=1)
    equal = same_stages & (left.sketch[common] == right.sketch[other])
    moved, repeated = common[~same_stages], common[same_stages & ~equal]
    moved_b, repeated_b = other[~same_stages], other[same_stages & ~equal]
    is_less = right.times[repeated_b] < left.times[repeated]

    drops_a, drops_b = _Drops(a.plan / "drops.parquet"), _Drops(b.plan / "drops.parquet")
    rules_new = drops_a.rules(right, new)
    rules_gone = drops_b.rules(left, gone)
    moves = [
        *_one_sided(right, new, rules_new, stages, used="b"),
        *_one_sided(left, gone, rules_gone, stages, used="a"),
        *_moved(a, left, moved, b, right, moved_b, stages),
    ]
    show = _Shower(a, b, left, right, drops_a, drops_b, stages)
    by_rule = {name: rule for rule, name in enumerate(sorted({*rules_new.names, *rules_gone.names}))}

    def groups(side: _Samples, rows: Int, rules: _Rules | None) -> Int:
        source = side.source[rows].astype(np.int64)
        if rules is None:
            return source
        numbers = np.array([by_rule[name] for name in rules.names], np.int64)
        return source * max(1, len(by_rule)) + numbers[rules.codes]

    examples = {
        "added": show.all(None, new, groups(right, new, rules_new), rules_new),
        "removed": show.all(gone, None, groups(left, gone, rules_gone), rules_gone),
        "moved": show.all(moved, moved_b, groups(left, moved, None), moved=True),
        "more": show.all(repeated[~is_less], repeated_b[~is_less], groups(left, repeated[~is_less], None)),
        "less": show.all(repeated[is_less], repeated_b[is_less], groups(left, repeated[is_less], None)),
    }
    return SampleCounts(
        added=len(new),
        removed=len(gone),
        moved=len(moved),
        repeated=len(repeated),
        more=int((~is_less).sum()),
        less=int(is_less.sum()),
        kept=int(equal.sum()),
        added_tokens=int(right.tokens[new].sum(dtype=np.int64)),
        removed_tokens=int(left.tokens[gone].sum(dtype=np.int64)),
        added_by_rule=_by_source(right, new, rules_new),
        removed_by_rule=_by_source(left, gone, rules_gone),
        moves=sorted(moves, key=lambda move: (-move.samples, move.source, move.a, move.b)),
        examples={kind: some for kind, some in examples.items() if some},
    )


@dataclass(frozen=True, slots=True)
class _Samples:
    """One side, a row a sample that it uses, sorted by id."""

    hi: Array
    lo: Array
    source: Array
    sources: list[str]
    tokens: Array
    times: Int
    """Uses in all."""
    mask: Array
    """uint64 [S, words]: bit s of them is joint stage s."""
    sketch: Array
    """uint64 [S]: the sum of a number a use that only the stage decides, so equal for equally many uses in each stage, and
    different for others but for one chance in 2^64."""


def _samples(side: Selected, stages: int) -> _Samples:
    placed, starts = side.placements, side.placements.starts
    joint = np.array(side.stages, np.int64)
    weights = mix64(joint.astype(np.uint64) + np.uint64(1))
    words = max(1, -(-stages // WORD))
    mask = np.zeros((len(starts), words), np.uint64)
    for word in range(words):
        bits = np.where(joint // WORD == word, np.uint64(1) << (joint % WORD).astype(np.uint64), np.uint64(0))
        if len(starts):
            mask[:, word] = np.bitwise_or.reduceat(bits[placed.stage], starts)
    hi, lo = placed.ids
    return _Samples(
        hi=hi,
        lo=lo,
        source=placed.source[starts],
        sources=placed.sources,
        tokens=placed.tokens[starts],
        times=np.diff(np.append(starts, len(placed.hi))),
        mask=mask,
        sketch=np.add.reduceat(weights[placed.stage], starts) if len(starts) else placed.hi[:0],
    )


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rule that keeps each of some samples out of a plan."""

    names: list[str]
    codes: Int
    """Index into `names`, a sample each."""
    rows: Int
    """Of the drops table; -1 of a sample that is absent."""


class _Drops:
    """A plan's drops table: sorted by source and id."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rules(self, samples: _Samples, numbers: Int) -> _Rules:
        """Why these samples of the other side are not used here."""
        codes, rows = np.zeros(len(numbers), np.int64), np.full(len(numbers), -1, np.int64)
        names = [ABSENT]
        if not len(numbers):
            return _Rules(names, codes, rows)
        with pq.ParquetFile(self._path, read_dictionary=["source", "rule"]) as file:
            table = file.read(columns=["source", "id", "rule"]).unify_dictionaries()
        source, rule = table["source"].combine_chunks(), table["rule"].combine_chunks()
        hi, lo = id_halves(table["id"].combine_chunks())
        names += rule.dictionary.to_pylist()
        rule_codes = rule.indices.to_numpy().astype(np.int64) + 1
        codes_of_source = source.indices.to_numpy()
        for code, name in enumerate(source.dictionary.to_pylist()):
            first, last = (int(np.searchsorted(codes_of_source, code, side)) for side in ("left", "right"))
            if name not in samples.sources:
                continue
            own = np.flatnonzero(samples.source[numbers] == samples.sources.index(name))
            place = find(samples.hi[numbers[own]], samples.lo[numbers[own]], hi[first:last], lo[first:last])
            known = place >= 0
            rows[own[known]] = place[known] + first
            codes[own[known]] = rule_codes[place[known] + first]
        return _Rules(names, codes, rows)

    def rule_and_detail(self, row: int) -> tuple[str | None, str | None]:
        """Of one row of the table; of -1, that there is none."""
        if row < 0:
            return ABSENT, None
        rule, detail = _cells(self._path, row, ["rule", "detail"])
        return rule, detail or None


def _cells(path: Path, row: int, columns: list[str]) -> tuple[Any, ...]:
    """One row of a Parquet file, by its number."""
    with pq.ParquetFile(path) as file:
        group = 0
        while row >= file.metadata.row_group(group).num_rows:
            row -= file.metadata.row_group(group).num_rows
            group += 1
        table = file.read_row_group(group, columns=columns)
    return tuple(table[name][row].as_py() for name in columns)


def _by_source(samples: _Samples, numbers: Int, rules: _Rules) -> dict[str, dict[str, int]]:
    """Samples by source and rule."""
    codes = samples.source[numbers].astype(np.int64) * len(rules.names) + rules.codes
    found: dict[str, dict[str, int]] = {}
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        source, rule = divmod(int(code), len(rules.names))
        found.setdefault(samples.sources[source], {})[rules.names[rule]] = int(count)
    return {source: dict(sorted(found[source].items())) for source in sorted(found)}


def _one_sided(samples: _Samples, numbers: Int, rules: _Rules, stages: Sequence[str], *, used: str) -> list[Move]:
    found = []
    for group in _groups(samples.source[numbers], samples.mask[numbers]):
        rows = numbers[group]
        names = _names(samples.mask[rows[0]], stages)
        counts = np.bincount(rules.codes[group], minlength=len(rules.names))
        found.append(
            Move(
                source=samples.sources[int(samples.source[rows[0]])],
                a=names if used == "a" else [],
                b=names if used == "b" else [],
                samples=len(rows),
                tokens=int(samples.tokens[rows].sum(dtype=np.int64)),
                rules=dict(sorted((rules.names[code], int(counts[code])) for code in np.flatnonzero(counts))),
            )
        )
    return found


def _moved(
    a: Selected, left: _Samples, rows_a: Int, b: Selected, right: _Samples, rows_b: Int, stages: Sequence[str]
) -> list[Move]:
    found = []
    groups = _groups(left.source[rows_a], left.mask[rows_a], right.mask[rows_b])
    firsts = [(int(rows_a[group[0]]), int(rows_b[group[0]])) for group in groups]
    missing: dict[str, set[tuple[str, str]]] = {"a": set(), "b": set()}
    for first, other in firsts:
        source = left.sources[int(left.source[first])]
        before, after = _bits(left.mask[first]), _bits(right.mask[other])
        missing["a"] |= {(stages[stage], source) for stage in after - before}
        missing["b"] |= {(stages[stage], source) for stage in before - after}
    a.moved.look_up(rows_a, missing["a"])
    b.moved.look_up(rows_b, missing["b"])
    for group, (first, other) in zip(groups, firsts, strict=True):
        source = left.sources[int(left.source[first])]
        before, after = _bits(left.mask[first]), _bits(right.mask[other])
        rules: dict[str, int] = {}
        for stage in sorted(before ^ after):
            side = b.moved if stage in before else a.moved
            for rule, count in side.counts(stages[stage], source, group).items():
                rules[rule] = rules.get(rule, 0) + count
        found.append(
            Move(
                source=source,
                a=_names(left.mask[first], stages),
                b=_names(right.mask[other], stages),
                samples=len(group),
                tokens=int(left.tokens[rows_a[group]].sum(dtype=np.int64)),
                rules=dict(sorted(rules.items())),
            )
        )
    return found


def _groups(*columns: Array) -> list[Int]:
    """Rows that are equal in all columns [N] or [N, words], group by group."""
    wide = np.column_stack([np.asarray(column).astype(np.uint64) for column in columns])
    if not len(wide):
        return []
    order = np.lexsort(wide.T[::-1])
    new = np.any(wide[order][1:] != wide[order][:-1], axis=1)
    return np.split(order, np.flatnonzero(new) + 1)


def _bits(mask: Array) -> set[int]:
    return {word * WORD + bit for word, value in enumerate(mask.tolist()) for bit in range(WORD) if value >> bit & 1}


def _names(mask: Array, stages: Sequence[str]) -> list[str]:
    return [stages[number] for number in sorted(_bits(mask))]


@dataclass(frozen=True, slots=True)
class _Shower:
    """Makes examples of samples. Slow, for a few."""

    a: Selected
    b: Selected
    left: _Samples
    right: _Samples
    drops_a: _Drops
    drops_b: _Drops
    stages: Sequence[str]

    def all(
        self,
        rows_a: Int | None,
        rows_b: Int | None,
        groups: Int,
        rules: _Rules | None = None,
        *,
        moved: bool = False,
    ) -> list[SampleChange]:
        """Of samples by their rows on the sides that use them, the least ids of each group. `rules`: on the side that does not.
        `moved`: these are the samples that both sides looked up."""
        samples, rows = (self.left, rows_a) if rows_a is not None else (self.right, rows_b)
        assert rows is not None
        chosen = first_of_each(groups, samples.hi[rows], samples.lo[rows], EXAMPLES_EACH)[:EXAMPLES]
        return [
            self._one(
                None if rows_a is None else int(rows_a[n]),
                None if rows_b is None else int(rows_b[n]),
                None if rules is None else int(rules.rows[n]),
                n if moved else None,
            )
            for n in chosen.tolist()
        ]

    def _one(self, row_a: int | None, row_b: int | None, drop: int | None, moved: int | None) -> SampleChange:
        side, samples, row = (self.a, self.left, row_a) if row_b is None else (self.b, self.right, row_b)
        assert row is not None
        at = int(side.placements.row[side.placements.starts[row]])
        fragment, place = _cells(side.plan / "placements.parquet", at, ["fragment", "row"])
        rule_a, detail_a = self.drops_a.rule_and_detail(drop) if drop is not None and row_a is None else (None, None)
        rule_b, detail_b = self.drops_b.rule_and_detail(drop) if drop is not None and row_b is None else (None, None)
        source = samples.sources[int(samples.source[row])]
        uses_a = [] if row_a is None else self._uses(self.a, row_a)
        uses_b = [] if row_b is None else self._uses(self.b, row_b)
        return SampleChange(
            id=hexadecimal(samples.hi[row], samples.lo[row]),
            source=source,
            tokens=int(samples.tokens[row]),
            uses_a=uses_a,
            uses_b=uses_b,
            not_in_a=[] if moved is None else _not_in(self.a.moved, uses_a, uses_b, source, moved),
            not_in_b=[] if moved is None else _not_in(self.b.moved, uses_b, uses_a, source, moved),
            rule_a=rule_a,
            rule_b=rule_b,
            detail_a=detail_a,
            detail_b=detail_b,
            path=side.files[fragment],
            row=place,
        )

    def _uses(self, side: Selected, row: int) -> list[StageUse]:
        placed = side.placements
        end = placed.starts[row + 1] if row + 1 < len(placed.starts) else len(placed.hi)
        stages, times = np.unique(placed.stage[placed.starts[row] : end], return_counts=True)
        return [
            StageUse(stage=self.stages[side.stages[int(stage)]], times=int(count))
            for stage, count in zip(stages, times, strict=True)
        ]


def _not_in(
    side: MovedSide, here: Sequence[StageUse], there: Sequence[StageUse], source: str, moved: int
) -> list[StageRule]:
    """Stages that the other side has a moved sample in and this side has not, each with its rule."""
    own = {use.stage for use in here}
    return [
        StageRule(stage=use.stage, rule=next(iter(side.counts(use.stage, source, np.array([moved])))))
        for use in there
        if use.stage not in own
    ]
