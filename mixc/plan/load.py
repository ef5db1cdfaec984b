"""Facts of all objects, read into the plan's columns, and the columns that expressions name, read when they are wanted.

Read with pyarrow rather than by DuckDB: the database may open no file, a path may hold any character, and
names that differ in case stay apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.errors import BuildError
from mixc.measure.columns import as_text
from mixc.measure.facts import COLUMN_PREFIX, FACTS_SCHEMA, SIGNALS
from mixc.plan.keys import split_ids
from mixc.plan.samples import Samples, rename_duplicates

BATCH_ROWS = 1 << 20
"""Rows that are read or evaluated at a time. It bounds memory and changes nothing."""
_FACTS = ("row", "id", "content", "columns", "offset", "length", "tokens", "supervised_tokens", "images", "tiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFragment:
    """A measured fragment, as the plan needs it."""

    source: str
    path: str
    """Where the fragment lies. Provenance only."""
    digest: str
    """The fragment's own digest."""
    object: str
    """The object's digest: its key in the cache."""
    facts: Path
    """The object's facts.parquet."""
    samples: int
    rejects: int
    signals: Mapping[str, Path] = field(default_factory=dict)
    """Parquet of each computed signal, by name: one column `value`, rows as in the facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedFragment:
    number: int
    first_row: int
    """Samples in the fragments before it: with a row's place in its facts this numbers all samples."""
    fragment: PlannedFragment


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A source's fragments and the columns that its expressions may name."""

    name: str
    index: int
    """Among the spec's sources, sorted by name."""
    fragments: Sequence[NumberedFragment]
    columns: Mapping[str, pa.DataType]
    """Of the source's own columns those that are used, and their types."""
    signals: Mapping[str, pa.DataType]
    """Computed signals that are used, and their types."""
    rows: int

    @property
    def view(self) -> str:
        """An empty table of the database with these columns and the facts' signals: what expressions are typed by."""
        return f"source_{self.index}"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [(signal, pa.int64()) for signal in SIGNALS] + list(self.signals.items()) + list(self.columns.items())
        )


def number_fragments(fragments: Sequence[PlannedFragment]) -> list[NumberedFragment]:
    """Fragments in the order of (source, digest, path), numbered from 0."""
    ordered = sorted(fragments, key=lambda f: (f.source, f.digest, f.path))
    numbered, rows = [], 0
    for number, fragment in enumerate(ordered):
        numbered.append(NumberedFragment(number=number, first_row=rows, fragment=fragment))
        rows += fragment.samples
    return numbered


def source_columns(fragments: Sequence[NumberedFragment]) -> dict[str, set[pa.DataType]]:
    """A source's own columns, over all its fragments, and the Arrow types they have there. Raises
    BuildError."""
    columns: dict[str, set[pa.DataType]] = {}
    for fragment in fragments:
        for column in _open(fragment).schema_arrow:
            if column.name.startswith(COLUMN_PREFIX):
                columns.setdefault(column.name.removeprefix(COLUMN_PREFIX), set()).add(column.type)
    return columns


def signal_type(fragments: Sequence[NumberedFragment], name: str) -> pa.DataType:
    """The type of a computed signal over all fragments of a source. Raises BuildError."""
    return common_type({_open_signal(fragment, name).schema_arrow.field("value").type for fragment in fragments})


def common_type(types: set[pa.DataType]) -> pa.DataType:
    """One type for a column that may have several, so that the division of a source into files does not
    matter.

    Integers become int64, any other mix of numbers float64, and a mix of other kinds text. A column that is
    nowhere but NULL becomes text too.
    """
    kinds = {t for t in types if not pa.types.is_null(t)}
    if kinds and all(pa.types.is_integer(t) and t != pa.uint64() for t in kinds):
        return pa.int64()
    if kinds and all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in kinds):
        return pa.float64() if any(map(pa.types.is_floating, kinds)) else pa.decimal128(20, 0)
    if len(kinds) == 1:
        (kind,) = kinds
        return pa.string() if pa.types.is_large_string(kind) else kind
    return pa.string()


def load_samples(by_source: Mapping[str, Sequence[NumberedFragment]], *, threads: int) -> Samples:
    """The facts of all sources (in the order of their names), under their final ids. Raises BuildError when an object
    cannot be read or does not hold what it should."""
    fragments = [fragment for own in by_source.values() for fragment in own]
    counts = [fragment.fragment.samples for fragment in fragments]
    per_source = [sum(fragment.fragment.samples for fragment in own) for own in by_source.values()]
    samples = Samples.empty(_starts(per_source), _starts(counts))
    for index, own in enumerate(by_source.values()):
        columns = np.zeros(per_source[index], np.uint64)
        first = int(samples.source_starts[index])
        with ThreadPoolExecutor(threads) as pool:  # each fragment fills rows of its own
            list(pool.map(lambda fragment: _fill(samples, columns, first, fragment), own))  # noqa: B023
        rename_duplicates(samples, index, columns)
    return samples


def _starts(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)


def _fill(samples: Samples, columns: npt.NDArray[np.uint64], first: int, fragment: NumberedFragment) -> None:
    start = fragment.first_row
    try:
        for batch in _open(fragment).iter_batches(BATCH_ROWS, columns=list(_FACTS)):
            end = start + batch.num_rows
            samples.hi[start:end], samples.lo[start:end] = id_halves(batch["id"])
            samples.chi[start:end], samples.clo[start:end] = id_halves(batch["content"])
            columns[start - first : end - first] = batch["columns"].to_numpy()
            for name, column in (("supervised", "supervised_tokens"), ("start", "offset")):
                getattr(samples, name)[start:end] = batch[column].to_numpy()
            for name in ("row", "length", "tokens", "images", "tiles"):
                getattr(samples, name)[start:end] = batch[name].to_numpy()
            start = end
    except (OSError, pa.ArrowException) as error:
        raise _broken(fragment, str(error)) from None


