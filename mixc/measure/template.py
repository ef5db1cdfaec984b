"""The chat template: what a sample's turns become, token by token, and which tokens are supervised.

`univl-chat` is the template of SAIL-VL2-2B's released conversation.py ("MPT" style: no newline after <|im_end|>):

    <|im_start|>system\\n{SYSTEM}<|im_end|><|im_start|>user\\n{USER}<|im_end|><|im_start|>assistant\\n{ANSWER}<|im_end|>

A sample becomes *segments*: special tokens, by name, and stretches of plain text, each tokenised alone and with no
special token recognised inside. So whatever a user's text says, only the template opens and ends a turn. An answer is
tokenised apart from the "assistant\\n" before it, because that is where inference starts from, and because only so are
the supervised tokens exactly the answer's and its <|im_end|>.

A template of a model that thinks cuts answers, and nothing else, at `<think>` and `</think>` too: there these are the
tokens of that name, supervised like the text around them, as they are to everybody who gives a conversation to the
released tokenizer. In all other texts, and to all other models, they are letters.

The k-th `<image>` in the user turns of a sample with images becomes <img><IMG_CONTEXT></img>, the one <IMG_CONTEXT>
standing for the image's whole run (mixc/emit/expand.py). A text is its tokens and <|endoftext|>, all but the first
supervised. Everything here is pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from mixc.measure.family import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, known
from mixc.sorting import ranges
from mixc.sources.sample import IMAGE_PLACEHOLDER, Sample, Turn

TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
THINK_TAGS = ("<think>", "</think>")

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """S samples as tokens, end to end. `ends` are where each sample's part ends; positions count from its own start."""

    ids: U32  # [T]
    ends: I64  # [S]
    spans: U32  # [K, 2]
    span_ends: I64  # [S]
    images: U32  # [I]
    image_ends: I64  # [S]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[Tokens]:
        a = b = c = 0
        for d, e, f in zip(self.ends.tolist(), self.span_ends.tolist(), self.image_ends.tolist(), strict=True):
            yield Tokens(self.ids[a:d], self.spans[b:e], self.images[c:f])
            a, b, c = d, e, f


@dataclass(frozen=True)
class Template:
    name: str
    system: str | None
    """Used when a conversation has no system turn of its own; None: such a conversation begins with its user."""
    think: bool = False
    """Whether THINK_TAGS in an answer are the tokens of these names; if not, they are letters there, as elsewhere."""

    def segments(self, sample: Sample) -> list[Segment]:
        """A sample's segments, in order. `sample.text` or `sample.turns`, and the number of `sample.images`, decide."""
        if sample.text is not None:
            return [Segment(sample.text, supervised=True), _TEXT_END]
        turns = sample.turns
        if self.system is not None and (not turns or turns[0].role != "system"):
            turns = (Turn("system", self.system), *turns)
        return [segment for turn in turns for segment in _turn(turn, bool(sample.images), self.think)]

    def prompt(self, sample: Sample) -> list[Segment]:
        """What comes before the answer to `sample.turns`, whose last is the user's: where training's answers begin."""
        return [*self.segments(sample), _TURN_START, _ASSISTANT]

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every special token that `segments` can use: a tokenizer must have them all."""
        always = (TURN_START, TURN_END, TEXT_END, IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
        return (*always, *THINK_TAGS) if self.think else always

    @cached_property
    def digest(self) -> str:
        """blake3 of what the template makes of fixed samples: it changes when, and only when, its output does."""
        chat = Sample(row=0, turns=(Turn("user", "a<image>b"), Turn("assistant", "c")), images=(b"",))
        own_system = Sample(row=0, turns=(Turn("system", "s"), *chat.turns, *chat.turns), images=(b"", b""))
        samples = [chat, own_system, Sample(row=0, text="t")]
        if self.think:  # only then: what was made by the others keeps its digest
            samples.append(Sample(row=0, turns=(Turn("user", "<think>"), Turn("assistant", "<think>t</think>a"))))
        made = [self.segments(sample) for sample in samples]
        return blake3(json.dumps([self.name, made], ensure_ascii=False).encode()).hexdigest()


_TURN_START = Segment(TURN_START, special=True)
_TURN_END = Segment(TURN_END, special=True)
_ANSWER_END = Segment(TURN_END, special=True, supervised=True)
_TEXT_END = Segment(TEXT_END, special=True, supervised=True)
_ASSISTANT = Segment("assistant\n")
IMAGE_SEGMENT = Segment(IMAGE_CONTEXT, special=True)
"""What stands for an image; in a sample's segments as many times as it has images."""
_IMAGE = [Segment(IMAGE_START, special=True), IMAGE_SEGMENT, Segment(IMAGE_END, special=True)]


