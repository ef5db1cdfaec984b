"""Packs one by one, as the columns that a shard is written from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shards.pack import IMAGE_DTYPE, SEGMENT_DTYPE, SPAN_DTYPE, Pack
from shards.packs import Packs


def columns(packs: Sequence[Pack]) -> Packs:
    parts = {
        "tokens": np.zeros(0, np.int32),
        "segments": np.zeros(0, SEGMENT_DTYPE),
        "spans": np.zeros(0, SPAN_DTYPE),
        "images": np.zeros(0, IMAGE_DTYPE),
    }
    joined = {name: np.concatenate([none, *(getattr(pack, name) for pack in packs)]) for name, none in parts.items()}
    ends = {
        f"{name.removesuffix('s')}_ends": np.cumsum([len(getattr(pack, name)) for pack in packs], dtype=np.int64)
        for name in parts
    }
    return Packs(**joined, **ends)
