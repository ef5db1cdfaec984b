"""What a row becomes: a Sample, whatever the format it came from, or a Reject that says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant"]
Scalar = bool | int | float | str | None

IMAGE_PLACEHOLDER = "<image>"


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    text: str
    """As it came. In a user turn of a sample with images, the k-th `<image>` stands for the k-th image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training example, normalised.

    For kind `text`: no turns but `text`. For the others: `turns`, alternating user and assistant, ending with
    assistant, an optional system turn first; as many `<image>` placeholders in user turns as images.
    """

    row: int
    """Row number in its fragment, from 0. Provenance only: never part of identity or order."""
    text: str | None = None
    turns: tuple[Turn, ...] = ()
    images: tuple[bytes, ...] = ()
    """Encoded images, unchanged."""
    frames: bool = False
    """Whether the images are frames of a video: one tile each."""
    template: str | None = None
    """Name of the chat template that its source asks for; None: the model's. Never part of identity."""
    columns: dict[str, Scalar] = field(default_factory=dict)
    """Every other scalar column of the row, by its own name."""
    place: str = field(default="", compare=False)
    """Where people would look for the row in its file: `line 41`, `sample 000123` of a tar, or of a folder the name of the
    image; empty where only the row's number tells. Provenance only, as `row`."""


Reason = Literal[
    "broken_row",  # JSON that does not parse, a tar sample that is incomplete
    "not_utf8",
    "missing_value",  # a column is absent or null
    "wrong_type",
    "empty_text",
    "bad_turns",  # roles unknown or not alternating, no assistant turn
    "placeholder_mismatch",  # <image> placeholders and images differ in number
    "path_escape",  # an image path that leaves its source's folder
    "image_missing",
    "image_empty",
    "image_undecodable",  # not an image, unknown format, truncated
    "image_bomb",  # more pixels than mixc/measure/image.py allows
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot become a training example. It never stops a compile and never reaches a training run."""

    row: int
    reason: Reason
    detail: str
    place: str = field(default="", compare=False)
    """As of a Sample."""
