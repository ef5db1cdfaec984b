"""Samples' tokens as columns, and the records in which an object keeps them. Pure.

A record is RECORD_HEADER, then the tokens, the spans and the images of one sample (facts.py). All of these are made of
32-bit words, so many records are one array of words, made and taken apart without a step a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixc.measure.facts import RECORD_HEADER, RECORD_IMAGE
from mixc.sorting import ranges

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

WORD = 4
"""Bytes."""
HEADER_WORDS = RECORD_HEADER.itemsize // WORD
IMAGE_WORDS = RECORD_IMAGE.itemsize // WORD


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """S samples end to end; images not expanded. `ends` are where each sample's part ends."""

    tokens: U32  # [T]
    token_ends: I64  # [S]
    spans: U32  # [K, 2]: tokens [start, end) of the sample are supervised
    span_ends: I64  # [S]
    images: npt.NDArray[np.void]  # RECORD_IMAGE [I]
    image_ends: I64  # [S]

    def __len__(self) -> int:
        return len(self.token_ends)


def encode(records: Records) -> tuple[U32, I64]:
    """The records as words [W], and the length of each in bytes [S]."""
    tokens, spans, images = (
        np.diff(ends, prepend=0) for ends in (records.token_ends, records.span_ends, records.image_ends)
    )
    lengths = HEADER_WORDS + tokens + 2 * spans + IMAGE_WORDS * images
    starts = np.cumsum(lengths) - lengths
    words = np.zeros(int(lengths.sum()), np.uint32)
    for place, counts in enumerate((tokens, spans, images)):
        words[starts + place] = counts
    at = starts + HEADER_WORDS
    words[ranges(at, tokens)] = records.tokens
    words[ranges(at + tokens, 2 * spans)] = records.spans.reshape(-1)
    words[ranges(at + tokens + 2 * spans, IMAGE_WORDS * images)] = np.ascontiguousarray(records.images).view("<u4")
    return words, lengths * WORD


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the parts of each record stand among words: int64 [R] each, in words."""

    at: I64
    """Of the first token."""
    tokens: I64
    spans: I64
    images: I64

    @property
    def span_words(self) -> I64:
        """Where the words of all spans stand, record after record, int64 [2 K]."""
        return ranges(self.at + self.tokens, 2 * self.spans)

    @property
    def image_words(self) -> I64:
        """Where the words of all images stand, record after record, int64 [IMAGE_WORDS * I]."""
        return ranges(self.at + self.tokens + 2 * self.spans, IMAGE_WORDS * self.images)


def parts(words: U32, starts: I64, lengths: I64) -> Parts:
    """Read the headers of the records [start, start + length) of `words`, in words. Raises ValueError, with the place of
    the first in `starts`, when one is no record of its length."""
    fits = (starts >= 0) & (lengths >= HEADER_WORDS) & (starts + lengths <= len(words))
    safe = np.where(fits, starts, 0)
    if len(words) >= HEADER_WORDS:
        tokens, spans, images, reserved = (words[safe + place].astype(np.int64) for place in range(HEADER_WORDS))
        fits &= (HEADER_WORDS + tokens + 2 * spans + IMAGE_WORDS * images == lengths) & (reserved == 0)
    if not fits.all():
        raise ValueError(int(np.flatnonzero(~fits)[0]))
    if not len(starts):
        tokens = spans = images = np.zeros(0, np.int64)
    return Parts(at=starts + HEADER_WORDS, tokens=tokens, spans=spans, images=images)
