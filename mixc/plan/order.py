"""The order of samples in a stage, its windows, and the order of packs in a window. docs/planning.md has the
rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixc.plan.database import stream
from mixc.plan.keys import key64, make_key, mix64

SEGMENT = np.dtype(
    [
        ("hi", "u8"),  # id
        ("lo", "u8"),
        ("chi", "u8"),  # content
        ("clo", "u8"),
        ("key", "u8"),  # of 'order'
        ("row", "u8"),
        ("start", "u8"),  # of the record in its object
        ("length", "u4"),
        ("fragment", "u4"),
        ("epoch", "u4"),
        ("piece", "u4"),
        ("piece_start", "u4"),
        ("piece_end", "u4"),
        ("tokens", "u4"),
        ("supervised", "u4"),
        ("tiles", "u4"),
        ("images", "u2"),
        ("source", "u2"),  # index among the spec's sources, sorted by name
    ]
)
"""A sample, or a piece of one, on its way to a pack."""

Segments = npt.NDArray[np.void]
PIECE_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as SplitMix64's increment

_SAMPLE_FIELDS = ("hi", "lo", "chi", "clo", "key", "row", "start", "length", "fragment", "epoch")
_COUNT_FIELDS = ("tokens", "supervised", "tiles", "images", "source")


def ordered_samples(
    connection: duckdb.DuckDBPyConnection, stage: int, direction: Literal["ascending", "descending"] | None
) -> Iterator[tuple[Segments, npt.NDArray[np.int64]]]:
    """The stage's (sample, epoch) pairs in order: batches of SEGMENT [N] (pieces not yet cut) and pieces
    int64 [N].

    `direction` None is the shuffle: a source's epochs one after another, each in the order of its keys; a
    sample at units [c, c + u) of its source's T units stands at (2c + u) / 2T of the stage, as a multiple of
    2^-62 rounded down; ties stand by epoch, key, id. Else by value, NULL last, ties by key, id, epoch.
    """
    if direction is None:
        # UHUGEINT throughout: beside another type `//` would go through DOUBLE
        position = (
            "((2 * upto - units)::UHUGEINT * 4611686018427387904::UHUGEINT"
            " // (2 * greatest(total, 1))::UHUGEINT)::UBIGINT AS position"
        )
        rows = (
            f"SELECT *, {position} FROM (SELECT c.*, j.hi, j.lo, j.supervised, j.pieces,"
            " (sum(units) OVER (PARTITION BY c.source ORDER BY epoch, key, j.hi, j.lo"
            f" ROWS UNBOUNDED PRECEDING))::BIGINT AS upto, total"
            f" FROM chosen_{stage} c JOIN judged_{stage} j USING (n)"
            f" JOIN (SELECT source, sum(units)::BIGINT AS total FROM chosen_{stage} GROUP BY source) t"
            " ON c.source = t.source)"
        )
        order = "position, epoch, key, hi, lo"
    else:
        rows = (
            "SELECT c.*, j.hi, j.lo, j.supervised, j.pieces, j.value"
            f" FROM chosen_{stage} c JOIN judged_{stage} j USING (n)"
        )
        order = f"value {'DESC' if direction == 'descending' else 'ASC'} NULLS LAST, key, hi, lo, epoch"
    ordered = ", ".join(f"o.{term}" for term in order.split(", "))
    sql = (
        "SELECT o.hi, o.lo, chi, clo, key, row, start, length, fragment, epoch, s.tokens, o.supervised,"
        f" s.tiles, s.images, o.source, o.pieces FROM ({rows}) o JOIN samples s USING (n) ORDER BY {ordered}"
    )
    for batch in stream(connection, sql):
        segments = np.zeros(batch.num_rows, SEGMENT)
        for field in (*_SAMPLE_FIELDS, *_COUNT_FIELDS):
            segments[field] = _numpy(batch, field)
        yield segments, _numpy(batch, "pieces").astype(np.int64)


def _numpy(batch: pa.RecordBatch, column: str) -> npt.NDArray[np.integer]:
    array: npt.NDArray[np.integer] = batch[column].to_numpy(zero_copy_only=False)
    return array


def cut(samples: Segments, pieces: npt.NDArray[np.int64], *, sequence_length: int) -> Segments:
    """Samples into pieces: piece k of several has tokens [k * L, (k + 1) * L) and all of them but its first
    supervised.

    A sample of one piece stays as it is. Order is kept, the pieces of a sample in order.
    """
    segments = np.repeat(samples, pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    piece = np.arange(len(segments)) - first
    several = np.repeat(pieces > 1, pieces)
    whole = segments["tokens"].astype(np.int64)
    start = np.where(several, piece * sequence_length, 0)
    end = np.where(several, np.minimum(start + sequence_length, whole), whole)
    segments["piece"], segments["piece_start"], segments["piece_end"] = piece, start, end
    segments["tokens"] = end - start
    segments["supervised"] = np.where(several, end - start - 1, segments["supervised"])
    return segments


def windows(
    batches: Iterable[tuple[Segments, npt.NDArray[np.int64]]], *, size: int, sequence_length: int
) -> Iterator[Segments]:
    """The stage cut into windows of `size` segments, the last one smaller; epochs and pieces count as
    samples."""
    held: list[Segments] = []
    count = 0
    for samples, pieces in batches:
        segments = cut(samples, pieces, sequence_length=sequence_length)
        while count + len(segments) >= size:
            yield np.concatenate([*held, segments[: size - count]])
            segments, held, count = segments[size - count :], [], 0
        if len(segments):
            held.append(segments)
            count += len(segments)
    if count:
        yield np.concatenate(held)


def shuffle_packs(
    segments: Segments, packs: npt.NDArray[np.int64], *, seed: int, stage: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """The order of a window's packs and of the segments in them.

    A pack's key is that of its first segment in the window's order: mix64(key64('pack', epoch, id) + piece *
    PIECE_STEP). Packs stand by key, ties by that segment's id, epoch, piece; within a pack segments keep the
    window's order. `packs` int64 [N] says which pack a segment is in, 0 to P - 1. Returns the segments' order
    int64 [N], each pack's number of segments int64 [P] and its key uint64 [P], both in the new order of
    packs.
    """
    _, first = np.unique(packs, return_index=True)
    heads = segments[first]
    keys = np.zeros(len(heads), np.uint64)
    for epoch in np.unique(heads["epoch"]).tolist():
        of_epoch = heads["epoch"] == epoch
        keys[of_epoch] = key64(make_key(seed, "pack", stage, epoch), heads["hi"][of_epoch], heads["lo"][of_epoch])
    keys = mix64(keys + heads["piece"].astype(np.uint64) * PIECE_STEP)
    by_key = np.lexsort([heads["piece"], heads["epoch"], heads["lo"], heads["hi"], keys])
    rank = np.empty_like(by_key)
    rank[by_key] = np.arange(len(by_key))
    order = np.argsort(rank[packs], kind="stable")
    return order, np.bincount(packs)[by_key], keys[by_key]
