"""From a question to a prompt: the published one, token by token as training has it.

An answer begins where training's answers begin, after `<|im_start|>assistant\\n`. How images stand in the question is the family's
evaluation's (VLMEvalKit's adapter): one as `<image>\\n` before it, several as `Image-1: <image>\\n`, a video's frames as
`Frame-1: <image>\\n`, each a tile. A question that has its own `<image>` placeholders keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixc.ask.model import Model
from mixc.errors import MixcError
from mixc.measure.image import ImageError, probe
from mixc.measure.template import Segment, at_tags, tokenize
from mixc.measure.tiles import ONE_TILE, Grid, grid, msac
from mixc.sources.sample import IMAGE_PLACEHOLDER, Sample, Turn
from shards.counted import counted

THINKING = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The reasoning process "
    "MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)
"""Appended to a question for the thinking models, as SAIL-VL2 publishes it. That a line break joins the two is ours. To a model that
has its tags as tokens in answers they are these here, too, as for everybody who gives the request to the released tokenizer; in all
other texts of a user's they are letters."""


@dataclass(frozen=True, slots=True)
class Picture:
    path: Path
    grids: tuple[Grid, ...]
    """Its tiles' grids, in order; the thumbnail, if any, is of the last."""

    @property
    def tiles(self) -> int:
        return sum(each.tiles for each in self.grids)


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    pictures: list[Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """How images are cut."""

    max_tiles: int | None = None
    """Of the grid; None: the model's."""
    msac: bool = False
    """A second set of tiles, of another grid: "visual token scaling during inference" of SAIL-VL 1.5 and later. As published it is
    for a question about one image; several are cut once each."""


def question(text: str, *, images: int = 0, frames: int = 0, thinking: bool = False) -> str:
    """A user's turn for so many images or frames. Raises MixcError when it has placeholders, but not one an image."""
    count, own = images + frames, text.count(IMAGE_PLACEHOLDER)
    if own and own != count:
        raise MixcError(
            f"the question has {_counts(own, count)}",
            mend="write one for each image, or none",
        )
    if not own and frames:
        text = "".join(f"Frame-{n}: {IMAGE_PLACEHOLDER}\n" for n in range(1, frames + 1)) + text
    elif not own and images == 1:
        text = f"{IMAGE_PLACEHOLDER}\n{text}"
    elif not own and images:
        text = "".join(f"Image-{n}: {IMAGE_PLACEHOLDER}\n" for n in range(1, images + 1)) + text
    return f"{text}\n{THINKING}" if thinking else text


def look(images: Sequence[Path], frames: Sequence[Path], model: Model, looking: Looking) -> list[Picture]:
    """How a question's images and frames are cut, in their order. Raises MixcError when one cannot be read."""
    for path in frames:
        _size(path)  # of no matter, but that it has one
    still = [_picture(path, model, looking, alone=len(images) == 1) for path in images]
    return still + [Picture(path, (ONE_TILE,)) for path in frames]


def _picture(path: Path, model: Model, looking: Looking, *, alone: bool) -> Picture:
    width, height = _size(path)
    geometry = model.geometry
    first = grid(width, height, geometry, max_tiles=looking.max_tiles)
    if not (looking.msac and alone):
        return Picture(path, (first,))
    return Picture(path, msac(first, width, height, geometry, max_tiles=looking.max_tiles))


def _size(path: Path) -> tuple[int, int]:
    """Width and height by the header: whether the pixels can be read is for the model's program to find out."""
    where = _readable(str(path))
    try:
        facts = probe(path.read_bytes(), decode=False)
    except ImageError as error:
        raise MixcError("not an image that can be read", where=where, why=str(error)) from None
    except OSError as error:
        raise MixcError("cannot read an image", where=where, why=error.strerror or str(error)) from None
    except ValueError as error:  # a path with a zero byte
        raise MixcError("cannot read an image", where=repr(where), why=str(error)) from None
    return facts.width, facts.height


def _readable(text: str) -> str:
    """`text` itself. Raises MixcError when it is no Unicode: what came as other bytes, or half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MixcError("this is not UTF-8", where=repr(text)) from None
    return text


def prompt(turns: Sequence[Turn], pictures: Sequence[Picture], model: Model) -> Prompt:
    """The prompt of a conversation whose last turn is the user's. Image runs are in full. Raises MixcError for a text that is no
    Unicode and for placeholders that are not one an image."""
    for turn in turns:
        _readable(turn.text)
    sample = Sample(row=0, turns=tuple(turns), images=(b"",) * len(pictures))
    tokenizer = model.tokenizer
    segments = model.template.prompt(sample)
    if model.template.think:
        segments = [piece for segment in segments for piece in _requested(segment)]
    made = tokenize([segments], tokenizer.encode_plain, tokenizer.special)
    if len(made.images) != len(pictures):
        raise MixcError(f"the conversation has {_counts(len(made.images), len(pictures))}")
    repeats = np.ones(len(made.ids), np.int64)
    repeats[made.images] = [each.tiles * model.geometry.tokens_per_tile for each in pictures]
    return Prompt(np.repeat(made.ids, repeats).tolist(), list(pictures))


def _requested(segment: Segment) -> list[Segment]:
    """A segment, cut at the tags of the thinking models' request if it ends in that."""
    if segment.special or not segment.text.endswith(THINKING):
        return [segment]
    first, *others = at_tags(THINKING)
    return [Segment(segment.text.removesuffix(THINKING) + first.text), *others]


def _counts(placeholders: int, images: int) -> str:
    there = "is" if images == 1 else "are"
    return f"{counted(placeholders, f'{IMAGE_PLACEHOLDER} placeholder')}, and there {there} {counted(images, 'image')}"
