"""Which bytes each token stands for: text out of tokens at the speed of copying, and where in it each token ends.

A byte-level tokenizer (GPT-2's kind, as Qwen's) writes every byte as a letter, so its vocabulary says the bytes of each token,
and the text of many is those of each, end to end. Of another kind of tokenizer that is not so; it has no spelling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixc.measure.qwen import byte_letters
from mixc.measure.tokenizer import Tokenizer
from shards.jit import jit

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

BREAK = b"\xff"
"""Stands for control tokens where text is searched: no UTF-8 has it, so nothing is found across one."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """Bytes of the tokens 0 to N - 1, those of token t being letters[starts[t]:starts[t + 1]]; and of N, which stands for every
    token beyond and has none."""

    letters: U8
    starts: I64  # [N + 2]

    @classmethod
    def of(cls, bytes_by_id: Mapping[int, bytes]) -> Spelling:
        size = max(bytes_by_id, default=-1) + 1
        parts = [bytes_by_id.get(id, b"") for id in range(size + 1)]
        starts = np.zeros(size + 2, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), starts)

    def spell(self, tokens: npt.NDArray[np.int32]) -> tuple[bytes, I64]:
        """The bytes of tokens int32 [T], and where those of each end, int64 [T]."""
        known = np.minimum(tokens, len(self.starts) - 2).astype(np.int64)
        ends = np.cumsum(self.starts[known + 1] - self.starts[known])
        out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        _copying()(self.letters, self.starts, known, out)
        return out.tobytes(), ends


def spelling(tokenizer: Tokenizer, special: Callable[[str], bytes] = str.encode) -> Spelling | None:
    """The spelling of a byte-level tokenizer, None of another. `special` says how added tokens are spelled, by their names."""
    letters = tokenizer.byte_level_vocabulary
    if letters is None:
        return None
    bytes_of = {letter: byte for byte, letter in byte_letters().items()}
    added = {id: special(name) for name, id in tokenizer.added.items()}
    found = {id: bytes(map(bytes_of.__getitem__, token)) for token, id in letters.items() if id not in added}
    return Spelling.of({**found, **added})


def _copy(letters: Any, starts: Any, tokens: Any, out: Any) -> Any:
    at = 0
    for t in tokens:
        for i in range(starts[t], starts[t + 1]):
            out[at] = letters[i]
            at += 1
    return at


@functools.cache
def _copying() -> Callable[..., int]:
    """(letters u8, starts int64 [N + 2], tokens int64 [T], out u8): writes the bytes of each token after those of the one
    before, which must all fit."""
    from numba import types

    words = types.Array(types.int64, 1, "C", readonly=True)
    return jit(
        _copy,
        signature=types.int64(
            types.Array(types.uint8, 1, "C", readonly=True), words, words, types.Array(types.uint8, 1, "C")
        ),
    )
