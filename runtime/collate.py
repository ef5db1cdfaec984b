"""From packs to the micro-batch: packs end to end in one row, targets and image rows as ranges.

What a pack claims is checked against the model's geometry before the model sees it: an id beyond the embedding table or an
image run of the wrong length would otherwise end as a device-side assertion, or as silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from runtime import lay
from runtime.batch import Row, Totals, words_of
from runtime.images import tile
from shards.errors import ShardError
from shards.manifest import Geometry
from shards.pack import Pack, words


class SourceTable:
    """Keys of sources, as packs hold them, ascending, and their indices."""

    def __init__(self, source_index: Mapping[int, int]) -> None:
        keys = sorted(source_index)
        self.keys = np.array(keys, np.uint64)
        self.indices = np.array([source_index[key] for key in keys], np.int64)

    def __len__(self) -> int:
        return len(self.keys)


def collate(
    packs: Sequence[Pack],
    images: Callable[[bytes], bytes],
    geometry: Geometry,
    sources: SourceTable,
) -> tuple[Row, Totals]:
    """Lay packs end to end as one `Row` (on the CPU), and add up what is in it.

    `images` gives an image's encoded bytes for its digest. Packs keep the rules of a pack, as those do that are read from a
    shard. A pack may be empty; if all are, the row is one segment of one pad token, without targets. Raises ShardError if
    a pack contradicts `geometry`, names an unknown source, or its image does not decode.
    """
    T, S, K, count = (
        sum([len(pack.tokens) for pack in packs]),
        sum([len(pack.segments) for pack in packs]),
        sum([len(pack.spans) for pack in packs]),
        sum([len(pack.images) for pack in packs]),
    )
    if not T:
        return _nothing(geometry), Totals(weights=(0.0,) * len(sources), tokens=0, tiles=0, pairs=0)
    row = np.empty(words_of(T, S, K, count), np.int32)
    row[T] = 0  # where the first segment begins
    weights = np.zeros(len(sources))
    counters = np.zeros(lay.WHERE + 1, np.int64)
    limits = (
        geometry.vocab_size,
        geometry.image_context_id,
        geometry.image_start_id,
        geometry.image_end_id,
        geometry.tokens_per_tile,
    )
    put = lay.lay()
    for place, pack in enumerate(packs):
        tables = pack.tokens, words(pack.segments), words(pack.spans), words(pack.images)
        wrong = put(tables, limits, sources.keys, sources.indices, (T, S, K, count), counters, row, weights)
        if wrong:
            why = _why(wrong, pack, int(counters[lay.WHERE]), geometry)
            raise ShardError(f"pack {place} of the micro-batch, of {len(pack.tokens)} tokens: {why}")
    tiles_M = _tiles([image for pack in packs for image in pack.images] if count else [], images, geometry)
    made = Row(
        words=torch.from_numpy(row),
        tokens=T,
        segments=S,
        spans=K,
        images=count,
        targets=int(counters[lay.TARGETS]),
        max_seqlen=int(counters[lay.LONGEST]),
        tiles_M=torch.from_numpy(tiles_M),
        image_rows=int(counters[lay.ROWS]),
    )
    return made, Totals(weights=tuple(weights.tolist()), tokens=T, tiles=len(tiles_M), pairs=int(counters[lay.PAIRS]))


def _nothing(geometry: Geometry) -> Row:
    """A rank dealt nothing but empty packs still takes part in every collective: one token, no targets."""
    return Row(
        words=torch.tensor([geometry.pad_id, 0, 1], dtype=torch.int32),
        tokens=1,
        segments=1,
        spans=0,
        images=0,
        targets=0,
        max_seqlen=1,
        tiles_M=torch.from_numpy(_tiles([], dict[bytes, bytes]().__getitem__, geometry)),
        image_rows=0,
    )


def _why(wrong: int, pack: Pack, where: int, geometry: Geometry) -> str:
    """What `lay` found wrong, and at which entry, in words."""
    if wrong == lay.SOURCE:
        return f"a sample is of source {int(pack.segments['source'][where]):#018x}, not in the manifest"
    if wrong == lay.IDS:
        return f"token ids must be in [0, {geometry.vocab_size}), the vocabulary of {geometry.name}; one is {pack.tokens[where]}"
    if wrong == lay.OVERLAP:
        return "image runs must be ascending, disjoint and within the pack"
    if wrong == lay.STRAY:
        return f"{where} image tokens belong to no image"
    mark = {lay.START: "start", lay.RUN: "run", lay.END: "end", lay.SAMPLE: "sample"}[wrong]
    image = pack.images[where]
    cols, rows, thumbnail = int(image["cols"]), int(image["rows"]), int(image["thumbnail"])
    return (
        f"image {image['digest'].tobytes().hex()} is {cols} x {rows} tiles{' and a thumbnail' * thumbnail}, "
        f"{(cols * rows + thumbnail) * geometry.tokens_per_tile} tokens from {image['start']}, but the tokens there are not "
        f"that ({mark})"
    )


def _tiles(found: list[np.void], images: Callable[[bytes], bytes], geometry: Geometry) -> npt.NDArray[np.uint8]:
    """The tiles of all images, uint8 [M, 3, side, side]."""
    if not found:
        return np.empty((0, 3, geometry.tile_size, geometry.tile_size), np.uint8)
    tiles = [_tile(image, images, geometry) for image in found]
    return tiles[0] if len(tiles) == 1 else np.concatenate(tiles)


def _tile(image: np.void, images: Callable[[bytes], bytes], geometry: Geometry) -> npt.NDArray[np.uint8]:
    digest = image["digest"].tobytes()
    encoded = images(digest)
    try:
        return tile(
            encoded,
            cols=int(image["cols"]),
            rows=int(image["rows"]),
            thumbnail=bool(image["thumbnail"]),
            side=geometry.tile_size,
        )
    except (OSError, SyntaxError, ValueError) as error:
        raise ShardError(f"image {digest.hex()} does not decode: {error}") from error
