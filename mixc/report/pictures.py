"""From a picture's path to its row, in builds with sources that are folders of images."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import NamedTuple

from mixc.emit.pictures import PICTURES
from mixc.errors import BuildError
from mixc.plan.database import literal
from mixc.report.explain import SampleStory, explain_row
from mixc.report.opened import open_plan
from mixc.sources.formats.imagefolder import is_image
from shards.digest import digest_file


class Picture(NamedTuple):
    path: str
    """Of the picture, as it lay when the build was made."""
    folder: str
    row: int


MOST = 12
"""Pictures that an error names, when it could be any of them."""


def find_picture(build: Path, path: str) -> Picture | None:
    """The picture of the build that is `path`, or ends with it; None when it has none. Raises BuildError when several end with it."""
    if not is_image(posixpath.basename(path)) or not (build / PICTURES).exists():
        return None
    with open_plan(build) as plan:
        rows = plan.execute(
            f"""
            SELECT DISTINCT path || '/' || file, path, "row"
            FROM read_parquet({literal(str(build / PICTURES))}) JOIN fragments USING (fragment)
            WHERE file = {literal(posixpath.basename(path))} ORDER BY ALL
            """
        ).fetchall()
    known = [Picture(*row) for row in rows]
    whole = str(Path(path).absolute())
    exact = [each for each in known if posixpath.normpath(each.path) in (path, posixpath.normpath(whole))]
    ending = _parts(path)
    found = exact[:1] or [each for each in known if _parts(each.path)[-len(ending) :] == ending]
    if len(found) > 1:
        some = ", ".join(each.path for each in found[:MOST]) + (", ..." if len(found) > MOST else "")
        raise BuildError(f"several files end with {path}", where=str(build), why=some, mend="give more of the path")
    return found[0] if found else None


def _parts(path: str) -> list[str]:
    """Names of a path, without what leads up from where someone stands."""
    return [part for part in posixpath.normpath(path).split("/") if part not in ("", "..", ".")]


def why_not_trained(build: Path, image: Path) -> BuildError | None:
    """Why nothing that is trained on holds the image in the file `image`, where the build can tell: a row that is this picture, or
    has its very bytes still, was rejected, or the picture's sample is dropped."""
    for path, reason, detail in _rejected(build):
        if _same(image, path):
            return BuildError(
                "this image was rejected: no sample was made of it",
                where=path,
                why=f"{reason}: {detail}",
                mend="mend it and compile again",
            )
    picture = find_picture(build, str(image.absolute()))
    story = explain_row(build, picture.folder, picture.row) if picture and _same(image, picture.path) else None
    if isinstance(story, SampleStory) and story.drops:
        return BuildError(
            "no stage uses the sample of this image",
            where=picture.path if picture else "",
            why="; ".join(f"{reason.rule}: {reason.text}" for drop in story.drops for reason in drop.why),
            mend=f"`mixc explain {build} --sample {story.id[:12]}` tells of it",
        )
    return None


def _rejected(build: Path) -> list[tuple[str, str, str]]:
    """Path, reason and detail of pictures that are rejects of their own; none in a build of an earlier version."""
    with open_plan(build) as plan:
        if "place" not in [column for column, *_ in plan.execute("DESCRIBE rejects").fetchall()]:
            return []
        rows = plan.execute("SELECT path, place, reason, detail FROM rejects WHERE place <> '' ORDER BY ALL").fetchall()
    return [(posixpath.join(path, place), reason, detail) for path, place, reason, detail in rows if is_image(place)]


def _same(image: Path, path: str) -> bool:
    """Whether the file at `path` is this one, or holds the same bytes now."""
    other = Path(path)
    try:
        return image.samefile(other) or (
            image.stat().st_size == other.stat().st_size and digest_file(image) == digest_file(other)
        )
    except OSError:
        return False
