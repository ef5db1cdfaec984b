"""Questions to ask a model while it is trained: one file, in which `mixc train` has made tokens of texts and grids of images.

The trainer has no chat template and makes no tokens; what it has to know is here, images and vocabulary included, so that a run can
be resumed wherever its folder is. The file is MessagePack, named by the blake3 of its bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from shards.atomic import atomic_write
from shards.errors import ShardError
from shards.manifest import Geometry

FOLDER = "questions"
"""Of a run."""
SUFFIX = ".msgpack"
FORMAT = 1

_Count = Annotated[int, Meta(ge=1)]


class Picture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    image: Annotated[int, Meta(ge=0)]
    """Index into `Questions.images`."""
    grids: Annotated[list[tuple[_Count, _Count]], Meta(min_length=1)]
    """Columns and rows that its tiles are cut by, in order."""
    thumbnail: bool
    """Whether the whole image comes last."""

    @property
    def tiles(self) -> int:
        return sum(cols * rows for cols, rows in self.grids) + self.thumbnail


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str | int
    text: str
    """As it was asked, for people."""
    tokens: Annotated[list[int], Meta(min_length=1)]
    """The prompt, image runs in full."""
    pictures: list[Picture]
    reference: str | None
    """The right answer, where there is one."""


class Questions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    geometry: Geometry
    tokenizer: str
    """Digests, as a manifest has them: what the prompts were made with."""
    template: str
    vocabulary: bytes
    """A tokenizer.json, to make text of answers."""
    stop: Annotated[list[int], Meta(min_length=1)]
    """Ids that end an answer, and are no part of it."""
    max_new_tokens: _Count
    questions: Annotated[list[Question], Meta(min_length=1)]
    images: list[bytes]
    """Encoded, once each."""


def encode(questions: Questions) -> tuple[str, bytes]:
    """The file's name and its bytes."""
    data = msgspec.msgpack.encode(questions)
    return blake3(data).hexdigest() + SUFFIX, data


def write(folder: Path, questions: Questions) -> Path:
    """Write the file into a folder, made if need be; what stands there under its name is the same."""
    name, data = encode(questions)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / name) as file:
        file.write(data)
    return folder / name


def read(path: Path) -> Questions:
    """Raises ShardError for a file that is missing, damaged or none of `write`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardError(
            f"{path}: the questions that `mixc train --eval-questions` prepares cannot be read: {error.strerror}"
        ) from None
    if path.name != blake3(data).hexdigest() + SUFFIX:
        raise ShardError(
            f"{path}: these are no questions that `mixc train --eval-questions` has prepared, or they are damaged"
        )
    try:
        found = msgspec.msgpack.decode(data, type=Questions)
    except msgspec.DecodeError as error:
        raise ShardError(f"{path}: these questions were prepared by another version: {error}") from None
    if found.format != FORMAT:
        raise ShardError(f"{path}: these questions are of format {found.format}, this version reads {FORMAT}")
    return found
