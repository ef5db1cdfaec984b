"""Where a text stands in samples that no stage uses. No pack has them, so they are read from what the plan was made of: from the
objects in the cache, which hold every measured sample as it was tokenized; and where the cache has lost one, from its file.

A file is read only where its digest, and those of the images that it names, are the build's: then its rows are the build's rows.
So what is found is what was dropped, or it is said that it could not be looked for. A fragment is read at a time by each thread, and
of what is found no more is kept than will be shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.emit.lock import read_lock
from mixc.emit.places import sources_folder
from mixc.errors import MixcError
from mixc.measure.object import FACTS, Object, object_path, read_info
from mixc.measure.records import WORD, parts
from mixc.measure.spelling import BREAK
from mixc.measure.template import Template, template_named, template_of
from mixc.measure.tokenizer import Tokenizer
from mixc.report.opened import locked_spec, open_plan
from mixc.report.spelled import I64, WRITTEN, Progress, Spell, excerpt, in_order
from mixc.sorting import ranges
from mixc.sources.fragment import Fragment
from mixc.sources.read import read
from mixc.sources.sample import Sample
from mixc.sources.scan import scan
from mixc.spec.schema import Source, Spec
from shards.cache_folder import cache_folder

BATCH_ROWS, BATCH_BYTES = 1 << 14, 16 << 20
"""Samples, and bytes of their records, that a thread spells at a time (one at least)."""
HELD = 100_000
"""Places found that are held before it is asked which of them were dropped."""


Base = Callable[[], Path | None]


class DroppedFound(msgspec.Struct, frozen=True, kw_only=True):
    """A sample that no stage uses and that holds the text."""

    id: str
    source: str
    path: str
    row: int
    rule: str
    """What dropped it, as in `Drop`."""
    detail: str
    tokens: int
    excerpt: str


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    searched: int
    """Samples that no stage uses and that were looked through."""
    samples: int
    """Those that hold the text."""
    rules: dict[str, int]
    """Of these, by rule."""
    found: list[DroppedFound]
    """The first of them by source, file and row, as many as were asked for."""
    not_searched: list[str]
    """What could not be looked through, in words, and unusable rows."""


class _Match(NamedTuple):
    row: int
    excerpt: str


class _Task(NamedTuple):
    fragment: int
    source: str
    dropped: int
    """Samples of the fragment that no stage uses."""
    object: Path | None
    """In the cache."""
    file: Fragment | None
    """As it lies now, where there is no object."""


def find_dropped(
    build: Path,
    tokenizer: Tokenizer,
    needle: bytes,
    spell: Spell,
    *,
    limit: int | None,
    workers: int,
    progress: Progress | None = None,
) -> Dropped:
    """Every sample that no stage uses and that holds `needle`, `limit` of them in full. Reads all fragments that have such samples,
    with `workers` threads. Raises BuildError when the plan cannot be read."""
    lock = read_lock(build / "mixture.lock")
    spec, template = locked_spec(lock, build), template_of(lock.template)
    with open_plan(build) as db:
        tasks, missing = _tasks(db, spec, partial(sources_folder, build, lock))
        rejects = db.execute("SELECT count(*) FROM rejects").fetchall()[0][0]
        keep = _Keep(db, limit)
        searched = 0

        def run(task: _Task) -> list[_Match] | str:
            try:
                if task.object is not None:
                    return list(_in_object(task.object, needle, spell))
                assert task.file is not None
                if template is None:
                    return "the chat template is of another version of mixc, and the cache has lost it"
                return list(_in_file(task.file, spec.sources[task.source], tokenizer, template, needle))
            except MixcError as error:
                return error.what
            except (OSError, pa.ArrowException, ValueError):
                return "an object of the cache is damaged"

        for number, (task, found) in enumerate(zip(tasks, in_order(run, tasks, workers), strict=True), 1):
            if isinstance(found, str):
                missing[task.source, found] += task.dropped
            else:
                searched += task.dropped
                keep.add(task.fragment, found)
            if progress:
                progress(number, len(tasks))
        keep.look_up()
    told = [
        f"{count:,} samples of {source} that no stage uses: {why}" for (source, why), count in sorted(missing.items())
    ]
    if rejects:
        told.append(f"{rejects:,} rows that are unusable")
    return Dropped(
        searched=searched,
        samples=sum(keep.rules.values()),
        rules=dict(sorted(keep.rules.items())),
        found=keep.found,
        not_searched=told,
    )


class _Keep:
    """What was found, less what a stage uses."""

    def __init__(self, db: duckdb.DuckDBPyConnection, limit: int | None) -> None:
        self._db, self._limit = db, limit
        self._held: list[tuple[int, _Match]] = []
        self.rules: Counter[str] = Counter()
        self.found: list[DroppedFound] = []

    def add(self, fragment: int, matches: Sequence[_Match]) -> None:
        self._held += [(fragment, match) for match in matches]
        if len(self._held) >= HELD:
            self.look_up()

    def look_up(self) -> None:
        """Ask the plan which of those that are held were dropped. Fragments come in their order, so those found first stay first."""
        if not self._held:
            return
        held = pa.table(
            {
                "fragment": pa.array([fragment for fragment, _ in self._held], pa.uint32()),
                "row": pa.array([match.row for _, match in self._held], pa.uint64()),
                "excerpt": pa.array([match.excerpt for _, match in self._held], pa.string()),
            }
        )
        self._held = []
        self._db.register("held", held)
        own = 'FROM held JOIN drops USING (fragment, "row")'
        for rule, count in self._db.execute(f"SELECT rule, count(*) {own} GROUP BY rule").fetchall():
            self.rules[rule] += count
        if self._limit is None or len(self.found) < self._limit:
            most = "" if self._limit is None else f"LIMIT {self._limit - len(self.found)}"
            cursor = self._db.execute(
                f"""
                SELECT replace(id::VARCHAR, '-', '') AS id, fragments.source AS source, path, "row", rule,
                       coalesce(detail, '') AS detail, tokens, excerpt
                {own} JOIN fragments USING (fragment) ORDER BY fragment, "row" {most}
                """
            )
            names = [column[0] for column in cursor.description or []]
            self.found += [DroppedFound(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]
        self._db.unregister("held")


def _tasks(db: duckdb.DuckDBPyConnection, spec: Spec, base: Base) -> tuple[list[_Task], Counter[tuple[str, str]]]:
    """Fragments with samples that no stage uses, in order; and how many such samples lie in none that can be read, by source and
    why. `base` gives the folder that the sources' relative paths start from."""
    rows = db.execute(
        """
        SELECT fragment, source, digest, object, n FROM fragments
        JOIN (SELECT fragment, count(*) AS n FROM drops GROUP BY fragment) USING (fragment) ORDER BY fragment
        """
    ).fetchall()
    tasks: list[_Task] = []
    missing: Counter[tuple[str, str]] = Counter()
    files: dict[str, dict[str, Fragment] | str] = {}
    for number, source, digest, object, count in rows:
        path = object_path(cache_folder(), object)
        if read_info(path) is not None:
            tasks.append(_Task(number, source, count, path, None))
            continue
        if source not in files:
            files[source] = _files(source, spec.sources[source], base)
        own = files[source]
        if isinstance(own, str):
            missing[source, own] += count
        elif digest not in own:
            missing[source, "no file of this content is there any more, and the cache has lost it"] += count
        else:
            tasks.append(_Task(number, source, count, None, own[digest]))
    return tasks, missing


