"""Unusable rows by name: a few of each source and reason, as people look for them, by file and line, with the reason in words.

pics/2024/IMG_1011.jpg: no caption: IMG_1011.txt is missing
pics/2024/IMG_broken.jpg: not an image that can be decoded: no known image format
shapes/train.jsonl line 41: not JSON: Expecting value at character 12
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mixc.sources.excerpt import excerpt
from mixc.sources.files import is_url, printable
from mixc.sources.formats.imagefolder import is_image
from mixc.sources.head import Head
from mixc.sources.sample import Reject
from mixc.spec.diagnostics import printable as one_line
from mixc.spec.schema import Source

if TYPE_CHECKING:
    from mixc.measure.run import ObjectRef

EXAMPLES = 3
"""Of a source and a reason that are named."""
_WORDS = {
    "image_undecodable": "not an image that can be decoded",
    "image_missing": "an image cannot be had",
    "image_empty": "an image of no bytes",
    "image_bomb": "an image that is too large",
    "not_utf8": "text that is not UTF-8",
    "path_escape": "an image outside of its folder",
}
"""Reasons whose detail does not say by itself what is wrong."""


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A row that cannot be used."""

    source: str
    reason: str
    where: str
    """The file that it is, or its file and the line or row, from 1."""
    why: str
    """The reason in words."""
    line: list[str] = []
    """Of JSON lines the row's, and a caret under the fault (mixc/sources/excerpt.py); empty where it was not looked up."""

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the unusable rows of sources, and how many there are besides."""

    examples: list[Rejected]
    """The first EXAMPLES of each source and reason: by source, file and row."""
    more: int


def rejected(source: str, path: str, reject: Reject, line: Sequence[str] = ()) -> Rejected:
    """`path` is the row's file, or the folder that its image lies in, as it is to be shown."""
    place = reject.place
    where = posixpath.join(path, place) if is_image(place) else f"{path} {place or f'row {reject.row + 1}'}"
    why = _beside(place, reject.detail)
    if words := _WORDS.get(reject.reason):
        why = f"{words}: {why}"
    return Rejected(
        source=source, reason=reject.reason, where=printable(where), why=one_line(why, len(why)), line=list(line)
    )


def _beside(place: str, detail: str) -> str:
    """A detail that stands behind the place, which need not be said again."""
    if not place or not detail.startswith(place):
        return detail
    rest = detail[len(place) :]
    return f"it{rest}" if rest.startswith(" ") else rest.lstrip(":, ") if rest[:1] in (":", ",") else detail


def of_head(name: str, head: Head, source: Source, base: Path) -> list[Rejected]:
    """The rows at a source's head that reading or decoding their images rejects (where the source says not to decode, reading
    their images' headers); in order. The first of each reason has its line."""
    from mixc.measure.image import ImageError, probe

    found: list[Rejected] = []
    for fragment, row in zip(head.origins, head.rows, strict=True):
        reject = row if isinstance(row, Reject) else None
        if not isinstance(row, Reject):
            try:
                for image in row.images:
                    probe(image, decode=source.decode_images)
            except ImageError as error:
                reject = Reject(row=row.row, reason=error.reason, detail=str(error), place=row.place)
        if reject is not None:
            first = all(each.reason != reject.reason for each in found)
            line = excerpt(fragment, source, reject) if first else []
            found.append(rejected(name, relative(fragment.path, base), reject, line))
    return found


def of_objects(objects: Sequence[ObjectRef], base: Path, sources: Mapping[str, Source] | None = None) -> Told:
    """What was measured. Reads no more objects than it takes to find the examples. With `sources`, the first of each source and reason
    has its line, for which a file is read again up to it."""
    left = Counter[tuple[str, str]]()
    for ref in objects:
        for reason, count in ref.reject_counts.items():
            left[ref.fragment.source, reason] += count
    return few(_measured(objects, base, sources or {}), dict(left))


def relative(path: str, base: Path) -> str:
    """A file's path as a spec in `base` would write it, or as it is where that is shorter."""
    return path if is_url(path) else min(posixpath.relpath(path, base.absolute()), path, key=len)


def few(found: Iterable[Rejected], counts: dict[tuple[str, str], int]) -> Told:
    """The first of each source and reason in `found`, of which there are `counts`; asks for no more than that."""
    wanted = {key: min(count, EXAMPLES) for key, count in counts.items() if count}
    missing = sum(wanted.values())
    examples: list[Rejected] = []
    for each in found if missing else ():
        if wanted.get((each.source, each.reason)):
            wanted[each.source, each.reason] -= 1
            missing -= 1
            examples.append(each)
        if not missing:
            break
    return Told(examples=examples, more=sum(counts.values()) - len(examples))


def few_of(found: Sequence[Rejected]) -> Told:
    return few(found, dict(Counter((each.source, each.reason) for each in found)))


def lines(told: Told, rest: str) -> Iterator[str]:
    """For a terminal, two columns in. `rest` says where the others are."""
    for each in told.examples:
        yield f"  {each}"
        yield from each.line
    if told.more:
        yield f"  and {told.more:,} more{f': {rest}' if rest else ''}"


def _measured(objects: Sequence[ObjectRef], base: Path, sources: Mapping[str, Source]) -> Iterator[Rejected]:
    from mixc.measure.object import read_rejects  # pyarrow, for who measures

    seen = set[tuple[str, str]]()
    by_path = sorted(objects, key=lambda ref: (ref.fragment.source, ref.fragment.path, _first_row(ref)))
    for ref in by_path:
        if not ref.info.rejects:
            continue
        fragment = ref.fragment
        for row in read_rejects(ref.path).to_pylist():
            reject = msgspec.convert(row, Reject)
            source = sources.get(fragment.source) if (fragment.source, reject.reason) not in seen else None
            seen.add((fragment.source, reject.reason))
            line = excerpt(fragment, source, reject) if source else []
            yield rejected(fragment.source, relative(fragment.path, base), reject, line)


def _first_row(ref: ObjectRef) -> int:
    return ref.fragment.part.first_row if ref.fragment.part else 0
