"""Quality signals of what is trained, before and after: of each source, the numbers that the specs' expressions name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixc.diff.difference import BINS, QUANTILES, Distribution, Summary
from mixc.diff.side import Side, SideFragment
from mixc.measure.facts import COLUMN_PREFIX, SIGNALS
from mixc.measure.object import FACTS
from mixc.plan.expressions import nowhere, parse_expressions
from mixc.signals.locked import asked_signals, is_number
from mixc.spec.groups import stage_sources
from mixc.spec.schema import Spec

Array = npt.NDArray[Any]


def distributions(a: Side, b: Side, sources: Collection[str]) -> tuple[list[Distribution], str]:
    """Of the uses of `sources`, which both sides have, and why some cannot be told; empty when all are."""
    named = [named_signals(side) for side in (a, b)]
    wanted = {name: sorted(named[0].get(name, set()) | named[1].get(name, set())) for name in sorted(sources)}
    wanted = {name: signals for name, signals in wanted.items() if signals}
    gone = sorted(
        name for name in wanted if any(fragment.object is None for side in (a, b) for fragment in side.of_source(name))
    )
    wanted = {name: signals for name, signals in wanted.items() if name not in gone}
    unknown = not_cached(gone, *(lost_signals(side, wanted) for side in (a, b)))
    if not wanted:
        return [], unknown
    values = [signal_values(side, wanted) for side in (a, b)]
    found = []
    for source, signals in wanted.items():
        for signal in signals:
            before, after = (side.get((source, signal)) for side in values)
            if before is None or after is None or not len(before) or not len(after):
                continue
            if np.array_equal(before, after):
                continue
            low, high = float(min(before[0], after[0])), float(max(before[-1], after[-1]))
            found.append(
                Distribution(
                    source=source,
                    signal=signal,
                    low=low,
                    high=high,
                    a=_summary(before, low, high),
                    b=_summary(after, low, high),
                )
            )
    return found, unknown


def named_signals(side: Side) -> dict[str, set[str]]:
    """Columns and signals by source that the spec's expressions name, in lower case, as DuckDB compares them; and computed signals."""
    spec = msgspec.convert(side.spec, Spec)
    expressions = parse_expressions(spec, nowhere)
    computed = asked_signals(spec)
    found = {}
    for source in spec.sources:
        stages = [number for number, stage in enumerate(spec.stages) if source in stage_sources(stage.mix, spec.groups)]
        names = {name.lower() for use in expressions.of_source(source, stages) for name in use.expression.columns}
        found[source] = names | computed
    return found


def lost_signals(side: Side, wanted: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Computed signals, by source, that the side's spec asks for and that this machine's cache no longer has of all its fragments. Of
    no source that has lost its objects, and none whose values are no numbers."""
    computed = sorted(filter(is_number, asked_signals(msgspec.convert(side.spec, Spec))))
    found = {}
    for source, names in sorted(wanted.items()):
        own = side.of_source(source)
        lost = [name for name in computed if name in names and any(name not in each.signals for each in own)]
        if lost:
            found[source] = lost
    return found


def not_cached(objects: Sequence[str], *lost: Mapping[str, Sequence[str]]) -> str:
    """One line about what this machine's cache no longer holds: objects of these sources, signals of those. Empty for nothing."""
    parts = [f"objects of {', '.join(objects)}"] if objects else []
    sources = sorted({source for each in lost for source in each})
    for source in sources:
        names = sorted({name for each in lost for name in each.get(source, [])})
        parts.append(f"the signal{'s' if len(names) > 1 else ''} {', '.join(names)} of {source}")
    return f"not in this machine's cache: {'; '.join(parts)}" if parts else ""


def signal_values(
    side: Side, wanted: Mapping[str, Sequence[str]], *, dropped: bool = False
) -> dict[tuple[str, str], Array]:
    """Finite values float64 of every use, or of every sample that no stage uses, sorted, by source and signal. A name that a source
    has no number by is left out. Every object of these sources must be there."""
    assert side.plan is not None
    parts: dict[tuple[str, str], list[Array]] = {}
    lacking: set[tuple[str, str]] = set()
    computed = asked_signals(msgspec.convert(side.spec, Spec))
    for number, rows in sorted(_rows(side.plan, wanted, dropped=dropped).items()):
        fragment = side.fragments[number]
        columns = _columns(fragment, wanted[fragment.source], computed)
        order = columns.pop("row")
        places = np.searchsorted(order, rows)
        for signal in wanted[fragment.source]:
            if signal in columns:
                parts.setdefault((fragment.source, signal), []).append(columns[signal][places])
            else:
                lacking.add((fragment.source, signal))
    found = {}
    for key, arrays in parts.items():
        values = np.concatenate(arrays)
        if key not in lacking:
            found[key] = np.sort(values[np.isfinite(values)])
    return found


def _rows(plan: Path, sources: Collection[str], *, dropped: bool) -> dict[int, Array]:
    """By fragment the rows uint64 of all uses of these sources' samples, or of what was dropped."""
    names = pa.array(sorted(sources), pa.string())
    parts: dict[int, list[Array]] = {}
    columns = ["source", "fragment", "row", *([] if dropped else ["piece"])]
    with pq.ParquetFile(plan / ("drops.parquet" if dropped else "placements.parquet")) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            table = table.filter(pc.is_in(table["source"], names))
            if not dropped:
                table = table.filter(pc.equal(table["piece"], 0))
            fragments, rows = table["fragment"].to_numpy(), table["row"].to_numpy()
            for number in np.unique(fragments).tolist():
                parts.setdefault(number, []).append(rows[fragments == number])
    return {number: np.concatenate(arrays) for number, arrays in parts.items()}


def _columns(fragment: SideFragment, names: Sequence[str], computed: Collection[str]) -> dict[str, Array]:
    """The fragment's numbers by lower-case name, float64, and `row`. A computed signal hides a column of its name, as it does in
    expressions, also where its values are lost."""
    assert fragment.object is not None
    with pq.ParquetFile(fragment.object / FACTS) as file:
        schema = file.schema_arrow
        stored = {}
        for field in schema:
            name = field.name.removeprefix(COLUMN_PREFIX) if field.name.startswith(COLUMN_PREFIX) else field.name
            own = field.name in SIGNALS
            number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            readable = number and (own or field.name.startswith(COLUMN_PREFIX))
            wanted = name.lower() in names and name.lower() not in computed
            if readable and wanted and (own or name.lower() not in stored):
                stored[name.lower()] = field.name
        table = file.read(columns=["row", *stored.values()])
    found = {name: _doubles(table[column]) for name, column in stored.items()}
    for name, path in fragment.signals.items():
        if name in names and name in computed:
            values = pq.ParquetFile(path).read(columns=["value"])["value"]
            if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
                found[name] = _doubles(values)
    found["row"] = table["row"].to_numpy()
    return found


def _doubles(column: pa.ChunkedArray) -> Array:
    numbers: Array = column.cast(pa.float64(), safe=False).to_numpy()
    return numbers


def _summary(values: Array, low: float, high: float) -> Summary:
    """Of sorted values float64 [N], N > 0."""
    last = len(values) - 1
    return Summary(
        count=len(values),
        mean=fsum(values) / len(values),
        quantiles=[float(values[round(part * last)]) for part in QUANTILES],
        bins=np.histogram(values, bins=BINS, range=(low, high))[0].tolist(),
    )
