"""The geometry of SAIL-VL-2B, with the ids that Qwen's tokenizer gives its tokens."""

from __future__ import annotations

from mixc.measure.family import FAMILIES
from shards.manifest import Geometry

NAME = "sail-vl-2b"
_FAMILY = FAMILIES[NAME]
GEOMETRY = Geometry(
    name=NAME,
    tile_size=_FAMILY.tile_size,
    tokens_per_tile=_FAMILY.tokens_per_tile,
    max_tiles=_FAMILY.max_tiles,
    min_tiles=_FAMILY.min_tiles,
    thumbnail=_FAMILY.thumbnail,
    vocab_size=_FAMILY.vocab_size,
    image_start_id=151669,
    image_end_id=151670,
    image_context_id=151671,
    pad_id=151643,
)
