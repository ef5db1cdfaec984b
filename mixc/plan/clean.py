"""The rules that keep samples out of every stage: thresholds, contamination, duplicates, what is held out.

Each is given the samples that no rule before it dropped, marks those that it drops in `Samples.rule`, and keeps what it
has to say of them for the drops table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mixc.plan.keys import key64, make_key
from mixc.plan.load import SourceTable, signal_columns
from mixc.plan.samples import ALIVE, Samples
from mixc.sorting import equal_runs, ranges, total_order
from mixc.spec.schema import Dedup

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]

IN_MEMORY = 4 << 30
"""Signatures of more bytes than this lie in a file while they are compared."""
WHERE, CONTAMINATED, DEDUP_EXACT, DEDUP_MINHASH, DEDUP_IMAGE, HELD_OUT = range(1, 7)
"""Values of `Samples.rule`, in the order in which a sample meets the rules."""
RULES = {
    WHERE: "where",
    CONTAMINATED: "decontaminate",
    DEDUP_EXACT: "dedup_exact",
    DEDUP_MINHASH: "dedup_minhash",
    DEDUP_IMAGE: "dedup_image",
    HELD_OUT: "held_out",
}


@dataclass(slots=True)
class Winners:
    """Duplicates and the samples that stay in their place."""

    losers: list[Int] = field(default_factory=list)
    winners: list[Int] = field(default_factory=list)

    def add(self, losers: Int, winners: Int) -> None:
        self.losers.append(losers)
        self.winners.append(winners)

    def of(self, numbers: Int) -> Int:
        """The winners of losers, given in any order."""
        losers, winners = np.concatenate(self.losers), np.concatenate(self.winners)
        order = np.argsort(losers)
        found: Int = winners[order][np.searchsorted(losers, numbers, sorter=order)]
        return found


def preference(dedup: Dedup, sources: Sequence[str]) -> Array:
    """Rank of each source (in the order of their names) among those that compete: the preferred ones first, then the
    others by name. int64 [sources]."""
    ordered = [*dedup.prefer, *(name for name in sorted(sources) if name not in dedup.prefer)]
    return np.array([ordered.index(name) for name in sorted(sources)], np.int64)


def equal_contents(samples: Samples) -> tuple[Int, Int]:
    """Living samples whose content is another's too, content after content: their numbers and a number for each
    content, int64 [M] each."""
    order = total_order([samples.chi, samples.clo])  # of all: few have an equal, so only those few are looked at
    starts, ends = equal_runs(samples.chi[order], samples.clo[order])
    lengths = ends - starts
    run = np.repeat(np.arange(len(starts)), lengths)
    members = order[ranges(starts, lengths)]
    alive = samples.rule[members] == ALIVE
    members, run = members[alive], run[alive]
    several = np.bincount(run)[run] > 1 if len(run) else alive[:0]
    return members[several], run[several]


def drop_exact(samples: Samples, preferred: Array, winners: Winners) -> None:
    """Of living samples with equal content all but one: that of the most preferred source and, within it, the first by
    rank."""
    members, run = equal_contents(samples)
    order = np.lexsort([samples.rank[members], preferred[samples.source_of(members)], run])
    members, winner = members[order], members[order][_first_of_run(run[order])]
    lost = members != winner
    samples.rule[members[lost]] = DEDUP_EXACT
    winners.add(members[lost], winner[lost])


def copies(samples: Samples) -> dict[tuple[int, int], int]:
    """Living samples that exact deduplication would drop: how many, by source and the first other source (by index, or
    the source itself) that has the same content."""
    members, run = equal_contents(samples)
    source = samples.source_of(members).astype(np.int64)
    order = np.lexsort([source, run])
    source, first = source[order], _first_of_run(run[order])
    later = first != np.arange(len(first))
    pairs, counts = np.unique(np.stack([source, source[first]])[:, later], axis=1, return_counts=True)
    return {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, counts, strict=True)}


def _first_of_run(run: Int) -> Int:
    """Of rows with rising run numbers int64 [M], where the run of each begins, int64 [M]."""
    return np.searchsorted(run, run)


def drop_contaminated(samples: Samples, sources: Sequence[SourceTable]) -> dict[int, str]:
    """Living samples for which the signal `contaminated` names an item of a benchmark; the items, by sample."""
    found: dict[int, str] = {}
    for first, column in signal_columns(sources, "contaminated"):
        hits = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
        hits = hits[samples.rule[first + hits] == ALIVE]
        samples.rule[first + hits] = CONTAMINATED
        found.update(zip((first + hits).tolist(), column.take(hits).to_pylist(), strict=True))
    return found


def drop_near(
    samples: Samples,
    sources: Sequence[SourceTable],
    dedup: Dedup,
    preferred: Array,
    winners: Winners,
    scratch: Path,
) -> None:
    """Near-duplicates by text, then by images, as docs/cleaning.md has it. `scratch` is a folder for a file."""
    if dedup.minhash is not None:
        from mixc.clean.clusters import near_duplicates  # compiled by numba, which takes a second to start

        alive = np.flatnonzero(samples.rule == ALIVE)
        signatures = _signatures(samples, sources, dedup.minhash.permutations, alive, scratch)
        won = near_duplicates(signatures, _ranks(samples, preferred, alive), threshold=dedup.minhash.threshold)
        _mark(samples, alive, won, DEDUP_MINHASH, winners)
    if dedup.image is not None:
        from mixc.clean.images import near_duplicate_images

        alive = np.flatnonzero((samples.rule == ALIVE) & (samples.images > 0))
        hashes, owners = _hashes(samples, sources, alive)
        won = near_duplicate_images(hashes, owners, _ranks(samples, preferred, alive), bits=dedup.image.phash)
        _mark(samples, alive, won, DEDUP_IMAGE, winners)


def _ranks(samples: Samples, preferred: Array, numbers: Int) -> Int:
    """Places int64 of samples in the order of preference: source, id."""
    order = total_order([preferred[samples.source_of(numbers)], samples.hi[numbers], samples.lo[numbers]])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _mark(samples: Samples, alive: Int, won: Int, rule: int, winners: Winners) -> None:
    lost = np.flatnonzero(won != np.arange(len(won)))
    samples.rule[alive[lost]] = rule
    winners.add(alive[lost], alive[won[lost]])


def _signatures(
    samples: Samples, sources: Sequence[SourceTable], permutations: int, alive: Int, scratch: Path
) -> npt.NDArray[np.uint32]:
    """Signatures uint32 [alive, permutations]: in memory, or from IN_MEMORY bytes on in a file of `scratch`."""
    shape = (len(alive), permutations)
    signatures: npt.NDArray[np.uint32]
    if 4 * len(alive) * permutations < IN_MEMORY:
        signatures = np.empty(shape, np.uint32)
    else:
        signatures = np.memmap(scratch / "minhash", np.uint32, "w+", shape=shape)
    filled = 0
    for first, column in signal_columns(sources, "minhash"):
        data = np.frombuffer(column.buffers()[1], np.uint32)[permutations * column.offset :]
        rows = data[: permutations * len(column)].reshape(-1, permutations)
        kept = np.flatnonzero(samples.rule[first : first + len(column)] == ALIVE)
        signatures[filled : filled + len(kept)] = rows[kept]
        filled += len(kept)
    return signatures


def _hashes(samples: Samples, sources: Sequence[SourceTable], alive: Int) -> tuple[Array, Int]:
    """The perceptual hashes uint64 [M] of the images of `alive`, and the index int64 [M] into `alive` of their
    samples."""
    hashes, owners = [], []
    place = np.full(len(samples), -1, np.int64)
    place[alive] = np.arange(len(alive))
    for first, column in signal_columns(sources, "phash"):
        owner = np.repeat(place[first : first + len(column)], np.diff(column.offsets.to_numpy()))
        kept = owner >= 0
        hashes.append(column.flatten().to_numpy()[kept])
        owners.append(owner[kept])
    return np.concatenate([np.zeros(0, np.uint64), *hashes]), np.concatenate([np.zeros(0, np.int64), *owners])


def hold_out(
    samples: Samples, sources: Sequence[SourceTable], amounts: Mapping[str, int | Fraction], *, seed: int
) -> Int:
    """Keep samples out of every stage: of each source in `amounts` the first by 'held-out' key, a number of samples or a
    part of the living ones rounded down; and with them every living sample, of any source, with the content of one.

    Gives the chosen ones, int64, by source and id. The key is that of the content (seed, 'held-out', '', 0), so a copy in another source has the same.
    """
    key = make_key(seed, "held-out", "", 0)
    chosen = []
    for source in sources:
        if source.name not in amounts:
            continue
        own = samples.of_source(source.index)
        alive = np.flatnonzero(samples.rule[own] == ALIVE) + own.start
        amount = amounts[source.name]
        count = amount if isinstance(amount, int) else int(amount * len(alive))
        keys = key64(key, samples.chi[alive], samples.clo[alive])
        order = total_order([keys, samples.hi[alive], samples.lo[alive]])
        held = alive[order[:count]]
        chosen.append(held[total_order([samples.hi[held], samples.lo[held]])])
    numbers = np.concatenate([np.zeros(0, np.int64), *chosen])
    alive = np.flatnonzero(samples.rule == ALIVE)
    marked = np.isin(samples.chi[alive], samples.chi[numbers])
    candidates = alive[marked]
    pairs = np.dtype([("hi", "u8"), ("lo", "u8")])
    wanted = np.zeros(len(numbers), pairs)
    wanted["hi"], wanted["lo"] = samples.chi[numbers], samples.clo[numbers]
    found = np.zeros(len(candidates), pairs)
    found["hi"], found["lo"] = samples.chi[candidates], samples.clo[candidates]
    samples.rule[candidates[np.isin(found, wanted)]] = HELD_OUT
    return numbers
