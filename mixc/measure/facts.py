"""The object: a measured fragment, on disk. This file fixes what is in it; `object.py` writes and reads it.

    OBJECT/object.json      ObjectInfo
    OBJECT/facts.parquet    FACTS_SCHEMA, then one column `col:NAME` for each scalar column of the source
    OBJECT/rejects.parquet  REJECTS_SCHEMA
    OBJECT/media.parquet    MEDIA_SCHEMA: which images a row has
    OBJECT/samples.bin      one record a sample (RECORD_HEADER, tokens, spans, images), found by facts.offset
    OBJECT/media.bin        encoded images, each once, found by media.offset

Tokens in a record are *unexpanded*: one <IMG_CONTEXT> stands for the whole run of an image. Spans count unexpanded
tokens; `mixc/emit/expand.py` turns both into what a pack holds. Counts in `facts` are of the expanded sample.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

OBJECT_VERSION = 2

FACTS_SCHEMA = pa.schema(
    [
        ("row", pa.uint64()),
        ("id", pa.uuid()),  # digest of the source's name and the content
        ("content", pa.uuid()),  # digest of the content alone: text, roles, image bytes
        ("columns", pa.uint64()),  # digest of the scalar columns: tells equal content with other columns apart
        ("offset", pa.uint64()),  # of the record in samples.bin
        ("length", pa.uint32()),
        ("tokens", pa.uint32()),  # with image tokens expanded
        ("supervised_tokens", pa.uint32()),
        ("images", pa.uint16()),
        ("tiles", pa.uint32()),  # thumbnails counted
        ("turns", pa.uint16()),  # the user's and the assistant's; 0 for a text
        ("characters", pa.uint32()),  # code points of the text, or of all turns, as they came
        ("width", pa.uint32()),  # of the largest image, pixels; 0 without
        ("height", pa.uint32()),
        ("image_bytes", pa.uint64()),  # encoded; an image that a sample has twice counts twice
    ]
)
"""One row a sample, in row order. The names from `tokens` on are signals: usable in `where` and `order.by`."""

SIGNALS = tuple(FACTS_SCHEMA.names[FACTS_SCHEMA.get_field_index("tokens") :])
COLUMN_PREFIX = "col:"

REJECTS_SCHEMA = pa.schema(
    [
        ("row", pa.uint64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("place", pa.string()),  # Reject.place; objects of earlier versions have no such column
    ]
)

MEDIA_SCHEMA = pa.schema(
    [
        ("row", pa.uint64()),
        ("place", pa.uint16()),  # k-th image of the row
        ("digest", pa.binary(32)),  # blake3 of the encoded bytes
        ("offset", pa.uint64()),  # in media.bin
        ("size", pa.uint64()),
        ("extension", pa.string()),  # jpg, png, webp, ...: by content, not by name
        ("width", pa.uint32()),
        ("height", pa.uint32()),
    ]
)

RECORD_HEADER = np.dtype([("tokens", "<u4"), ("spans", "<u4"), ("images", "<u4"), ("reserved", "<u4")])
"""A record is this header, then tokens as u32, then spans as u32 pairs [start, end), then RECORD_IMAGE rows."""
RECORD_IMAGE = np.dtype(
    [
        ("digest", "V32"),
        ("position", "<u4"),  # index of its <IMG_CONTEXT> among the unexpanded tokens
        ("cols", "u1"),
        ("rows", "u1"),
        ("thumbnail", "u1"),
        ("reserved", "u1"),
    ]
)


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    digest: str
    """The key: digest of all that went into the object (`object_digest` in object.py)."""
    source: str
    fragment: str
    samples: int
    rejects: int
    tokens: int
    columns: dict[str, str]
    """Scalar columns of the source and their Arrow types."""
    fast_tokenizer: bool
    """Whether the fast tokenizer ran (it passed the parity check) or the reference."""
    files: dict[str, int] = {}
    """Bytes of each of the object's other files: an object whose files have other sizes is measured again."""