def column_batches(source: SourceTable, names: Sequence[str], keep: npt.NDArray[np.bool_] | None) -> Iterator[pa.Table]:
    """The columns and signals `names` of the source's rows in order, those where `keep` bool [rows] is true, in tables
    of up to some BATCH_ROWS. Raises BuildError."""
    held: list[pa.Table] = []
    count = 0
    first = source.fragments[0].first_row if source.fragments else 0
    for fragment in source.fragments:
        start = fragment.first_row - first
        try:
            for table in _fragment_columns(fragment, source, names):
                end = start + table.num_rows
                part = table if keep is None else table.filter(pa.array(keep[start:end]))
                start = end
                held.append(part)
                count += part.num_rows
                if count >= BATCH_ROWS:
                    yield pa.concat_tables(held)
                    held, count = [], 0
        except (OSError, pa.ArrowException) as error:
            raise _broken(fragment, str(error)) from None
    if count:
        yield pa.concat_tables(held)


def _fragment_columns(fragment: NumberedFragment, source: SourceTable, names: Sequence[str]) -> Iterator[pa.Table]:
    file = _open(fragment)
    present = set(file.schema_arrow.names)
    stored = {name: name if name in SIGNALS else COLUMN_PREFIX + name for name in names if name not in source.signals}
    wanted = [column for column in stored.values() if column in present]
    signals = {
        name: _open_signal(fragment, name).iter_batches(BATCH_ROWS, columns=["value"])
        for name in names
        if name in source.signals
    }
    schema = source.schema
    # Without a wanted column there would be no batch that tells how many rows there are.
    for batch in file.iter_batches(BATCH_ROWS, columns=wanted or ["row"]):
        arrays = []
        for name in names:
            kind = schema.field(name).type
            if name in signals:
                value = next(signals[name])["value"]
                if len(value) != batch.num_rows:
                    raise _broken(fragment, f"signal `{name}` has another number of rows than the facts")
                arrays.append(value.cast(kind, safe=False))
            elif stored[name] in present:
                arrays.append(_cast(batch[stored[name]], kind))
            else:
                arrays.append(pa.nulls(batch.num_rows, kind))
        yield pa.Table.from_arrays(
            [pa.nulls(batch.num_rows, pa.bool_()), *arrays],
            schema=pa.schema([(ROWS, pa.bool_()), *((name, schema.field(name).type) for name in names)]),
        )


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """To the type that a column has over all fragments, as if they had been one."""
    if not pa.types.is_string(kind) or pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return column.cast(kind, safe=False)  # not safe: an integer beyond 2^53 may become the nearest float64
    coded = column.dictionary_encode()
    texts = pa.array([as_text(value) for value in coded.dictionary.to_pylist()], pa.string())
    return texts.take(coded.indices)


ROWS = "__mixc_rows"
"""An extra column of `column_batches`, so that a table without any other has rows. No expression can name it: it is no
column of the source's."""


def _open(fragment: NumberedFragment) -> pq.ParquetFile:
    """The facts of a fragment, checked against FACTS_SCHEMA and the number of samples. Raises BuildError."""
    path = fragment.fragment.facts
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _broken(fragment, str(error)) from None
    schema = file.schema_arrow
    for wanted in FACTS_SCHEMA:
        if wanted.name not in schema.names or schema.field(wanted.name).type != wanted.type:
            raise _broken(fragment, f"column `{wanted.name}` is not {wanted.type}")
    if file.metadata.num_rows != fragment.fragment.samples:
        raise _broken(fragment, f"{file.metadata.num_rows} rows, not {fragment.fragment.samples}")
    return file


def _open_signal(fragment: NumberedFragment, name: str) -> pq.ParquetFile:
    path = fragment.fragment.signals[name]
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _broken(fragment, str(error), path) from None
    if file.schema_arrow.names != ["value"] or file.metadata.num_rows != fragment.fragment.samples:
        raise _broken(fragment, f"it does not hold one value of `{name}` for each of the samples", path)
    return file


def signal_columns(sources: Iterable[SourceTable], name: str) -> Iterator[tuple[int, pa.Array]]:
    """The values of a computed signal, a sample each, of every fragment that has samples, with the number of its first
    sample. Raises BuildError."""
    for fragment in (fragment for source in sources for fragment in source.fragments if fragment.fragment.samples):
        try:
            column = _open_signal(fragment, name).read(columns=["value"])["value"]
        except (OSError, pa.ArrowException) as error:
            raise _broken(fragment, str(error), fragment.fragment.signals[name]) from None
        yield fragment.first_row, column.combine_chunks()


def _broken(fragment: NumberedFragment, why: str, path: Path | None = None) -> BuildError:
    return BuildError(
        "the object of a fragment cannot be read",
        where=str(path or fragment.fragment.facts),
        why=why,
        mend="delete the object's folder from the cache; it will be measured again",
    )


def id_halves(ids: pa.ExtensionArray) -> tuple[Any, Any]:
    """Halves (hi, lo), uint64 [N] each, of a uuid column without NULLs."""
    storage = ids.storage
    data = memoryview(storage.buffers()[1])[16 * storage.offset : 16 * (storage.offset + len(storage))]
    return split_ids(data)
