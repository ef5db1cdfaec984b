"""Where a text or an image stands in a build's packs: every pack is read and looked through.

Text is looked for in the bytes that the tokens of a sample spell, so it is found wherever tokens begin and end; not across
control tokens or images, and across the pieces of a split text, but not across two samples. What no stage uses is in no pack:
dropped.py looks there, when it is asked to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from mixc.emit.lock import read_lock
from mixc.errors import BuildError
from mixc.measure.spelling import BREAK
from mixc.report.dropped import Dropped, find_dropped
from mixc.report.explain import Use, explain_places
from mixc.report.opened import build_tokenizer, read_summary
from mixc.report.pictures import why_not_trained
from mixc.report.spelled import Progress, excerpt, in_order, speller
from shards.build import Build, StageReader
from shards.digest import digest_file
from shards.pack import Pack

T = TypeVar("T")
I64 = npt.NDArray[np.int64]

PACKS_A_TASK = 64


class Place(NamedTuple):
    """Numbers of a stage, of a pack in it, of a segment in that."""

    stage: int
    pack: int
    place: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    use: Use
    excerpt: str
    """With some of what stands around it; empty for an image."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    """The text as it is looked for, or the image's digest."""
    packs: int
    """That were looked through."""
    samples: int
    """In which it stands."""
    places: int
    """Where it stands; a text that a sample holds twice counts once."""
    found: list[Found]
    """The first of them in order of training, as many as were asked for."""
    dropped: Dropped | None
    """Where it stands in samples that no stage uses; None where these were not looked through."""
    not_searched: list[str]
    """Where else it could be, in words."""


class _Edge(NamedTuple):
    """What a piece of a split text has at its ends of the text that is looked for."""

    place: Place
    id: bytes
    epoch: int
    piece: int
    data: bytes
    """All of it, if it is short; else its ends with a BREAK for what is between them."""


def find_text(
    build: Path,
    text: str,
    *,
    limit: int | None,
    workers: int,
    dropped: bool = False,
    progress: Progress | None = None,
    fragments: Progress | None = None,
) -> Search:
    """Every place that holds `text`; `limit` of them in full. Reads all packs with `workers` threads, and then, if `dropped`, the
    samples that no stage uses: `progress` is told of packs, `fragments` of files and parts of files. Raises BuildError for an
    empty text, for one that nothing holds, or when the tokenizer is not to be had; ShardError for a pack that cannot be read."""
    opened = Build.open(build)
    tokenizer = build_tokenizer(opened.manifest, read_lock(build / "mixture.lock"), build)
    wanted = tokenizer.normalised(text)
    if not wanted.strip():
        raise BuildError("the text to look for is empty", mend="name a few words of it")
    needle = wanted.encode()
    spell = speller(tokenizer)
    found: dict[Place, tuple[bytes, str]] = {}
    edges: list[_Edge] = []

    def look(place: tuple[int, int], pack: Pack, length: int) -> tuple[dict[Place, tuple[bytes, str]], list[_Edge]]:
        data, ends = spell(pack.tokens, pack.segments["start"].astype(np.int64))
        return _within(place, pack, data, ends, needle), _edges(place, pack, data, ends, needle, length)

    for own, cut in _look_through(opened, look, workers, progress):
        found |= own
        edges += cut
    found |= _across(edges, needle)
    if not dropped:
        return _search(build, opened, wanted, found, limit, "text")
    unused = find_dropped(build, tokenizer, needle, spell, limit=limit, workers=workers, progress=fragments)
    return _search(build, opened, wanted, found, limit, "text", unused)


def find_image(
    build: Path, image: Path, *, limit: int | None, workers: int, progress: Progress | None = None
) -> Search:
    """Every place that has the image in the file `image`, byte for byte. Otherwise as `find_text`."""
    if not image.is_file():
        raise BuildError("there is no such image file", where=str(image))
    opened = Build.open(build)
    digest = digest_file(image)
    wanted = np.frombuffer(bytes.fromhex(digest), "V32")[0]
    found: dict[Place, tuple[bytes, str]] = {}

    def look(place: tuple[int, int], pack: Pack, _: int) -> dict[Place, tuple[bytes, str]]:
        starts = pack.images["start"][pack.images["digest"] == wanted]
        places = np.unique(np.searchsorted(pack.segments["start"], starts, side="right") - 1)
        return {Place(*place, k): (pack.segments["id"][k].tobytes(), "") for k in places.tolist()}

    if opened.media.position(bytes.fromhex(digest)) is not None:
        for own in _look_through(opened, look, workers, progress):
            found |= own
    if not found and (known := why_not_trained(build, image)):
        raise known
    return _search(build, opened, digest, found, limit, "image")


