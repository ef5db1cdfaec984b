"""From a sample's record to what stands in a pack: image runs at full length, spans moved with them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE, Pack

U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Expanded:
    """A sample, or a piece of one, as it stands in a pack. Positions count from its own first token."""

    tokens: U32  # [T]
    spans: U32  # [K, 2]: tokens [start, end) are supervised
    images: npt.NDArray[np.void]  # IMAGE_DTYPE [I]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One sample's place in a pack: what the plan says of it, and its expanded content."""

    id: bytes  # 16 bytes
    source: int  # source_key of its source's name
    epoch: int
    piece: int
    weight: float
    content: Expanded


def expand(tokens: U32, spans: U32, images: npt.NDArray[np.void], *, tokens_per_tile: int) -> Expanded:
    """Repeat each image's one `<IMG_CONTEXT>` for all of its tiles, and move spans and image positions along.

    `tokens` uint32 [n], `spans` uint32 [k, 2], `images` RECORD_IMAGE [i], all counted in unexpanded tokens.
    """
    counts = np.ones(len(tokens), dtype=np.int64)
    if len(images):
        tiles = images["cols"].astype(np.int64) * images["rows"] + images["thumbnail"]
        counts[images["position"]] = tiles * tokens_per_tile
    before = np.zeros(len(tokens) + 1, dtype=np.int64)  # expanded tokens before unexpanded token i
    np.cumsum(counts, out=before[1:])
    out = np.zeros(len(images), dtype=IMAGE_DTYPE)
    for name in ("digest", "cols", "rows", "thumbnail"):
        out[name] = images[name]
    out["start"] = before[images["position"]]
    return Expanded(np.repeat(tokens, counts), before[spans].astype(np.uint32), out)


def cut(sample: Expanded, start: int, end: int) -> Expanded:
    """Tokens [start, end) of a sample. The first token of a piece has nothing before it to be predicted from, so it is
    never supervised. Only samples without images are ever cut."""
    if start == 0 and end == len(sample.tokens):
        return sample
    spans = np.clip(sample.spans.astype(np.int64) - start, 1, end - start)
    return Expanded(sample.tokens[start:end], spans[spans[:, 0] < spans[:, 1]].astype(np.uint32), sample.images[:0])


def assemble(segments: Sequence[Segment]) -> Pack:
    """Lay samples end to end. An empty sequence gives the empty pack."""
    lengths = np.array([len(s.content.tokens) for s in segments], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])[: len(segments)]
    table = np.zeros(len(segments), dtype=SEGMENT_DTYPE)
    for i, segment in enumerate(segments):
        table[i] = (segment.id, segment.source, starts[i], segment.epoch, segment.piece, segment.weight)
    spans = np.zeros(sum(len(s.content.spans) for s in segments), dtype=SPAN_DTYPE)
    images = np.zeros(sum(len(s.content.images) for s in segments), dtype=IMAGE_DTYPE)
    k = i = 0
    for start, segment in zip(starts, segments, strict=True):
        content = segment.content
        spans["start"][k : k + len(content.spans)] = content.spans[:, 0] + start
        spans["end"][k : k + len(content.spans)] = content.spans[:, 1] + start
        k += len(content.spans)
        images[i : i + len(content.images)] = content.images
        images["start"][i : i + len(content.images)] += np.uint32(start)
        i += len(content.images)
    tokens = np.concatenate([s.content.tokens for s in segments]) if segments else np.zeros(0, np.uint32)
    return Pack(tokens=tokens.astype(np.int32), segments=table, spans=spans, images=images)
