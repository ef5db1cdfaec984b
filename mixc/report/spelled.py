"""Text to look through, in the bytes that tokens spell, and tasks that do so in threads.

A tokenizer that is not byte-level has no such bytes: each sample is decoded, at a fraction of the speed. `<think>` and
`</think>` are text here: an answer had them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mixc.measure.family import IMAGE_CONTEXT
from mixc.measure.spelling import BREAK, spelling
from mixc.measure.template import THINK_TAGS
from mixc.measure.tokenizer import Tokenizer

S = TypeVar("S")
T = TypeVar("T")
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Spell = Callable[[I32, I64], tuple[bytes, I64]]
Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

WRITTEN = {IMAGE_CONTEXT: b"", **{tag: tag.encode() for tag in THINK_TAGS}}
"""Control tokens that are looked through as text; all others are BREAK."""
AROUND = 40
"""Bytes of context on either side of what was found."""


def speller(tokenizer: Tokenizer) -> Spell:
    """A function from the tokens of some samples, int32 [T], and where those of each begin, int64 [S], to their text in bytes,
    control tokens as BREAK and without images' places, and to where the bytes of each sample end, int64 [S]. Tags of thoughts are spelled: that they are one token each is a matter of the model's."""
    table = spelling(tokenizer, lambda name: WRITTEN.get(name, BREAK))
    if table is not None:

        def spell(tokens: I32, starts: I64) -> tuple[bytes, I64]:
            data, ends = table.spell(tokens)
            lasts = np.append(starts[1:], len(tokens)) - 1
            return data, ends[lasts] if len(starts) else ends

        return spell

    context = tokenizer.added.get(IMAGE_CONTEXT)
    controls = {id for name, id in tokenizer.added.items() if name not in THINK_TAGS}

    def decode(tokens: I32, starts: I64) -> tuple[bytes, I64]:
        parts = []
        for start, end in pairwise([*starts.tolist(), len(tokens)]):
            text, run = bytearray(), list[int]()
            for token in [*tokens[start:end].tolist(), None]:
                if token is not None and token not in controls:
                    run.append(token)
                    continue
                text += tokenizer.decode(run).encode() if run else b""
                text += b"" if token in (None, context) else BREAK
                run = []
            parts.append(bytes(text))
        return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)

    return decode


def excerpt(data: bytes, at: int, length: int) -> str:
    """What was found at `at`, with some of what stands around it."""
    before, after = data[max(0, at - AROUND) : at], data[at + length : at + length + AROUND]
    before, after = before[before.rfind(BREAK) + 1 :], after.partition(BREAK)[0]
    text = (before + data[at : at + length] + after).decode(errors="ignore")
    return " ".join(text.split())


def in_order(run: Callable[[S], T], tasks: Iterable[S], workers: int) -> Iterator[T]:
    """What `run` makes of each task, in their order, `workers` of them at once and some more waiting."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(run, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
