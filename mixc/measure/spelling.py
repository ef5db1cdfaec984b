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
        measure, copy = _kernels()
        ends = np.empty(len(tokens), np.int64)
        out = np.empty(measure(self.starts, tokens, ends), np.uint8)
        copy(self.letters, self.starts, tokens, out)
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


def _measure(starts: Any, tokens: Any, ends: Any) -> Any:
    at: Any = 0
    beyond = len(starts) - 2
    for i in range(len(tokens)):
        t: Any = min(np.int64(tokens[i]), beyond)
        at += starts[t + 1] - starts[t]
        ends[i] = at
    return at


def _copy(letters: Any, starts: Any, tokens: Any, out: Any) -> Any:
    at: Any = 0
    beyond = len(starts) - 2
    for i in range(len(tokens)):
        t: Any = min(np.int64(tokens[i]), beyond)
        for k in range(starts[t], starts[t + 1]):
            out[at] = letters[k]
            at += 1
    return at


@functools.cache
def _kernels() -> tuple[Callable[..., int], Callable[..., int]]:
    """(starts int64 [N + 2], tokens int32 [T], ends int64 [T]): fills in where the bytes of each token end, gives their number.
    (letters u8, starts, tokens, out u8): writes that many bytes."""
    from numba import types

    letters = types.Array(types.uint8, 1, "C", readonly=True)
    starts = types.Array(types.int64, 1, "C", readonly=True)
    tokens = types.Array(types.int32, 1, "C", readonly=True)
    ends, out = types.Array(types.int64, 1, "C"), types.Array(types.uint8, 1, "C")
    return (
        jit(_measure, signature=types.int64(starts, tokens, ends)),
        jit(_copy, signature=types.int64(letters, starts, tokens, out)),
    )
