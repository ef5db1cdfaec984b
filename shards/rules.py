"""The rules that a pack keeps in its stage and for its model, and what it adds to the stage's counts.
Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.manifest import Geometry, StageEntry
from shards.pack import Pack, supervised_by_segment, tiles_by_image


def pack_faults(pack: Pack, stage: StageEntry, geometry: Geometry) -> Iterator[str]:
    """Every rule of `stage` and `geometry` that `pack` breaks, in words. Those that a pack keeps alone,
    whatever its stage, are `decode_pack`'s."""
    tokens = pack.tokens
    if len(tokens) > stage.sequence_length:
        yield f"{len(tokens)} tokens, more than the stage's {stage.sequence_length}"
    if len(tokens) and int(tokens.max()) >= geometry.vocab_size:
        yield f"token id {int(tokens.max())} is not below the vocabulary's {geometry.vocab_size}"
    tiles = tiles_by_image(pack)
    if int(tiles.sum()) > stage.max_tiles:
        yield f"{int(tiles.sum())} tiles, more than the stage's {stage.max_tiles}"
    starts = pack.segments["start"]
    context = np.zeros(len(tokens), bool)
    for image, count in zip(pack.images, tiles, strict=True):
        where = f"image {image['digest'].tobytes().hex()}"
        grid = int(image["cols"]) * int(image["rows"])
        if not geometry.min_tiles <= grid <= geometry.max_tiles:
            yield f"{where}: a grid of {grid} tiles, not {geometry.min_tiles} to {geometry.max_tiles}"
        if bool(image["thumbnail"]) != (geometry.thumbnail and grid > 1):
            yield f"{where}: a thumbnail where the model has none, or none where it has one"
        start = int(image["start"])
        end = start + int(count) * geometry.tokens_per_tile
        if not (
            start > 0
            and end < len(tokens)
            and tokens[start - 1] == geometry.image_start_id
            and tokens[end] == geometry.image_end_id
            and np.searchsorted(starts, start - 1, side="right") == np.searchsorted(starts, end, side="right")
        ):
            yield f"{where}: its {end - start} tokens do not stand between start and end token of one sample"
        context[start:end] = True
    if (context != (tokens == geometry.image_context_id)).any():
        yield "image context tokens are not where the images are"


@dataclass(slots=True)
class Counts:
    """What a source gave to a stage, as SourceShare and StageEntry name it."""

    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    images: int = 0
    tiles: int = 0


def add_counts(counts: dict[int, Counts], pack: Pack) -> None:
    """Add what each source has in `pack` to its entry of `counts`, which is keyed by `source_key`."""
    starts = pack.segments["start"].astype(np.int64)
    owner = np.searchsorted(starts, pack.images["start"], side="right") - 1  # segment of each image
    tiles = np.zeros(len(starts), np.int64)
    np.add.at(tiles, owner, tiles_by_image(pack))
    columns = (
        np.diff(starts, append=len(pack.tokens)),
        supervised_by_segment(pack),
        np.bincount(owner, minlength=len(starts)),
        tiles,
    )
    for source, *values in zip(pack.segments["source"].tolist(), *(c.tolist() for c in columns), strict=True):
        found = counts.setdefault(source, Counts())
        found.samples += 1
        found.tokens += values[0]
        found.supervised_tokens += values[1]
        found.images += values[2]
        found.tiles += values[3]
