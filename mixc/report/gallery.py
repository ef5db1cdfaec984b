"""Some samples of each stage, small: what the mixture looks like, beside what it counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


_MARKS = re.compile(
    "|".join([rf"{re.escape(TURN_START)}\w+\n", *map(re.escape, (TURN_END, TEXT_END, IMAGE_START + IMAGE_END))])
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    id: str
    source: str
    pictures: list[Markup]
    text: list[tuple[str, bool]]
    """Stretches, and whether they are supervised."""


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
    return Shown(
        id=segment.id,
        source=segment.source,
        pictures=[_picture(inspector, run) for run in segment.runs if run.image],
        text=_cut([(run.text, run.supervised) for run in segment.runs if not run.image]),
    )


def _cut(text: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """What is said, without the marks of turns and the system message, which is the same in every sample; no longer than fits."""
    found: list[tuple[str, bool]] = []
    left = LONGEST
    for stretch, supervised in text:
        said = _MARKS.sub("", stretch if supervised else stretch.rpartition(f"{TURN_START}user\n")[2]).strip("\n")
        if not said:
            continue
        found.append((said if len(said) <= left else said[:left] + "…", supervised))
        left -= len(said)
        if left <= 0:
            break
    return found


def _picture(inspector: Inspector, run: Run) -> Markup:
    assert run.image is not None
    try:
        uri, width, height = jpeg_uri(inspector.build.media.read(bytes.fromhex(run.image)), SIDE)
    except (ImageError, ShardError) as error:
        return Markup('<p class="bad">It cannot be shown: {}</p>').format(error)
    return Markup('<img src="{}" width="{}" height="{}" alt="image {}, grid {}">').format(
        uri, width, height, run.image[:12], run.grid
    )
