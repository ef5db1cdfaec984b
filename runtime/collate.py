"""From packs to the micro-batch: packs end to end in one row, targets and image rows as index lists.

Everything is array work in numpy, over all packs at once, without a step a token. What a pack claims is checked against
the model's geometry before the model sees it: an id beyond the embedding table or an image run of the wrong length would
otherwise end as a device-side assertion, or as silence.

Shapes: B packs, T tokens, S segments, K spans, N targets, M tiles, P tokens a tile, I images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtime.batch import Batch, Totals
from runtime.images import tile
from shards.errors import ShardError
from shards.manifest import Geometry
from shards.pack import Pack

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class SourceTable:
    """Keys of sources, as packs hold them, to indices: by binary search, a whole array at a time."""

    def __init__(self, source_index: Mapping[int, int]) -> None:
        keys = sorted(source_index)
        self._keys = np.array(keys, np.uint64)
        self._indices = np.array([source_index[key] for key in keys], np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: npt.NDArray[np.uint64]) -> tuple[Ints, Flags]:
        """The index of each key, and whether it is known; the index of one that is not means nothing."""
        if not len(self):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        place = self._keys.searchsorted(keys)
        known = self._keys.take(place, mode="clip") == keys
        return self._indices.take(place, mode="clip"), known


def collate(
    packs: Sequence[Pack],
    images: Callable[[bytes], bytes],
    geometry: Geometry,
    sources: SourceTable,
) -> tuple[Batch, Totals]:
    """Lay packs end to end as one `Batch` (on the CPU), and add up what is in it.

    `images` gives an image's encoded bytes for its digest. A pack may be empty; if all are, the batch is one segment
    of one pad token, without targets. Raises ShardError if a pack contradicts itself or `geometry`, names an unknown
    source, or its image does not decode.
    """
    row = _Row(packs)
    if not row.tokens and not any(len(pack.segments) for pack in packs):
        return _nothing(geometry), Totals(weights=(0.0,) * len(sources), tokens=0, tiles=0, pairs=0)
    bounds, weights_S, sources_S = _segments(row, sources)
    first_K, lengths_K, segment_K = _spans(row, bounds)
    T, N = row.tokens, int(lengths_K.sum())
    tokens_T, positions_T, predict_N, labels_N, sources_N, memory = _columns((T, T, N, N, N, -(-N // 2)))
    weights_N = memory.view(np.float32)[:N]
    np.concatenate([pack.tokens for pack in packs], out=tokens_T)
    _check_ids(row, tokens_T, geometry)
    image_positions = _image_positions(row, tokens_T, bounds, geometry)

    lengths_S = bounds[1:] - bounds[:-1]
    count = np.arange(T)
    np.subtract(count, np.repeat(bounds[:-1], lengths_S), out=positions_T)
    np.add(count[:N], np.repeat(first_K - 1 - _starts(lengths_K), lengths_K), out=predict_N)
    tokens_T[1:].take(predict_N, out=labels_N, mode="clip")  # all are in range; "raise" would buffer the output
    sources_K, weights_K = sources_S[segment_K], weights_S[segment_K]
    sources_N[:] = np.repeat(sources_K, lengths_K)
    weights_N[:] = np.repeat(weights_K, lengths_K)
    tiles = [_tiles(image, images, geometry) for pack in packs for image in pack.images]
    tiles_M = np.concatenate(tiles) if tiles else np.empty((0, 3, geometry.tile_size, geometry.tile_size), np.uint8)
    totals = Totals(
        weights=tuple(np.bincount(sources_K, weights_K * lengths_K, len(sources)).tolist()),  # float64, exact products
        tokens=T,
        tiles=len(tiles_M),
        pairs=int(lengths_S @ lengths_S),
    )
    batch = Batch(
        tokens_T=torch.from_numpy(tokens_T),
        positions_T=torch.from_numpy(positions_T),
        cu_seqlens=torch.from_numpy(bounds.astype(np.int32)),
        max_seqlen=int(lengths_S.max()),
        predict_N=torch.from_numpy(predict_N),
        labels_N=torch.from_numpy(labels_N),
        weights_N=torch.from_numpy(weights_N),
        sources_N=torch.from_numpy(sources_N),
        tiles_M=torch.from_numpy(tiles_M),
        image_positions=torch.from_numpy(image_positions),
    )
    return batch, totals


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


class _Row:
    """Packs end to end: where each begins, and their tables as one."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self.packs = packs
        *self.starts, self.tokens = accumulate((len(pack.tokens) for pack in packs), initial=0)

    def field(self, table: str, name: str) -> npt.NDArray[Any]:
        """A field of a table of all packs."""
        return _end_to_end([getattr(pack, table)[name] for pack in self.packs])

    def positions(self, table: str, name: str) -> Ints:
        """A field of a table of all packs that is a position in the pack, as position in the row."""
        starts = map(np.int64, self.starts)
        return _end_to_end([getattr(pack, table)[name] + start for pack, start in zip(self.packs, starts, strict=True)])

    def check(self, holds: Flags, table: str, message: str) -> None:
        """Raises ShardError, with the pack, for the first entry of a table for which it does not hold."""
        if not holds.all():
            raise self.error(self.place(table, int(holds.argmin())), message)

    def place(self, table: str, entry: int) -> int:
        """The pack of an entry of a table."""
        ends = np.cumsum([len(getattr(pack, table)) for pack in self.packs])
        return int(np.searchsorted(ends, entry, side="right"))

    def error(self, place: int, message: str) -> ShardError:
        return ShardError(f"pack {place} of the micro-batch, of {len(self.packs[place].tokens)} tokens: {message}")


