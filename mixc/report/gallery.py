"""Some samples of each stage, small: what the mixture looks like, beside what it counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from mixc.errors import BuildError, SpecError
from mixc.measure.family import IMAGE_END, IMAGE_START
from mixc.measure.template import TEXT_END, TURN_END, TURN_START
from mixc.report.inspect import Inspector, Run, Segment
from mixc.report.thumbnail import jpeg_uri
from shards.errors import ShardError
from shards.images import ImageError

SIDE = 192
"""Pixels of an image's longer side: a page of a hundred of them stays below a megabyte."""
LONGEST = 280
"""Characters of a sample's text."""

_BEGIN = re.compile(rf"{re.escape(TURN_START)}(\w+)\n")
_MARKS = re.compile("|".join([rf"{re.escape(TURN_START)}\w+\n", *map(re.escape, (TURN_END, TEXT_END))]))


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """Who says it, `user` or `assistant`; empty for a text. What is said, and the images in their places."""

    role: str
    parts: list[Said | Markup] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    id: str
    source: str
    turns: list[Turn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    stages: list[list[Shown]]
    fault: str
    """Why there is none; empty when there is."""


def gallery(build: Path, wanted: Sequence[Mapping[str, Sequence[tuple[int, int]]]]) -> Gallery:
    """The samples at places (pack, place) of each stage, by source. A build that is read where its tokenizer is not to be had has
    no gallery, and says why."""
    try:
        inspector = Inspector(build)
    except (BuildError, SpecError) as error:
        return Gallery(stages=[[] for _ in wanted], fault=str(error))
    stages = []
    for entry, places in zip(inspector.build.manifest.stages, wanted, strict=True):
        found = [
            segment
            for where in places.values()
            for pack, place in where
            for segment in inspector.pack(entry.name, pack, only=place).segments
        ]
        stages.append([_shown(inspector, segment) for segment in found])
    return Gallery(stages=stages, fault="")


def _shown(inspector: Inspector, segment: Segment) -> Shown:
    runs = [_picture(inspector, run) if run.image else Said(run.text, run.supervised) for run in segment.runs]
    return Shown(id=segment.id, source=segment.source, turns=turns(runs))


def turns(runs: Sequence[Said | Markup]) -> list[Turn]:
    """What is said, turn by turn, without control tokens and the system message, which is the same in every sample; no longer than
    fits. `runs` are a segment's, images as they are to be shown."""
    found = [Turn("")]
    for place, run in enumerate(runs):
        if isinstance(run, Markup):
            found[-1].parts.append(run)
            continue
        text = run.text
        if place + 1 < len(runs) and isinstance(runs[place + 1], Markup):
            text = text.removesuffix(IMAGE_START)
        if place and isinstance(runs[place - 1], Markup):
            text = text.removeprefix(IMAGE_END)
        # an answer may hold such words, but never a turn's beginning
        before, *after = [text] if run.supervised else _BEGIN.split(text)
        found[-1].parts.append(Said(before, run.supervised))
        found += [Turn(role, [Said(said, False)]) for role, said in zip(after[::2], after[1::2], strict=True)]
    return _cut([turn for turn in found if turn.role != "system"])


def _cut(turns: Sequence[Turn]) -> list[Turn]:
    kept: list[Turn] = []
    left = LONGEST
    for turn in turns:
        parts: list[Said | Markup] = []
        for part in turn.parts:
            if isinstance(part, Markup):
                parts.append(part)
                continue
            said = _MARKS.sub("", part.text).strip("\n")
            if said and left > 0:
                parts.append(Said(said if len(said) <= left else said[:left] + "…", part.supervised))
                left -= len(said)
        if parts:
            kept.append(Turn(turn.role, parts))
    return kept


def _picture(inspector: Inspector, run: Run) -> Markup:
    assert run.image is not None
    try:
        uri, width, height = jpeg_uri(inspector.build.media.read(bytes.fromhex(run.image)), SIDE)
    except (ImageError, ShardError) as error:
        return Markup('<p class="bad">It cannot be shown: {}</p>').format(error)
    return Markup('<img src="{}" width="{}" height="{}" alt="image {}, grid {}">').format(
        uri, width, height, run.image[:12], run.grid
    )
