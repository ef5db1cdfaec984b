"""The models that a mixture can be compiled for, as data: only what decides how samples become tokens.

Sources of the figures: SAIL-VL2-2B's released config.json, tokenizer_config.json and conversation.py (called "VL2-2B"
below); the model cards of SAIL-VL-2B, -8B, -1.5-2B and -1.6-8B; a published audit of SAIL-VL-1.5-2B's config.json.
What none of them says is marked "our default".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec

from mixc.errors import SpecError
from mixc.spec.schema import Spec
from shards.manifest import Geometry


class Family(msgspec.Struct, frozen=True, kw_only=True):
    max_tiles: int
    """Tiles of an image's grid at most, thumbnail not counted."""
    vocab_size: int
    """Rows of the embedding table."""
    tokenizer: str
    """The tokenizer it was trained with. A spec may name another, at the user's risk."""
    tile_size: int = 448
    """Pixels. "448x448xN" on every model card of the family; `force_image_size` 448 in VL2-2B."""
    tokens_per_tile: int = 256
    """(448 / 14)^2 patches merged 2 x 2: `downsample_ratio` 0.5 in VL2-2B; 2x2 on every model card."""
    min_tiles: int = 1
    """`min_dynamic_patch` 1 in VL2-2B and in the audit of 1.5-2B; the cards of the others say that they follow
    InternVL2, where it is 1."""
    thumbnail: bool = True
    """`use_thumbnail` true in VL2-2B and in the audit of 1.5-2B; likewise."""
    template: str = "univl-chat"
    """`template` in VL2-2B. Versions 1 to 1.6 name theirs sailvl-chat; its system message is not published, so for
    them univl-chat is our default."""
    think: bool = False
    """Whether its tokenizer has <think> and </think> (added_tokens_decoder in VL2-2B's tokenizer_config.json): Qwen3's
    has them, Qwen2.5's has not, though mixc keeps one vocabulary, with their ids in it, for both."""


# Published: 12 for VL2-2B (`max_dynamic_patch`) and 1.5-2B (audit). For every other model 12 is our default: the
# released processors use 10 to 24 at inference, and no paper states the limit in training.
_MAX_TILES = 12

FAMILIES: dict[str, Family] = {
    # Ours, for demonstrations and tests: random weights, but the family's tile rule, tokenizer and vocabulary, so that
    # a mixture that plays on it is the mixture that would play on sail-vl-2b.
    "sail-vl-tiny": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen2.5"),
    "sail-vl-tiny-v1": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen2.5"),
    "sail-vl-tiny-v1.5": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen2.5"),
    "sail-vl-tiny-moe": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen2.5"),
    # Qwen2.5-1.5B-Instruct (model card), whose embedding has 151,936 rows.
    "sail-vl-2b": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen2.5"),
    # Qwen2.5-7B-Instruct (model card), whose embedding has 152,064 rows.
    "sail-vl-8b": Family(max_tiles=_MAX_TILES, vocab_size=152064, tokenizer="qwen2.5"),
    # Qwen2.5-1.5B-Instruct (model card); max_dynamic_patch 12 (audit).
    "sail-vl-1.5-2b": Family(max_tiles=12, vocab_size=151936, tokenizer="qwen2.5"),
    # Qwen2.5-7B-Instruct (model cards).
    "sail-vl-1.5-8b": Family(max_tiles=_MAX_TILES, vocab_size=152064, tokenizer="qwen2.5"),
    "sail-vl-1.6-8b": Family(max_tiles=_MAX_TILES, vocab_size=152064, tokenizer="qwen2.5"),
    # Qwen3-0.6B (paper, section on the model zoo), whose embedding has 151,936 rows.
    "sail-vl2-1b": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen3", think=True),
    # Qwen3-1.7B; vocab 151,936, max_dynamic_patch 12 (config.json).
    "sail-vl2-2b": Family(max_tiles=12, vocab_size=151936, tokenizer="qwen3", think=True),
    # Qwen3-8B (paper, table 1), whose embedding has 151,936 rows.
    "sail-vl2-8b": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen3", think=True),
    # Qwen3-30B-A3B (paper, table 1), whose embedding has 151,936 rows.
    "sail-vl2-30b-a3b": Family(max_tiles=_MAX_TILES, vocab_size=151936, tokenizer="qwen3", think=True),
}

IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
PAD = "<|endoftext|>"


class Vocabulary(Protocol):
    """What `geometry` needs of a tokenizer (mixc.measure.tokenizer.Tokenizer)."""

    @property
    def size(self) -> int:
        """One more than the highest id."""

    def special(self, name: str) -> int: ...


T = TypeVar("T")


def known(name: str, table: Mapping[str, T], *, noun: str, where: str) -> T:
    """What `table` has under a name that the user gave. Raises SpecError with a suggestion when it has none."""
    try:
        return table[name]
    except KeyError:
        near = difflib.get_close_matches(name, table, n=1)
        raise SpecError(
            f"no {noun} is called {name!r}",
            where=where,
            mend=(f"did you mean {near[0]!r}? " if near else "") + "Known: " + ", ".join(table),
        ) from None


def family(model: str) -> Family:
    """The family entry of a model's name. Raises SpecError with a suggestion when there is none."""
    return known(model, FAMILIES, noun="model", where="model")


def geometry(spec: Spec, tokenizer: Vocabulary) -> Geometry:
    """What compiler and model agree on: the family's figures, the spec's `tiles` over them, the tokenizer's ids.

    Raises SpecError when the model is unknown, when the tokenizer lacks one of the family's special tokens, or when it
    has ids for which the model has no embedding.
    """
    entry = family(spec.model)
    if tokenizer.size > entry.vocab_size:
        raise SpecError(
            f"the tokenizer has ids up to {tokenizer.size - 1}, but {spec.model} has {entry.vocab_size} embeddings",
            where="tokenizer",
            mend=f"use the tokenizer that {spec.model} was trained with: {entry.tokenizer}",
        )
    return Geometry(
        name=spec.model,
        tile_size=entry.tile_size,
        tokens_per_tile=entry.tokens_per_tile,
        max_tiles=entry.max_tiles if spec.tiles.max is None else spec.tiles.max,
        min_tiles=entry.min_tiles,
        thumbnail=entry.thumbnail if spec.tiles.thumbnail is None else spec.tiles.thumbnail,
        vocab_size=entry.vocab_size,
        image_start_id=tokenizer.special(IMAGE_START),
        image_end_id=tokenizer.special(IMAGE_END),
        image_context_id=tokenizer.special(IMAGE_CONTEXT),
        pad_id=tokenizer.special(PAD),
    )