def _files(name: str, source: Source, base: Base) -> dict[str, Fragment] | str:
    """The fragments of a source as they lie now, by digest; or why there are none, in words."""
    try:
        found = scan(name, source, (base() or Path()).absolute(), cache_folder())
    except MixcError as error:
        return f"{error.what}, and the cache has lost it"
    return {fragment.digest: fragment for fragment in found}


def _in_object(path: Path, needle: bytes, spell: Spell) -> Iterator[_Match]:
    """Samples of an object that hold the needle."""
    object = Object(path)
    for batch in pq.ParquetFile(path / FACTS).iter_batches(BATCH_ROWS, columns=["row", "offset", "length"]):
        rows, offsets, lengths = (batch[name].to_numpy().astype(np.int64) for name in ("row", "offset", "length"))
        for own in _pieces(lengths):
            at = parts(object.words, offsets[own] // WORD, lengths[own] // WORD)
            tokens = object.words[ranges(at.at, at.tokens)].astype(np.int32)
            data, ends = spell(tokens, np.cumsum(at.tokens) - at.tokens)
            yield from _matches(rows[own], data, ends, needle)
    object.let_go()


def _pieces(lengths: I64) -> Iterator[slice]:
    """Runs of records of about BATCH_BYTES."""
    piece = (np.cumsum(lengths) - lengths) // BATCH_BYTES
    edges = np.flatnonzero(np.diff(piece, prepend=-1, append=-2))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(first, last)


def _in_file(
    fragment: Fragment, source: Source, tokenizer: Tokenizer, template: Template, needle: bytes
) -> Iterator[_Match]:
    """Samples of a fragment's rows that hold the needle, in the text that their tokens would spell."""
    for row in read(fragment, source):
        if not isinstance(row, Sample):
            continue
        own = template_named(row.template, think=template.think) if row.template else template
        data = b"".join(
            WRITTEN.get(text, BREAK) if special else tokenizer.normalised(text).encode()
            for text, special, _ in own.segments(row)
        )
        yield from _matches(np.array([row.row]), data, np.array([len(data)]), needle)


def _matches(rows: I64, data: bytes, ends: I64, needle: bytes) -> Iterator[_Match]:
    """Of samples, rows [S], whose bytes stand end to end, those that hold all of the needle: each once."""
    at = data.find(needle)
    while at >= 0:
        k = int(np.searchsorted(ends, at, side="right"))
        start, end = int(ends[k - 1]) if k else 0, int(ends[k])
        if at + len(needle) <= end:
            yield _Match(int(rows[k]), excerpt(data[start:end], at - start, len(needle)))
            at = data.find(needle, end)
        else:
            at = data.find(needle, at + 1)
