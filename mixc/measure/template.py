"""The chat template: what a sample's turns become, token by token, and which tokens are supervised.

`univl-chat` is the template of SAIL-VL2-2B's released conversation.py ("MPT" style: no newline after <|im_end|>):

    <|im_start|>system\\n{SYSTEM}<|im_end|><|im_start|>user\\n{USER}<|im_end|><|im_start|>assistant\\n{ANSWER}<|im_end|>

A sample becomes *segments*: special tokens, by name, and stretches of plain text, each tokenised alone and with no
special token recognised inside. So whatever a user's text says, only the template opens and ends a turn. An answer is
tokenised apart from the "assistant\\n" before it, because that is where inference starts from, and because only so are
the supervised tokens exactly the answer's and its <|im_end|>.

The k-th `<image>` in the user turns of a sample with images becomes <img><IMG_CONTEXT></img>, the one <IMG_CONTEXT>
standing for the image's whole run (mixc/emit/expand.py). A text is its tokens and <|endoftext|>, all but the first
supervised. Everything here is pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from mixc.measure.family import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, known
from mixc.sources.sample import IMAGE_PLACEHOLDER, Sample, Turn

TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

U32 = npt.NDArray[np.uint32]


class Segment(NamedTuple):
    text: str
    """Plain text, or the name of a special token."""
    special: bool = False
    supervised: bool = False


class Tokens(NamedTuple):
    """A sample as tokens, images not yet expanded."""

    ids: U32  # [T]
    spans: U32  # [K, 2]: tokens [start, end) are supervised; ascending, disjoint, never token 0
    images: U32  # [I]: index of each image's <IMG_CONTEXT>


@dataclass(frozen=True)
class Template:
    name: str
    system: str | None
    """Used when a conversation has no system turn of its own; None: such a conversation begins with its user."""

    def segments(self, sample: Sample) -> list[Segment]:
        """A sample's segments, in order. `sample.text` or `sample.turns`, and the number of `sample.images`, decide."""
        if sample.text is not None:
            return [Segment(sample.text, supervised=True), Segment(TEXT_END, special=True, supervised=True)]
        turns = sample.turns
        if self.system is not None and (not turns or turns[0].role != "system"):
            turns = (Turn("system", self.system), *turns)
        return [segment for turn in turns for segment in _turn(turn, bool(sample.images))]

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every special token that `segments` can use: a tokenizer must have them all."""
        return TURN_START, TURN_END, TEXT_END, IMAGE_START, IMAGE_CONTEXT, IMAGE_END

    @cached_property
    def digest(self) -> str:
        """blake3 of what the template makes of two fixed samples: it changes when, and only when, its output does."""
        chat = Sample(row=0, turns=(Turn("user", "a<image>b"), Turn("assistant", "c")), images=(b"",))
        own_system = Sample(row=0, turns=(Turn("system", "s"), *chat.turns, *chat.turns), images=(b"", b""))
        made = [self.segments(sample) for sample in (chat, own_system, Sample(row=0, text="t"))]
        return blake3(json.dumps([self.name, made], ensure_ascii=False).encode()).hexdigest()


def _turn(turn: Turn, with_images: bool) -> Iterator[Segment]:
    yield Segment(TURN_START, special=True)
    if turn.role == "assistant":
        yield Segment("assistant\n")
        yield Segment(turn.text, supervised=True)
    elif turn.role == "user" and with_images:
        before, *after = turn.text.split(IMAGE_PLACEHOLDER)
        yield Segment(f"user\n{before}")
        for text in after:
            yield Segment(IMAGE_START, special=True)
            yield Segment(IMAGE_CONTEXT, special=True)
            yield Segment(IMAGE_END, special=True)
            yield Segment(text)
    else:
        yield Segment(f"{turn.role}\n{turn.text}")
    yield Segment(TURN_END, special=True, supervised=turn.role == "assistant")


def tokenize(
    samples: Iterable[Sequence[Segment]],
    encode: Callable[[Sequence[str]], tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]],
    special: Callable[[str], int],
) -> list[Tokens]:
    """Segments of many samples to tokens, every distinct text encoded once, all in one call of `encode`.

    `encode` and `special` are a Tokenizer's `encode_plain` and `special`.
    """
    samples = list(samples)
    number: dict[str, int] = {}
    for segments in samples:
        for segment in segments:
            if not segment.special:
                number.setdefault(segment.text, len(number))
    ids, offsets = encode(list(number))
    return [_join(segments, number, ids, offsets.tolist(), special) for segments in samples]


def _join(
    segments: Sequence[Segment],
    number: dict[str, int],
    ids: U32,
    offsets: list[int],
    special: Callable[[str], int],
) -> Tokens:
    pieces: list[U32] = []
    spans: list[list[int]] = []
    images: list[int] = []
    at = 0
    for segment in segments:
        if segment.special:
            piece = np.array([special(segment.text)], np.uint32)
            if segment.text == IMAGE_CONTEXT:
                images.append(at)
        else:
            text = number[segment.text]
            piece = ids[offsets[text] : offsets[text + 1]]
        end = at + len(piece)
        if segment.supervised and end > max(at, 1):
            if spans and spans[-1][1] == at:
                spans[-1][1] = end
            else:
                spans.append([max(at, 1), end])  # nothing stands before token 0 to predict it from
        pieces.append(piece)
        at = end
    return Tokens(np.concatenate(pieces), np.array(spans, np.uint32).reshape(-1, 2), np.array(images, np.uint32))


TEMPLATES = {
    template.name: template
    for template in [
        # The name and the system message are verbatim from SAIL-VL2-2B's conversation.py.
        Template(
            "univl-chat",
            "你是由抖音内容理解组开发的多模态大模型，英文名叫UniVL, 是一个有用无害的人工智能助手。",
        ),
        # ChatML as it is, without a default system message: for data that must not learn one.
        Template("chatml", None),
    ]
}


def template_named(name: str) -> Template:
    """Raises SpecError, with a suggestion, when there is none of that name."""
    return known(name, TEMPLATES, noun="chat template", where="template")
