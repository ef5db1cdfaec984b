"""From the records of samples to packs: pieces cut, image runs at full length, spans moved with them, samples laid end to
end. Array work over many samples at once; pure.

In a record one <IMG_CONTEXT> stands for each image; in a pack there is one for every token of its tiles. So a sample is
stretches of text that move, and image runs between them that are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.emit.placements import Placements
from mixc.measure.facts import RECORD_IMAGE
from mixc.measure.records import U32, Parts, parts
from mixc.sorting import ranges
from shards.jit import jit
from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE
from shards.packs import Packs

I64 = npt.NDArray[np.int64]


class MismatchError(Exception):
    """A record is not what the plan was made from. `args[0]` is the number of its placement."""


@dataclass(slots=True, kw_only=True)
class _Held:
    """Rows of a table of packs, in the order in which fragments came: which placement each belongs to, and itself."""

    owner: list[I64]
    rows: list[npt.NDArray[np.void]]

    def table(self, dtype: np.dtype[np.void]) -> tuple[I64, npt.NDArray[np.void]]:
        """Owners and rows, in the order of placements."""
        owner = np.concatenate([*self.owner, np.zeros(0, np.int64)])
        rows = np.concatenate([*self.rows, np.zeros(0, dtype)])
        order = np.argsort(owner, kind="stable")
        return owner[order], rows[order]


class Assembly:
    """Packs [first, last) of a stage being put together, fragment by fragment, in any order.

    Memory: 4 bytes a token, and some 100 a sample.
    """

    def __init__(
        self, placements: Placements, *, first: int, last: int, tokens_per_tile: int, image_context_id: int
    ) -> None:
        self._placements = placements
        self._packs = last - first
        self._pack = placements.pack - first
        self._tokens_per_tile = tokens_per_tile
        self._ends = np.cumsum(placements.tokens)
        self._starts = self._ends - placements.tokens  # in the shard
        # what no text is moved to is image run
        self._tokens = np.full(int(placements.tokens.sum()), image_context_id, np.int32)
        self._spans = _Held(owner=[], rows=[])
        self._images = _Held(owner=[], rows=[])

    def add(self, words: U32, placed: I64) -> None:
        """Take the samples of the placements `placed` from the `words` of their object's samples.bin. Raises MismatchError."""
        p = self._placements
        try:
            found = parts(words, p.offset[placed] // 4, p.length[placed] // 4)
        except ValueError as error:
            raise MismatchError(int(placed[error.args[0]])) from None
        images = words[found.image_words].view(RECORD_IMAGE)
        owner = np.repeat(np.arange(len(placed)), found.images)
        run = self._run_lengths(images)
        pictured = found.images > 0
        expanded = found.tokens + np.bincount(owner, run - 1, len(placed)).astype(np.int64)
        wrong = (found.images != p.images[placed]) | (p.piece_end[placed] > expanded)
        wrong |= pictured & (p.tokens[placed] != expanded)
        if wrong.any():
            raise MismatchError(int(placed[np.flatnonzero(wrong)[0]]))
        self._move_text(words, found, placed, images, owner, run)
        self._add_images(placed, images, owner, run)
        self._add_spans(words, found, placed, images, owner, run)

    def _run_lengths(self, images: npt.NDArray[np.void]) -> I64:
        tiles: I64 = images["cols"].astype(np.int64) * images["rows"] + images["thumbnail"]
        return tiles * self._tokens_per_tile

    def _move_text(
        self, words: U32, found: Parts, placed: I64, images: npt.NDArray[np.void], owner: I64, run: I64
    ) -> None:
        """Copy the stretches between images: one more than a sample has images."""
        start, end = self._placements.piece_start[placed], self._placements.piece_end[placed]
        stretches = found.images + 1
        first = np.cumsum(stretches) - stretches
        begins, ends, grown = (np.zeros(int(stretches.sum()), np.int64) for _ in range(3))
        begins[first] = start
        ends[first + found.images] = np.where(found.images > 0, found.tokens, end)
        after = first[owner] + _within(found.images) + 1  # the stretch behind each image
        begins[after] = images["position"].astype(np.int64) + 1
        ends[after - 1] = images["position"]
        grown[after] = _growth_before(owner, run) + run - 1
        sample = np.repeat(np.arange(len(placed)), stretches)
        source = found.at[sample] + begins
        target = self._starts[placed][sample] + begins - start[sample] + grown
        lengths = ends - begins
        wrong = move()(words, source, lengths, self._tokens, target)
        if wrong < len(lengths):
            raise MismatchError(int(placed[sample[wrong]]))

    def _add_images(self, placed: I64, images: npt.NDArray[np.void], owner: I64, run: I64) -> None:
        table = np.zeros(len(images), IMAGE_DTYPE)
        for name in ("digest", "cols", "rows", "thumbnail"):
            table[name] = images[name]
        table["start"] = images["position"] + _growth_before(owner, run)
        self._images.owner.append(placed[owner])
        self._images.rows.append(table)

    def _add_spans(
        self, words: U32, found: Parts, placed: I64, images: npt.NDArray[np.void], owner: I64, run: I64
    ) -> None:
        """The first token of a piece has nothing before it to be predicted from, so it is never supervised."""
        spans = words[found.span_words].reshape(-1, 2).astype(np.int64)
        of = np.repeat(np.arange(len(placed)), found.spans)
        if len(images):
            before = np.concatenate([[0], np.cumsum(run - 1)])
            first_image = np.cumsum(found.images) - found.images
            places = (owner << 32) + images["position"]
            for side in (0, 1):
                passed = np.searchsorted(places, (of << 32) + spans[:, side])
                spans[:, side] += before[passed] - before[first_image[of]]
        start = self._placements.piece_start[placed][of]
        length = self._placements.tokens[placed][of]
        spans = np.clip(spans - start[:, None], 1, length[:, None])
        kept = spans[:, 0] < spans[:, 1]
        table = np.zeros(int(kept.sum()), SPAN_DTYPE)
        table["start"], table["end"] = spans[kept].T
        self._spans.owner.append(placed[of[kept]])
        self._spans.rows.append(table)

    def packs(self) -> Packs:
        """All of it, once every placement was added."""
        p = self._placements
        samples = np.cumsum(np.bincount(self._pack, minlength=self._packs))
        ends = np.concatenate([[0], self._ends])[samples]
        in_pack = self._starts - np.concatenate([[0], ends])[self._pack]
        segments = np.zeros(len(p), SEGMENT_DTYPE)
        segments["start"] = in_pack
        for name in ("id", "source", "epoch", "piece", "weight"):
            segments[name] = getattr(p, name)
        span_owner, spans = self._spans.table(SPAN_DTYPE)
        image_owner, images = self._images.table(IMAGE_DTYPE)
        for table, owner, names in ((spans, span_owner, ("start", "end")), (images, image_owner, ("start",))):
            for name in names:
                table[name] += in_pack[owner].astype(np.uint32)
        return Packs(
            tokens=self._tokens,
            segments=segments,
            spans=spans,
            images=images,
            token_ends=ends,
            segment_ends=samples,
            span_ends=np.searchsorted(self._pack[span_owner], np.arange(self._packs), side="right"),
            image_ends=np.searchsorted(self._pack[image_owner], np.arange(self._packs), side="right"),
        )


def _within(counts: I64) -> I64:
    """0, 1, ..., count - 1 for each of the counts."""
    return ranges(np.zeros_like(counts), counts)


def _growth_before(owner: I64, run: I64) -> I64:
    """Of each image, how many tokens the images before it in its sample add."""
    total = np.cumsum(run - 1) - (run - 1)
    first = np.searchsorted(owner, owner)
    return total - total[first]


def _copy(words: Any, source: Any, lengths: Any, tokens: Any, target: Any) -> Any:
    for r in range(len(lengths)):
        n, here, there = lengths[r], source[r], target[r]
        if n < 0 or here < 0 or there < 0 or here + n > len(words) or there + n > len(tokens):
            return r
        for i in range(n):
            tokens[there + i] = np.int32(words[here + i])
    return len(lengths)


@functools.cache
def move() -> Callable[..., int]:
    """(words u32, source int64 [R], lengths int64 [R], tokens int32, target int64 [R]): copies the ranges of words to where they
    go among the tokens. The number of the first range that is not within both, before which it stops; R if there is none."""
    from numba import types

    places = types.Array(types.int64, 1, "C", readonly=True)
    words, tokens = types.Array(types.uint32, 1, "C", readonly=True), types.Array(types.int32, 1, "C")
    return jit(_copy, signature=types.int64(words, places, places, tokens, places))
