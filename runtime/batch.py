"""One micro-batch on its way from packs to the model: a row as a loader process makes it, and the batch as the model takes it.

Shapes: T tokens of all packs end to end, S segments, K supervised spans, N supervised targets, I images, M tiles, P tokens
a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Packs laid end to end as one row; samples are told apart by `cu_seqlens` alone, so packs need no padding."""

    tokens_T: torch.Tensor  # int64 [T]
    positions_T: torch.Tensor  # int64 [T], restart at 0 in every segment
    cu_seqlens: torch.Tensor  # int32 [S+1]
    max_seqlen: int
    predict_N: torch.Tensor  # int64 [N]: position whose logits predict the target (target position - 1)
    labels_N: torch.Tensor  # int64 [N]: the token there
    weights_N: torch.Tensor  # float32 [N]: loss weight of the target
    sources_N: torch.Tensor  # int64 [N]: index of the target's source in the manifest's sorted source names
    tiles_M: torch.Tensor  # uint8 [M, 3, side, side]; M may be 0
    image_positions: torch.Tensor  # int64 [M*P]: where the tiles' rows go in the token row, in order


def words_of(tokens: int, segments: int, spans: int, images: int) -> int:
    """Words of a row."""
    return tokens + segments + 1 + 4 * spans + 2 * images


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A batch in a tenth of its bytes, 4 a token: spans and runs are not yet an index a token.

    So a loader process has less to write, to hand over and to move to the device, where `expand` costs next to nothing.
    """

    words: torch.Tensor
    """int32 [words_of(T, S, K, I)], end to end: token ids [T]; where segments begin, and T at last [S+1]; of the spans their first
    tokens [K], lengths [K], indices of sources [K] and weights, the bits of float32 [K]; of the images' runs their first
    tokens [I] and lengths [I]."""
    tokens: int  # T
    segments: int  # S
    spans: int  # K
    images: int  # I
    targets: int  # N
    max_seqlen: int
    tiles_M: torch.Tensor  # uint8 [M, 3, side, side]
    image_rows: int  # M*P

    def __reduce__(self) -> tuple[object, ...]:
        """Its words go through the pipe, for a tensor is handed over in a shared memory of its own, which costs more than
        these few bytes. Tiles are many bytes, if there are any."""
        numbers = (self.tokens, self.segments, self.spans, self.images, self.targets, self.max_seqlen, self.image_rows)
        tiles = self.tiles_M if len(self.tiles_M) else self.tiles_M.shape
        return _again, (self.words.numpy(), numbers, tiles)

    def each(self, do: Callable[[torch.Tensor], torch.Tensor]) -> Row:
        """The row with `do` done to its tensors."""
        return replace(self, words=do(self.words), tiles_M=do(self.tiles_M))

    def expand(self) -> Batch:
        """The batch, on the row's device. Nothing is copied from or to another, and nothing waits for one."""
        T, S, K, images = self.tokens, self.segments, self.spans, self.images
        parts = self.words.split([T, S + 1, K, K, K, K, images, images])
        tokens_T, cu_seqlens, first_K, length_K, source_K, weight_K, first_I, length_I = parts
        tokens_T = tokens_T.long()
        cu_seqlens = cu_seqlens.clone()  # aligned, as kernels for attention want it
        span_N = _owners(length_K, self.targets)
        predict_N = _places(first_K - 1, length_K, self.targets, span_N)
        return Batch(
            tokens_T=tokens_T,
            positions_T=_places(torch.zeros_like(cu_seqlens[1:]), cu_seqlens.diff(), T),
            cu_seqlens=cu_seqlens,
            max_seqlen=self.max_seqlen,
            predict_N=predict_N,
            labels_N=tokens_T.index_select(0, predict_N + 1),
            weights_N=weight_K.view(torch.float32).index_select(0, span_N),
            sources_N=source_K.long().index_select(0, span_N),
            tiles_M=self.tiles_M,
            image_positions=_places(first_I, length_I, self.image_rows),
        )


def _owners(lengths: torch.Tensor, total: int) -> torch.Tensor:
    """For each of `total` items of ranges laid end to end, the number of its range: int64 [total]."""
    return torch.repeat_interleave(lengths, output_size=total).long()  # with the size given, no device is asked for it


def _places(first: torch.Tensor, lengths: torch.Tensor, total: int, owners: torch.Tensor | None = None) -> torch.Tensor:
    """[first[0], first[0] + 1, ..., first[1], ...]: the integers of ranges, end to end, int64 [total]."""
    offsets = first.long() - (lengths.cumsum(0) - lengths)
    owners = _owners(lengths, total) if owners is None else owners
    return torch.arange(total, device=lengths.device) + offsets.index_select(0, owners)


def _again(words: npt.NDArray[np.int32], numbers: tuple[int, ...], tiles: torch.Tensor | torch.Size) -> Row:
    tokens, segments, spans, images, targets, max_seqlen, image_rows = numbers
    return Row(
        words=torch.from_numpy(words),
        tokens=tokens,
        segments=segments,
        spans=spans,
        images=images,
        targets=targets,
        max_seqlen=max_seqlen,
        tiles_M=torch.empty(tiles, dtype=torch.uint8) if isinstance(tiles, torch.Size) else tiles,
        image_rows=image_rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a micro-batch adds up to, for the books; plain numbers, known before its tensors are on a device."""

    weights: tuple[float, ...]
    """Loss weight of the targets of each source, summed, by index of source."""
    tokens: int
    tiles: int
    pairs: int
    """Sum of squared segment lengths: what attention works through."""