def _segments(row: _Row, sources: SourceTable) -> tuple[Ints, npt.NDArray[np.float32], Ints]:
    """Where segments begin, and T at last: [S+1]; their weights and the indices of their sources [S]."""
    wrong = "segments must start at 0, ascend, and end within its tokens"
    for place, pack in enumerate(row.packs):
        starts = pack.segments["start"]
        if (not len(starts) or starts[0]) if len(pack.tokens) else len(starts):
            raise row.error(place, wrong)
    bounds = np.empty(sum(len(pack.segments) for pack in row.packs) + 1, np.int64)
    bounds[:-1] = row.positions("segments", "start")
    bounds[-1] = row.tokens
    row.check(bounds[1:] > bounds[:-1], "segments", wrong)  # each pack has one at its start: so all end within theirs
    weights_S = row.field("segments", "weight")
    row.check((weights_S >= 0) & (weights_S < np.inf), "segments", "loss weights must be finite and not negative")
    keys_S = row.field("segments", "source")
    sources_S, known_S = sources.find(keys_S)
    if not known_S.all():
        row.check(
            known_S, "segments", f"a sample is of source {int(keys_S[known_S.argmin()]):#018x}, not in the manifest"
        )
    return bounds, weights_S, sources_S


def _spans(row: _Row, bounds: Ints) -> tuple[Ints, Ints, Ints]:
    """First token, length and segment of every supervised span [K]."""
    wrong = "supervised spans must be ascending, disjoint and within the pack"
    for place, pack in enumerate(row.packs):
        if len(pack.spans) and pack.spans["end"][-1] > len(pack.tokens):
            raise row.error(place, wrong)
    first_K, end_K = row.positions("spans", "start"), row.positions("spans", "end")
    lengths_K = end_K - first_K
    holds = lengths_K > 0
    holds[1:] &= first_K[1:] >= end_K[:-1]
    row.check(holds, "spans", wrong)
    segment_K = bounds.searchsorted(first_K, side="right") - 1
    row.check(
        (bounds[segment_K] < first_K) & (end_K <= bounds[segment_K + 1]),
        "spans",
        "a segment's first token is supervised; it could only be predicted from another sample",
    )
    return first_K, lengths_K, segment_K


