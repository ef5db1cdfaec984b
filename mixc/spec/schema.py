"""The spec language, as types. Names are the user's; docstrings become docs/spec.md and the JSON Schema."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name for people: of a mixture, a source, a stage. It becomes part of file names and sample identity."""

Kind = Literal["caption", "ocr", "chat", "text"]
Unit = Literal["tokens", "supervised_tokens", "samples", "images"]
Module = Literal["vision", "projector", "language"]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named set of rows."""

    path: str | list[str]
    """File, glob, or a list of them; relative to the spec. `**` crosses folders."""
    kind: Kind
    """caption and ocr: an image and its text, the text supervised. chat: a conversation, assistant turns
    supervised. text: a document, every token but its first supervised."""
    format: Literal["parquet", "jsonl", "json", "webdataset"] | None = None
    """Told by the file's name when absent: .parquet; .jsonl, .jsonl.gz, .jsonl.zst; .json; .tar."""
    text: str | None = None
    """Column with the text (caption, ocr, text). In a tar: the member's extension. Default: text, or txt in
    a tar."""
    image: str | None = None
    """Column with the image: bytes, a Hugging Face image struct, a path, or a list of these. In a tar: the
    member's extensions; default jpg, jpeg, png, webp. In other formats the default is `image`."""
    image_root: str | None = None
    """Folder of image paths; default the folder of the file that names them. No path may leave it."""
    messages: str | None = None
    """Column with the conversation (chat): ShareGPT/LLaVA `from`/`value` or OpenAI `role`/`content`. Default
    conversations or messages."""
    prompt: str | None = None
    """The user's turn before a caption or page; default by kind."""
    where: str | None = None
    """Which rows are eligible: one boolean DuckDB expression over columns and signals."""
    too_long: Literal["split", "drop"] | None = None
    """What to do with a sample longer than a stage's sequence_length: text can be split (its default); the
    rest is dropped with a reason."""


class Tiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Overrides of the model's dynamic tiling."""

    max: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Tiles of an image's grid at most, thumbnail not counted."""
    thumbnail: bool | None = None
    """Whether an image of several tiles gets one more, the whole image."""


class Dedup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    exact: bool = False
    """Drop samples whose whole content (text, roles, image bytes) equals another's, within and across
    sources. The winner is in the source whose name sorts first."""


class MixEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source's part in a stage."""

    weight: Annotated[float, Meta(gt=0)] | None = None
    """Relative share of the stage, in the stage's unit. Absent for every source of the stage: in
    proportion to size."""
    where: str | None = None
    """A further threshold, for this stage only."""
    max_epochs: Annotated[float, Meta(gt=0)] | None = None
    """Passes over the source's eligible samples at most. Default 1, or as many as the budget where it asks
    for more epochs than one."""


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The order of samples over a stage: shuffled, or by an expression; packed and shuffled in windows."""

    by: str | None = None
    """DuckDB expression over columns and signals; absent: shuffle. Samples where it is NULL come last."""
    direction: Literal["ascending", "descending"] = "ascending"
    """Of `by`."""
    window: str | int = "100k"
    """Samples a window. Packing and shuffling stay inside a window, so a small window keeps `by` sharp and a
    large one packs tighter."""


class Train(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the runtime trains a stage. What is not a published figure is a default of ours."""

    lr: dict[Module, Annotated[float, Meta(gt=0)]]
    """Peak learning rate by module. A module without one is frozen."""
    batch: Annotated[int, Meta(ge=1)]
    """Packs a step, over all ranks."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rates fall from their peaks after the warm-up."""
    warmup: str | int = "3%"
    """Steps over which the learning rates rise from 0, or a percentage of the stage."""
    min_lr_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the peak at which cosine and linear end."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    """AdamW's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    eps: float = 1e-8
    """AdamW's."""
    clip: Annotated[float, Meta(ge=0)] = 1.0
    """Largest norm of the gradient of a step; 0 does not clip."""
    loss: Literal["token", "sample", "square"] = "token"
    """Weight of a supervised token in a sample of n: token 1, sample 1/n, square 1/sqrt(n) (InternVL 2.5)."""


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training stage: a mix, a budget, an order."""

    name: Name
    """Names the stage in `--set`, in reports and to `mixc train --stages`."""
    budget: str | int
    """`4B tokens`, `16M samples`, `2 epochs`. A bare number counts the stage's unit. One epoch is one pass
    over all that is eligible, divided by the shares."""
    mix: dict[str, float | MixEntry] | list[str]
    """Share by source; or a list of sources, proportional to their sizes."""
    sequence_length: Annotated[int, Meta(ge=16, le=1 << 20)]
    """Tokens of a pack at most."""
    train: Train
    """How the runtime trains the stage."""
    unit: Unit = "tokens"
    """What the shares count."""
    max_tiles: Annotated[int, Meta(ge=1)] | None = None
    """Tiles of a pack at most, thumbnails counted; default sequence_length / tokens a tile."""
    order: Literal["shuffle"] | Order = "shuffle"
    """The order of the stage's samples."""
    on_exhausted: Literal["fail", "repeat", "renormalise", "shorten"] = "fail"
    """When a source cannot fill its share within max_epochs: fail and name the shortfall; repeat beyond the
    cap; give its missing part to the others; or shorten the stage until every share can be met."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mixture spec."""

    mixture: Name
    """The mixture's name."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    """Every random choice is a pure function of this, the stage, the epoch and the sample."""
    model: Name
    """Fixes the tile rule, tokens a tile, special tokens and chat template."""
    sources: dict[Name, Source]
    """The data, by names of your choice."""
    stages: list[Stage]
    """The training stages, in their order."""
    extends: str | None = None
    """Another spec, merged under this one: mappings by key, `stages` by name."""
    tokenizer: str = "qwen2.5"
    """A name, a folder with a tokenizer.json, or that file."""
    tiles: Tiles = Tiles()
    """How images are cut into tiles, where it should differ from the model's rule."""
    dedup: Dedup = Dedup()
    """Which samples count as the same."""
    max_reject_rate: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """The compile fails when more than this share of a source's rows is unusable."""
