"""Many packs as columns: what the compiler hands over for a whole shard at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.pack import Pack

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packs:
    """Consecutive packs, end to end. Positions (segments["start"], spans, images["start"]) count from the pack's own first
    token; `ends` are where each pack's part ends."""

    tokens: npt.NDArray[np.int32]  # [T]
    segments: npt.NDArray[np.void]  # SEGMENT_DTYPE [S]
    spans: npt.NDArray[np.void]  # SPAN_DTYPE [K]
    images: npt.NDArray[np.void]  # IMAGE_DTYPE [M]
    token_ends: I64  # [P]
    segment_ends: I64  # [P]
    span_ends: I64  # [P]
    image_ends: I64  # [P]

    def __len__(self) -> int:
        """Packs, empty ones included."""
        return len(self.token_ends)

    def __getitem__(self, i: int) -> Pack:
        """Pack `i`, as views. IndexError beyond the last."""
        if not 0 <= i < len(self):
            raise IndexError(f"pack {i} of {len(self)}")

        def part(ends: I64) -> slice:
            return slice(int(ends[i - 1]) if i else 0, int(ends[i]))

        return Pack(
            tokens=self.tokens[part(self.token_ends)],
            segments=self.segments[part(self.segment_ends)],
            spans=self.spans[part(self.span_ends)],
            images=self.images[part(self.image_ends)],
        )
