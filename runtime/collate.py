"""From packs to the micro-batch: packs end to end in one row, targets and image rows as index lists.

Everything is array work in numpy, without a step a token. What a pack claims is checked against the model's
geometry before the model sees it: an id beyond the embedding table or an image run of the wrong length would
otherwise end as a device-side assertion, or as silence.

Shapes: T tokens, S segments, N targets, M tiles, P tokens a tile, I images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runtime.batch import Batch
from runtime.images import tile
from shards.errors import ShardError
from shards.manifest import Geometry
from shards.pack import Pack

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What one pack gives to the row; positions count from the pack's first token."""

    tokens_T: Ints
    lengths_S: Ints
    positions_T: Ints
    targets_N: Ints
    weights_N: npt.NDArray[np.float32]
    sources_N: Ints
    image_positions: Ints


def collate(
    packs: Sequence[Pack],
    images: Callable[[bytes], bytes],
    geometry: Geometry,
    source_index: Mapping[int, int],
) -> Batch:
    """Lay packs end to end as one `Batch` (on the CPU).

    `images` gives an image's encoded bytes for its digest; `source_index` maps a source's key, as packs hold
    it, to its index. A pack may be empty; if all are, the batch is one segment of one pad token, without
    targets. Raises ShardError if a pack contradicts itself or `geometry`, names an unknown source, or its
    image does not decode.
    """
    sources = _SourceTable(source_index)
    rows = [
        _row(pack, geometry, sources, f"pack {place} of the micro-batch")
        for place, pack in enumerate(packs)
        if len(pack.tokens) or len(pack.segments)
    ]
    if not rows:
        return _nothing(geometry)
    offsets = _starts(np.array([len(row.tokens_T) for row in rows], np.int64))
    tokens_T = np.concatenate([row.tokens_T for row in rows])
    lengths_S = np.concatenate([row.lengths_S for row in rows])
    targets_N = np.concatenate([row.targets_N + offset for row, offset in zip(rows, offsets, strict=True)])
    tiles = [_tiles(image, images, geometry) for pack in packs for image in pack.images]
    side = geometry.tile_size
    return Batch(
        tokens_T=torch.from_numpy(tokens_T),
        positions_T=torch.from_numpy(np.concatenate([row.positions_T for row in rows])),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths_S)]).astype(np.int32)),
        max_seqlen=int(lengths_S.max()),
        predict_N=torch.from_numpy(targets_N - 1),
        labels_N=torch.from_numpy(tokens_T[targets_N]),
        weights_N=torch.from_numpy(np.concatenate([row.weights_N for row in rows])),
        sources_N=torch.from_numpy(np.concatenate([row.sources_N for row in rows])),
        tiles_M=torch.from_numpy(np.concatenate(tiles) if tiles else np.empty((0, 3, side, side), np.uint8)),
        image_positions=torch.from_numpy(
            np.concatenate([row.image_positions + offset for row, offset in zip(rows, offsets, strict=True)])
        ),
    )


def _nothing(geometry: Geometry) -> Batch:
    """A rank dealt nothing but empty packs still takes part in every collective: one token, no targets."""
    none = torch.empty(0, dtype=torch.int64)
    return Batch(
        tokens_T=torch.tensor([geometry.pad_id]),
        positions_T=torch.tensor([0]),
        cu_seqlens=torch.tensor([0, 1], dtype=torch.int32),
        max_seqlen=1,
        predict_N=none,
        labels_N=none,
        weights_N=torch.empty(0, dtype=torch.float32),
        sources_N=none,
        tiles_M=torch.empty((0, 3, geometry.tile_size, geometry.tile_size), dtype=torch.uint8),
        image_positions=none,
    )


