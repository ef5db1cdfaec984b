"""A copy, in the host's memory, of what a process holds: taken between two steps, written while the next ones run.

Its memory is asked for once and used again, for fresh memory costs more to enter than the copy itself. It lies in
pieces of 64 MiB, so that nothing needs one long stretch, and on a GPU's machine it is pinned, so that the copy goes at
the bus's speed; torch rounds what is pinned up to a power of two, which a piece already is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from runtime.parts import flat_bytes

PIECE = 64 << 20


class HostCopy:
    """Memory for the bytes of tensors, end to end."""

    def __init__(self, device: torch.device) -> None:
        """`device`: where the tensors are."""
        self._device = device
        self._pieces: list[torch.Tensor] = []

    @property
    def size(self) -> int:
        """Bytes there is room for."""
        return sum(piece.numel() for piece in self._pieces)

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes. RuntimeError when the machine has not got it."""
        while (missing := size - self.size) > 0:
            pinned = self._device.type == "cuda"
            piece = torch.empty(min(missing, PIECE), dtype=torch.uint8, pin_memory=pinned)
            self._pieces.append(piece.zero_())  # enter it now

    def take(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Copy them, and return their bytes, end to end, as uint8 pieces, which hold until the next call. There is room."""
        taken: list[torch.Tensor] = []
        pieces = iter(self._pieces)
        room = torch.empty(0, dtype=torch.uint8)
        for tensor in tensors:
            rest = flat_bytes(tensor.detach())
            while rest.numel():
                if not room.numel():
                    room = next(pieces)
                    taken.append(room)
                some = min(room.numel(), rest.numel())
                room[:some].copy_(rest[:some], non_blocking=True)
                room, rest = room[some:], rest[some:]
        if taken:
            taken[-1] = taken[-1][: taken[-1].numel() - room.numel()]
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return taken
