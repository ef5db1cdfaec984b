"""The order of samples in a stage, its windows, and the order of packs in a window. docs/planning.md has the
rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mixc.hashing import mix64
from mixc.plan.keys import key64, make_key
from mixc.plan.samples import Samples
from mixc.plan.schedule import Ramp
from mixc.plan.select import Chosen, Offer
from mixc.sorting import ranges, scaled_quotient, total_order

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
Array = npt.NDArray[Any]
PIECE_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as SplitMix64's increment
PLACE_BITS = 62
"""A place in a stage is a multiple of 2^-62."""
GATHER = 1 << 20
"""Samples that are gathered at a time. It bounds memory and changes nothing."""


def ordered_samples(
    samples: Samples,
    offers: Sequence[Offer],
    chosen: Mapping[str, Chosen],
    *,
    seed: int,
    stage: str,
    unit: str,
    direction: Literal["ascending", "descending"] | None,
    ramps: Mapping[str, Ramp],
) -> Iterator[tuple[Segments, npt.NDArray[np.int64]]]:
    """The stage's (sample, epoch) pairs in order: batches of SEGMENT [N] (pieces not yet cut) and pieces
    int64 [N].

    `direction` None is the shuffle: a source's epochs one after another, each in the order of its keys; a
    sample at units [c, c + u) of its source's T units stands where its source has given (2c + u) / 2T of them, a
    multiple of 2^-62 rounded down: at that place of the stage, or with a ramp of shares where the ramp has it. Ties
    stand by epoch, key, id. Else by value, NULL last, ties by key, id, epoch.
    """
    numbers, epochs, keys, places, nulls, pieces = [], [], [], [], [], []
    for offer in offers:
        own = chosen[offer.name]
        which, epoch = own.which, own.epoch
        number = offer.eligible[which]
        key = _keys(samples, number, epoch, seed=seed, stage=stage)
        if direction is None:
            order = _within_source(samples, number, epoch, key)
            which, epoch, number, key = which[order], epoch[order], number[order], key[order]
            places.append(_places(offer.units(samples, unit, which), ramps.get(offer.name)))
        else:
            assert offer.values is not None and offer.nulls is not None
            value = offer.values[which]
            places.append(~value if direction == "descending" else value)
            nulls.append(offer.nulls[which])
        numbers.append(number.astype(_narrow(len(samples))))
        epochs.append(epoch)
        keys.append(key)
        pieces.append(None if offer.pieces is None else offer.pieces[which])
    place, epoch_all, key_all = np.concatenate(places), np.concatenate(epochs), np.concatenate(keys)
    number_all = np.concatenate(numbers)
    cuts = np.concatenate(
        [np.ones(len(n), np.uint32) if p is None else p for n, p in zip(numbers, pieces, strict=True)]
    )
    del places, epochs, keys, numbers, pieces
    if direction is None:
        order = _sort(samples, number_all, [place, epoch_all, key_all], [])
    else:
        null = np.concatenate(nulls)
        known, unknown = np.flatnonzero(~null), np.flatnonzero(null)
        order = np.concatenate(
            [
                rows[_sort(samples, number_all[rows], first, [epoch_all[rows]])]
                for rows, first in ((known, [place[known], key_all[known]]), (unknown, [key_all[unknown]]))
                if len(rows)
            ]
        )
    del place
    for start in range(0, len(order), GATHER):
        part = order[start : start + GATHER]
        yield _segments(samples, number_all[part], epoch_all[part], key_all[part]), cuts[part].astype(np.int64)


def _narrow(count: int) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if count < 1 << 32 else np.uint64


def _keys(samples: Samples, numbers: Array, epochs: Array, *, seed: int, stage: str) -> npt.NDArray[np.uint64]:
    keys = np.empty(len(numbers), np.uint64)
    bounds = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(epochs)] if len(epochs) else []
    for start, end in pairwise(bounds):
        key = make_key(seed, "order", stage, int(epochs[start]))
        for at in range(start, end, GATHER):
            part = slice(at, min(at + GATHER, end))
            keys[part] = key64(key, samples.hi[numbers[part]], samples.lo[numbers[part]])
    return keys


def _within_source(samples: Samples, numbers: Array, epochs: Array, keys: Array) -> npt.NDArray[np.int64]:
    """By epoch, key, id."""
    order = np.argsort(epochs, kind="stable")
    parts = []
    for part in np.split(order, np.flatnonzero(np.diff(epochs[order])) + 1):
        parts.append(part[_sort(samples, numbers[part], [keys[part]], [])])
    return np.concatenate(parts) if parts else order


def _sort(samples: Samples, numbers: Array, first: Sequence[Array], last: Sequence[Array]) -> npt.NDArray[np.int64]:
    """By `first`, id, `last`. Ids are looked up only where `first` leaves rows equal."""
    return total_order([*first, _Ids(samples.hi, numbers), _Ids(samples.lo, numbers), *last])  # type: ignore[list-item]


class _Ids:
    """Half of the ids of `numbers`, gathered for the rows that are asked for."""

    def __init__(self, half: Array, numbers: Array) -> None:
        self._half, self._numbers = half, numbers

    def __getitem__(self, rows: Array) -> Array:
        return self._half[self._numbers[rows]]


def _places(units: npt.NDArray[np.int64], ramp: Ramp | None) -> npt.NDArray[np.uint64]:
    upto = np.cumsum(units)
    total = int(upto[-1]) if len(upto) else 0
    given = scaled_quotient((2 * upto - units).astype(np.uint64), 2 * max(total, 1), PLACE_BITS)
    return given if ramp is None else ramp.position(given)


def _segments(samples: Samples, numbers: Array, epochs: Array, keys: Array) -> Segments:
    segments = np.zeros(len(numbers), SEGMENT)
    segments["key"], segments["epoch"] = keys, epochs
    segments["source"], segments["fragment"] = samples.source_of(numbers), samples.fragment_of(numbers)
    for name in ("hi", "lo", "chi", "clo", "row", "start", "length", "tokens", "supervised", "tiles", "images"):
        segments[name] = getattr(samples, name)[numbers]
    return segments


def cut(samples: Segments, pieces: npt.NDArray[np.int64], *, sequence_length: int) -> Segments:
    """Samples into pieces: piece k of several has tokens [k * L, (k + 1) * L) and all of them but its first
    supervised.

    A sample of one piece stays as it is. Order is kept, the pieces of a sample in order.
    """
    if (pieces == 1).all():
        segments = samples.copy()
        segments["piece_end"] = segments["tokens"]
        return segments
    segments = np.repeat(samples, pieces)
    piece = ranges(np.zeros_like(pieces), pieces)
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
    number = int(packs.max()) + 1
    together = np.argsort(packs.astype(np.min_scalar_type(number)), kind="stable")  # radix sort up to 16 bits
    counts = np.bincount(packs)
    starts = np.cumsum(counts) - counts
    heads = segments[together[starts]]
    keys = np.zeros(number, np.uint64)
    for epoch in np.unique(heads["epoch"]).tolist():
        of_epoch = heads["epoch"] == epoch
        keys[of_epoch] = key64(make_key(seed, "pack", stage, epoch), heads["hi"][of_epoch], heads["lo"][of_epoch])
    keys = mix64(keys + heads["piece"].astype(np.uint64) * PIECE_STEP)
    by_key = np.lexsort([heads["piece"], heads["epoch"], heads["lo"], heads["hi"], keys])
    counts, starts = counts[by_key], starts[by_key]
    place = np.arange(len(packs)) - np.repeat(np.cumsum(counts) - counts, counts)
    return together[np.repeat(starts, counts) + place], counts, keys[by_key]