def _check_ids(row: _Row, tokens_T: Ints, geometry: Geometry) -> None:
    if tokens_T.view(np.uint64).max() >= geometry.vocab_size:  # so seen, a negative one is above every vocabulary
        row.check(
            (tokens_T >= 0) & (tokens_T < geometry.vocab_size),
            "tokens",
            f"token ids must be in [0, {geometry.vocab_size}), the vocabulary of {geometry.name}",
        )


def _image_positions(row: _Row, tokens_T: Ints, bounds: Ints, geometry: Geometry) -> Ints:
    """Positions of the image rows [M*P], checked: each image is `<img>`, exactly its tiles' run, `</img>`."""
    context_T = tokens_T == geometry.image_context_id
    positions = np.empty(0, np.int64)
    if any(len(pack.images) for pack in row.packs):
        positions = _runs(row, tokens_T, context_T, bounds, geometry)
    if np.count_nonzero(context_T) != len(positions):
        context_T[positions] = False
        first = int(context_T.argmax())
        place = row.place("tokens", first)
        strays = np.count_nonzero(context_T[first : row.starts[place] + len(row.packs[place].tokens)])
        raise row.error(place, f"{strays} image tokens belong to no image")
    return positions


def _runs(row: _Row, tokens_T: Ints, context_T: Flags, bounds: Ints, geometry: Geometry) -> Ints:
    """The positions that the images claim, checked."""
    cols_I, rows_I, thumbnail_I = (row.field("images", name).astype(np.int64) for name in ("cols", "rows", "thumbnail"))
    run_I = (cols_I * rows_I + thumbnail_I) * geometry.tokens_per_tile
    row.check((cols_I > 0) & (rows_I > 0) & (thumbnail_I <= 1), "images", "an image has a grid without tiles")
    first_I, local_I = row.positions("images", "start"), row.field("images", "start")
    last_I = first_I + run_I  # of `</img>`
    ends_I = np.repeat(
        np.array(row.starts) + [len(pack.tokens) for pack in row.packs], [len(pack.images) for pack in row.packs]
    )
    holds = (local_I >= 1) & (last_I < ends_I)
    holds[1:] &= first_I[1:] >= last_I[:-1]
    row.check(holds, "images", "image runs must be ascending, disjoint and within the pack")
    positions = _ranges(first_I, run_I)
    marks = {
        "start": tokens_T[first_I - 1] == geometry.image_start_id,
        "run": np.logical_and.reduceat(context_T[positions], _starts(run_I)),
        "end": tokens_T[last_I] == geometry.image_end_id,
        "sample": bounds.searchsorted(first_I - 1, side="right") == bounds.searchsorted(last_I, side="right"),
    }
    for mark, holds in marks.items():
        if not holds.all():
            bad = int(holds.argmin())
            digest = row.field("images", "digest")[bad].tobytes()
            raise row.error(
                row.place("images", bad),
                f"image {digest.hex()} is {cols_I[bad]} x {rows_I[bad]} tiles{' and a thumbnail' * int(thumbnail_I[bad])}, "
                f"{run_I[bad]} tokens from {local_I[bad]}, but the tokens there are not that ({mark})",
            )
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


def _columns(lengths: Sequence[int]) -> list[Ints]:
    """Arrays of these lengths, not filled, cut from one allocation.

    Because the allocator gives what lies free at its end back to the system once that is much more than the largest
    piece: with many pieces of one size it does so after every micro-batch, and then each of their pages is faulted in
    anew, which takes several times as long as filling them.
    """
    *starts, end = accumulate(lengths, initial=0)
    memory = np.empty(end, np.int64)
    return [memory[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def _end_to_end(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _starts(lengths: Ints) -> Ints:
    """Where each of several runs begins when they are laid end to end."""
    return np.cumsum(lengths) - lengths


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """[starts[0], starts[0] + 1, ..., starts[1], ...]: the integers of several ranges, end to end."""
    return np.arange(lengths.sum()) + np.repeat(starts - _starts(lengths), lengths)
