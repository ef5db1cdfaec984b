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
from mixc.measure.family import IMAGE_CONTEXT
from mixc.measure.image import ImageError, probe
from mixc.measure.template import tokenize
from mixc.measure.tiles import ONE_TILE, Grid, grid, msac
from mixc.sources.sample import IMAGE_PLACEHOLDER, Sample, Turn

THINKING = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The reasoning process "
    "MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)
"""Appended to a question for the thinking models: SAIL-VL2's published README."""


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
    """A second set of tiles, of another grid: "visual token scaling during inference" of SAIL-VL 1.5 and later."""


def question(text: str, *, images: int = 0, frames: int = 0, thinking: bool = False) -> str:
    """A user's turn for so many images or frames. Raises MixcError when it has placeholders, but not one an image."""
    count, own = images + frames, text.count(IMAGE_PLACEHOLDER)
    if own and own != count:
        raise MixcError(f"the question has {own} {IMAGE_PLACEHOLDER} placeholders, and there are {count} images")
    if not own and frames:
        text = "".join(f"Frame-{n}: {IMAGE_PLACEHOLDER}\n" for n in range(1, frames + 1)) + text
    elif not own and images == 1:
        text = f"{IMAGE_PLACEHOLDER}\n{text}"
    elif not own and images:
        text = "".join(f"Image-{n}: {IMAGE_PLACEHOLDER}\n" for n in range(1, images + 1)) + text
    return f"{text}\n{THINKING}" if thinking else text


def picture(path: Path, model: Model, looking: Looking, *, frame: bool = False) -> Picture:
    """How an image is cut. Raises MixcError when it cannot be read."""
    try:
        facts = probe(path.read_bytes(), decode=False)
    except OSError as error:
        raise MixcError("cannot read an image", where=str(path), why=error.strerror or str(error)) from None
    except ImageError as error:
        raise MixcError("not an image that can be read", where=str(path), why=str(error)) from None
    if frame:
        return Picture(path, (ONE_TILE,))
    geometry = model.geometry
    most = geometry.max_tiles if looking.max_tiles is None else looking.max_tiles
    first = grid(facts.width, facts.height, geometry, max_tiles=most)
    if not looking.msac:
        return Picture(path, (first,))
    return Picture(path, msac(first, facts.width, facts.height, geometry, max_tiles=most))


def prompt(turns: Sequence[Turn], pictures: Sequence[Picture], model: Model) -> Prompt:
    """The prompt of a conversation whose last turn is the user's. Image runs are in full."""
    sample = Sample(row=0, turns=tuple(turns), images=(b"",) * len(pictures))
    tokenizer = model.tokenizer
    made = tokenize([model.template.prompt(sample)], tokenizer.encode_plain, tokenizer.special)
    context = tokenizer.special(IMAGE_CONTEXT)
    repeats = np.ones(len(made.ids), np.int64)
    repeats[made.images] = [each.tiles * model.geometry.tokens_per_tile for each in pictures]
    assert (made.ids[made.images] == context).all()
    return Prompt(np.repeat(made.ids, repeats).tolist(), list(pictures))