_TAG = re.compile(f"({'|'.join(THINK_TAGS)})")


def at_tags(text: str, *, supervised: bool = False) -> list[Segment]:
    """A text cut at THINK_TAGS, which become special tokens. As `tokenizers` cuts at added tokens: from left to right
    in the text as it stands, before it is normalised, with the whitespace around them left to the text."""
    pieces = _TAG.split(text)  # every other one is a tag
    return [Segment(piece, place % 2 == 1, supervised) for place, piece in enumerate(pieces) if piece]


def _turn(turn: Turn, with_images: bool, think: bool) -> list[Segment]:
    if turn.role == "assistant":
        answer = at_tags(turn.text, supervised=True) if think else [Segment(turn.text, supervised=True)]
        return [_TURN_START, _ASSISTANT, *answer, _ANSWER_END]
    if turn.role != "user" or not with_images:
        return [_TURN_START, Segment(f"{turn.role}\n{turn.text}"), _TURN_END]
    before, *after = turn.text.split(IMAGE_PLACEHOLDER)
    segments = [_TURN_START, Segment(f"user\n{before}")]
    for text in after:
        segments += [*_IMAGE, Segment(text)]
    return [*segments, _TURN_END]


def tokenize(
    samples: Sequence[Sequence[Segment]],
    encode: Callable[[Sequence[str]], tuple[U32, npt.NDArray[np.uint64]]],
    special: Callable[[str], int],
) -> TokenBatch:
    """Segments of many samples to tokens, every distinct text encoded once, all in one call of `encode`.

    `encode` and `special` are a Tokenizer's `encode_plain` and `special`.
    """
    texts: dict[str, int] = {}
    specials: dict[str, int] = {}
    pieces: list[int] = []  # of every segment: the number of its text, or below 0 of its special token
    flags: list[bool] = []
    for segments in samples:
        for text, is_special, supervised in segments:
            pieces.append(
                ~specials.setdefault(text, len(specials)) if is_special else texts.setdefault(text, len(texts))
            )
            flags.append(supervised)
    ids, offsets = encode(list(texts))
    ids = np.concatenate([ids, np.array([special(name) for name in specials], np.uint32)])
    text_ends = offsets.astype(np.int64)
    piece = np.array(pieces, np.int64)
    piece = np.where(piece < 0, len(texts) + ~piece, piece)
    piece_starts = np.concatenate([text_ends[:-1], text_ends[-1] + np.arange(len(specials))])
    lengths = np.concatenate([np.diff(text_ends), np.ones(len(specials), np.int64)])[piece]

    count = len(samples)
    owner = np.repeat(np.arange(count), [len(segments) for segments in samples])  # of every segment
    totals = np.bincount(owner, lengths, count).astype(np.int64)
    ends = np.cumsum(totals)
    at = np.cumsum(lengths) - lengths - (ends - totals)[owner]  # of its first token, in its sample
    spans, span_ends = _spans(at, at + lengths, owner, np.array(flags, bool), count)
    context = specials.get(IMAGE_CONTEXT)
    images = np.zeros(len(piece), bool) if context is None else piece == len(texts) + context
    return TokenBatch(
        ids=ids[ranges(piece_starts[piece], lengths)],
        ends=ends,
        spans=spans,
        span_ends=span_ends,
        images=at[images].astype(np.uint32),
        image_ends=np.cumsum(np.bincount(owner[images], minlength=count)),
    )


def _spans(at: I64, end: I64, owner: I64, supervised: npt.NDArray[np.bool_], samples: int) -> tuple[U32, I64]:
    """Supervised segments as spans, those that touch as one. Nothing stands before token 0 to predict it from."""
    kept = supervised & (end > np.maximum(at, 1))
    at, end, owner = at[kept], end[kept], owner[kept]
    first = np.ones(len(at), bool)
    first[1:] = (owner[1:] != owner[:-1]) | (at[1:] != end[:-1])
    last = np.append(first[1:], True)[: len(at)]
    spans = np.stack([np.maximum(at[first], 1), end[last]], axis=1).astype(np.uint32)
    return spans, np.cumsum(np.bincount(owner[first], minlength=samples))


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


_THINKING = {name: replace(template, think=True) for name, template in TEMPLATES.items()}


def template_named(name: str, *, think: bool = False) -> Template:
    """The template of a name, for a model that has THINK_TAGS as tokens or for one that has not. Raises SpecError, with
    a suggestion, when there is none of that name."""
    return known(name, _THINKING if think else TEMPLATES, noun="chat template", where="template")


def template_of(digest: str) -> Template | None:
    """The template whose digest it is, if any."""
    return next((each for table in (TEMPLATES, _THINKING) for each in table.values() if each.digest == digest), None)
