"""All samples of a plan as columns in memory, under their final ids.

A sample is its number: samples are numbered by source name, fragment digest, path and row. Nothing that a plan decides
hangs on that number; it is the index into these arrays. They take 64 bytes a sample, so 100 million stand in 6.4 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.plan.keys import duplicate_id, join_ids, split_ids
from mixc.sorting import equal_runs, ranges, total_order

Array = npt.NDArray[Any]

ALIVE = 0
"""`rule` of a sample that may stand in a stage; others index RULES of drops.py."""


@dataclass(slots=True, kw_only=True)
class Samples:
    """Columns [N] of all samples."""

    hi: Array
    """uint64: halves of the id, so that (hi, lo) sorts as the id's bytes do."""
    lo: Array
    chi: Array
    """uint64: halves of the content digest."""
    clo: Array
    rank: Array
    """uint32: among samples of equal source and content."""
    tokens: Array
    """uint32, images expanded."""
    supervised: Array
    tiles: Array
    images: Array
    """uint16."""
    row: Array
    """uint64, in its fragment: provenance."""
    start: Array
    """uint64: of the record in its object."""
    length: Array
    """uint32: of the record."""
    rule: Array
    """uint8: ALIVE, or the rule that keeps the sample out of every stage."""
    source_starts: Array
    """int64 [sources + 1]: source s has samples [source_starts[s], source_starts[s + 1])."""
    fragment_starts: Array
    """int64 [fragments + 1], likewise."""

    @classmethod
    def empty(cls, source_starts: Array, fragment_starts: Array) -> Samples:
        """Room for all samples, to be filled by the loader."""
        count = int(source_starts[-1])
        kinds = {
            **dict.fromkeys(("hi", "lo", "chi", "clo", "row", "start"), np.uint64),
            **dict.fromkeys(("rank", "tokens", "supervised", "tiles", "length"), np.uint32),
            "images": np.uint16,
            "rule": np.uint8,
        }
        arrays = {name: np.zeros(count, kind) for name, kind in kinds.items()}
        return cls(**arrays, source_starts=source_starts, fragment_starts=fragment_starts)

    def __len__(self) -> int:
        return len(self.hi)

    def of_source(self, index: int) -> slice:
        return slice(int(self.source_starts[index]), int(self.source_starts[index + 1]))

    def source_of(self, numbers: Array) -> Array:
        """Source index uint16 of samples."""
        return (np.searchsorted(self.source_starts, numbers, side="right") - 1).astype(np.uint16)

    def fragment_of(self, numbers: Array) -> Array:
        """Fragment number uint32 of samples."""
        return (np.searchsorted(self.fragment_starts, numbers, side="right") - 1).astype(np.uint32)


def rename_duplicates(samples: Samples, source: int, columns: Array) -> None:
    """Give the samples of a source that are equal in content their ranks and final ids.

    `columns`: uint64, the digests of the source's columns, by which duplicates are ranked; those equal in all that
    counts stand by place. Ranks are given before any threshold, so that no threshold renames a sample.
    """
    own = samples.of_source(source)
    hi, lo = samples.hi[own], samples.lo[own]
    order = total_order([hi, lo])
    starts, ends = equal_runs(hi[order], lo[order])
    if not len(starts):
        return
    lengths = ends - starts
    run, within = np.repeat(np.arange(len(starts)), lengths), ranges(np.zeros_like(starts), lengths)
    members = order[ranges(starts, lengths)]
    members = members[np.lexsort([members, columns[members], run])]
    samples.rank[own][members] = within
    renamed, ranks = members[within > 0], within[within > 0]
    ids = join_ids(hi[renamed], lo[renamed])
    fresh = b"".join(duplicate_id(ids[16 * i : 16 * i + 16], rank) for i, rank in enumerate(ranks.tolist()))
    samples.hi[own][renamed], samples.lo[own][renamed] = split_ids(fresh)