def _row(pack: Pack, geometry: Geometry, sources: _SourceTable, where: str) -> _Row:
    tokens_T = pack.tokens.astype(np.int64)
    if not len(tokens_T) or tokens_T.min() < 0 or tokens_T.max() >= geometry.vocab_size:
        raise ShardError(f"{where}: token ids must be in [0, {geometry.vocab_size}), the vocabulary of {geometry.name}")

    starts_S = pack.segments["start"].astype(np.int64)
    lengths_S = np.diff(starts_S, append=len(tokens_T))
    if not len(starts_S) or starts_S[0] != 0 or lengths_S.min() <= 0:
        raise ShardError(f"{where}: segments must start at 0, ascend, and end within its {len(tokens_T)} tokens")
    positions_T = np.arange(len(tokens_T)) - np.repeat(starts_S, lengths_S)
    segment_T = np.repeat(np.arange(len(starts_S)), lengths_S)

    begin, end = pack.spans["start"].astype(np.int64), pack.spans["end"].astype(np.int64)
    if len(begin) and ((end <= begin).any() or (begin[1:] < end[:-1]).any() or end[-1] > len(tokens_T)):
        raise ShardError(f"{where}: supervised spans must be ascending, disjoint and within the pack")
    targets_N = _ranges(begin, end - begin)
    if (positions_T[targets_N] == 0).any():
        raise ShardError(
            f"{where}: a segment's first token is supervised; it could only be predicted from another sample"
        )
    weights = pack.segments["weight"].astype(np.float32)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ShardError(f"{where}: loss weights must be finite and not negative")

    return _Row(
        tokens_T=tokens_T,
        lengths_S=lengths_S,
        positions_T=positions_T,
        targets_N=targets_N,
        weights_N=weights[segment_T[targets_N]],
        sources_N=sources.index(pack.segments["source"], where)[segment_T[targets_N]],
        image_positions=_image_positions(pack, tokens_T, segment_T, geometry, where),
    )


def _image_positions(pack: Pack, tokens_T: Ints, segment_T: Ints, geometry: Geometry, where: str) -> Ints:
    """Positions of the image rows [M*P], checked: each image is `<img>`, exactly its tiles' run, `</img>`."""
    images = pack.images
    first = images["start"].astype(np.int64)
    tiles_I = images["cols"].astype(np.int64) * images["rows"] + images["thumbnail"]
    run_I = tiles_I * geometry.tokens_per_tile
    last = first + run_I  # of `</img>`
    if (images["cols"] == 0).any() or (images["rows"] == 0).any() or (images["thumbnail"] > 1).any():
        raise ShardError(f"{where}: an image has a grid without tiles")
    if len(first) and (first.min() < 1 or (first[1:] < last[:-1]).any() or last.max() >= len(tokens_T)):
        raise ShardError(f"{where}: image runs must be ascending, disjoint and within the pack")
    positions = _ranges(first, run_I)
    marks = {
        "start": tokens_T[first - 1] == geometry.image_start_id,
        "run": np.logical_and.reduceat(tokens_T[positions] == geometry.image_context_id, _starts(run_I))
        if len(first)
        else np.empty(0, bool),
        "end": tokens_T[last] == geometry.image_end_id,
        "sample": segment_T[first - 1] == segment_T[last],
    }
    for mark, holds in marks.items():
        if not holds.all():
            bad = int(np.flatnonzero(~holds)[0])
            raise ShardError(
                f"{where}: image {images['digest'][bad].tobytes().hex()} is {images['cols'][bad]} x "
                f"{images['rows'][bad]} tiles{' and a thumbnail' * int(images['thumbnail'][bad])}, "
                f"{run_I[bad]} tokens from {first[bad]}, but the tokens there are not that ({mark})"
            )
    strays = int((tokens_T == geometry.image_context_id).sum() - len(positions))
    if strays:
        raise ShardError(f"{where}: {strays} image tokens belong to no image")
    return positions


def _tiles(image: np.void, images: Callable[[bytes], bytes], geometry: Geometry) -> npt.NDArray[np.uint8]:
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


class _SourceTable:
    """Keys to indices by binary search, a whole array at a time."""

    def __init__(self, source_index: Mapping[int, int]) -> None:
        keys = sorted(source_index)
        self._keys = np.array(keys, np.uint64)
        self._indices = np.array([source_index[key] for key in keys], np.int64)

    def index(self, sources: npt.NDArray[np.uint64], where: str) -> Ints:
        place = np.searchsorted(self._keys, sources)
        known = place < len(self._keys)
        known[known] = self._keys[place[known]] == sources[known]
        if not known.all():
            raise ShardError(f"{where}: a sample is of source {int(sources[~known][0]):#018x}, not in the manifest")
        return self._indices[place]


def _starts(lengths: Ints) -> Ints:
    """Where each of several runs begins when they are laid end to end."""
    return np.cumsum(lengths) - lengths


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """[starts[0], starts[0] + 1, ..., starts[1], ...]: the integers of several ranges, end to end."""
    return np.arange(lengths.sum()) + np.repeat(starts - _starts(lengths), lengths)