def _search(
    build: Path,
    opened: Build,
    what: str,
    found: dict[Place, tuple[bytes, str]],
    limit: int | None,
    kind: str,
    dropped: Dropped | None = None,
) -> Search:
    packs = sum(stage.packs for stage in opened.manifest.stages)
    elsewhere = _elsewhere(sum(read_summary(build).drops.values()), kind) if dropped is None else dropped.not_searched
    if not found and (dropped is None or not dropped.samples):
        through = f"all {packs:,} packs" + (
            "" if dropped is None else f" and {dropped.searched:,} samples that no stage uses"
        )
        raise BuildError(
            f"nothing that is trained on{'' if dropped is None else ', and nothing that was dropped,'} holds this {kind}",
            where=str(build),
            why=f"{through} were looked through",
            mend=f"not searched: {'; '.join(elsewhere)}" if elsewhere else "",
        )
    shown = sorted(found)[:limit]
    uses = explain_places(build, shown)
    return Search(
        what=what,
        packs=packs,
        samples=len({id for id, _ in found.values()}),
        places=len(found),
        found=[Found(use=use, excerpt=found[place][1]) for use, place in zip(uses, shown, strict=True)],
        dropped=dropped,
        not_searched=elsewhere,
    )


def _elsewhere(unused: int, kind: str) -> list[str]:
    if not unused:
        return []
    told = (
        f"the {unused:,} samples that no stage uses, and rows that are unusable: a build holds none of their {kind}s, only their"
        " files and rows"
    )
    return [f"{told}; --dropped looks through the samples" if kind == "text" else told]


def _look_through(
    build: Build, look: Callable[[tuple[int, int], Pack, int], T], workers: int, progress: Progress | None
) -> Iterator[T]:
    """What `look` makes of each pack, given its stage and number and the stage's sequence length; in order, packs in threads.
    Reading a pack and spelling it leave the interpreter to others."""
    readers = [build.stage(entry.name) for entry in build.manifest.stages]
    total = sum(map(len, readers))
    tasks = ((n, r, first) for n, r in enumerate(readers) for first in range(0, len(r), PACKS_A_TASK))

    def run(task: tuple[int, StageReader, int]) -> list[T]:
        stage, reader, first = task
        last = min(first + PACKS_A_TASK, len(reader))
        length = reader.entry.sequence_length
        return [look((stage, i), reader.pack(i), length) for i in range(first, last)]

    done = 0
    for own in in_order(run, tasks, workers):
        done += len(own)
        yield from own
        if progress:
            progress(done, total)


def _within(
    place: tuple[int, int], pack: Pack, data: bytes, ends: I64, needle: bytes
) -> dict[Place, tuple[bytes, str]]:
    """The segments that hold all of the needle."""
    found: dict[Place, tuple[bytes, str]] = {}
    at = data.find(needle)
    while at >= 0:
        k = int(np.searchsorted(ends, at, side="right"))
        start, end = int(ends[k - 1]) if k else 0, int(ends[k])
        if at + len(needle) <= end:
            found.setdefault(
                Place(*place, k), (pack.segments["id"][k].tobytes(), excerpt(data[start:end], at - start, len(needle)))
            )
            at = data.find(needle, end)
        else:
            at = data.find(needle, at + 1)
    return found


def _edges(place: tuple[int, int], pack: Pack, data: bytes, ends: I64, needle: bytes, length: int) -> list[_Edge]:
    """Of segments that may be pieces of a split text, what could hold a part of the needle at an end."""
    starts = pack.segments["start"].astype(np.int64)
    tokens = np.append(starts[1:], len(pack.tokens)) - starts
    found = []
    for k in np.flatnonzero((pack.segments["piece"] > 0) | (tokens == length)).tolist():
        own = data[int(ends[k - 1]) if k else 0 : int(ends[k])]
        inner = len(needle) - 1
        if len(own) > 2 * inner:
            head = own[:inner] if any(own.startswith(needle[-n:]) for n in range(1, inner + 1)) else b""
            tail = own[-inner:] if inner and any(own.endswith(needle[:n]) for n in range(1, inner + 1)) else b""
            own = head + BREAK + tail
        if own != BREAK:
            segment = pack.segments[k]
            found.append(
                _Edge(Place(*place, k), segment["id"].tobytes(), int(segment["epoch"]), int(segment["piece"]), own)
            )
    return found


def _across(edges: list[_Edge], needle: bytes) -> dict[Place, tuple[bytes, str]]:
    """Where a split text holds the needle across pieces: at each of these, the first of them."""
    texts: dict[tuple[int, bytes, int], list[_Edge]] = defaultdict(list)
    for edge in edges:
        texts[edge.place.stage, edge.id, edge.epoch].append(edge)
    found: dict[Place, tuple[bytes, str]] = {}
    for pieces in texts.values():
        pieces.sort(key=lambda edge: edge.piece)
        data, ends, number = b"", [], -1
        for edge in pieces:
            data += (b"" if edge.piece == number + 1 else BREAK) + edge.data
            number = edge.piece
            ends.append(len(data))
        at = data.find(needle)
        while at >= 0:
            first, last = np.searchsorted(ends, [at, at + len(needle) - 1], side="right").tolist()
            for edge in pieces[first : last + 1] if last > first else []:
                found.setdefault(edge.place, (edge.id, excerpt(data, at, len(needle))))
            at = data.find(needle, at + 1)
    return found
