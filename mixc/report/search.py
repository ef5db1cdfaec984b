"""Where a text or an image stands in a build's packs: every pack is read and looked through.

Text is looked for in the bytes that the tokens of a sample spell, so it is found wherever tokens begin and end; not across
control tokens or images, and across the pieces of a split text, but not across two samples. `<think>` and `</think>` are text
here: an answer had them. A tokenizer that is not byte-level has no such bytes: each sample is decoded, at a fraction of the speed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from mixc.emit.lock import read_lock
from mixc.errors import BuildError
from mixc.measure.family import IMAGE_CONTEXT
from mixc.measure.spelling import BREAK, spelling
from mixc.measure.template import THINK_TAGS
from mixc.measure.tokenizer import Tokenizer
from mixc.report.explain import Use, explain_places
from mixc.report.opened import build_tokenizer, read_summary
from shards.build import Build, StageReader
from shards.digest import digest_file
from shards.pack import Pack

T = TypeVar("T")
I64 = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with (packs done, packs in all)."""

PACKS_A_TASK = 64
AROUND = 40
"""Bytes of context on either side of what was found."""


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


def find_text(build: Path, text: str, *, limit: int | None, workers: int, progress: Progress | None = None) -> Search:
    """Every place that holds `text`; `limit` of them in full. Reads all packs with `workers` threads. Raises BuildError for an
    empty text, for one that no pack holds, or when the tokenizer is not to be had; ShardError for a pack that cannot be read."""
    opened = Build.open(build)
    tokenizer = build_tokenizer(opened.manifest, read_lock(build / "mixture.lock"), build)
    wanted = tokenizer.normalised(text)
    if not wanted.strip():
        raise BuildError("the text to look for is empty", mend="name a few words of it")
    needle = wanted.encode()
    spell = _speller(tokenizer)
    found: dict[Place, tuple[bytes, str]] = {}
    edges: list[_Edge] = []

    def look(place: tuple[int, int], pack: Pack, length: int) -> tuple[dict[Place, tuple[bytes, str]], list[_Edge]]:
        data, ends = spell(pack)
        return _within(place, pack, data, ends, needle), _edges(place, pack, data, ends, needle, length)

    for own, cut in _look_through(opened, look, workers, progress):
        found |= own
        edges += cut
    found |= _across(edges, needle)
    return _search(build, opened, wanted, found, limit, "text")


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
    return _search(build, opened, digest, found, limit, "image")


def _search(
    build: Path, opened: Build, what: str, found: dict[Place, tuple[bytes, str]], limit: int | None, kind: str
) -> Search:
    packs = sum(stage.packs for stage in opened.manifest.stages)
    unused = sum(read_summary(build).drops.values())
    elsewhere = (
        f"the {unused:,} samples that no stage uses, and rows that are unusable: a build holds none of their {kind}s, only their"
        " files and rows"
    )
    if not found:
        raise BuildError(
            f"nothing that is trained on holds this {kind}",
            where=str(build),
            why=f"all {packs:,} packs were looked through",
            mend=f"not searched: {elsewhere}" if unused else "",
        )
    shown = sorted(found)[:limit]
    uses = explain_places(build, shown)
    return Search(
        what=what,
        packs=packs,
        samples=len({id for id, _ in found.values()}),
        places=len(found),
        found=[Found(use=use, excerpt=found[place][1]) for use, place in zip(uses, shown, strict=True)],
        not_searched=[elsewhere] if unused else [],
    )


def _look_through(
    build: Build, look: Callable[[tuple[int, int], Pack, int], T], workers: int, progress: Progress | None
) -> Iterator[T]:
    """What `look` makes of each pack, given its stage and number and the stage's sequence length; in order, packs in threads.
    Reading a pack and spelling it leave the interpreter to others."""
    readers = [build.stage(entry.name) for entry in build.manifest.stages]
    total = sum(map(len, readers))
    tasks = ((n, r, first) for n, r in enumerate(readers) for first in range(0, len(r), PACKS_A_TASK))

    def run(stage: int, reader: StageReader, first: int) -> list[T]:
        last = min(first + PACKS_A_TASK, len(reader))
        length = reader.entry.sequence_length
        return [look((stage, i), reader.pack(i), length) for i in range(first, last)]

    done = 0
    waiting: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(run, *task))
                if len(waiting) > 2 * workers:
                    own = waiting.popleft().result()
                    done += len(own)
                    yield from own
                    if progress:
                        progress(done, total)
            while waiting:
                own = waiting.popleft().result()
                done += len(own)
                yield from own
                if progress:
                    progress(done, total)
        finally:
            for future in waiting:
                future.cancel()


def _speller(tokenizer: Tokenizer) -> Callable[[Pack], tuple[bytes, I64]]:
    """A function from a pack to its text in bytes, control tokens as BREAK and without images' places, and to where the bytes
    of each segment end, int64 [S]. Tags of thoughts are spelled: that they are one token each is a matter of the model's."""
    written = {IMAGE_CONTEXT: b"", **{tag: tag.encode() for tag in THINK_TAGS}}
    table = spelling(tokenizer, lambda name: written.get(name, BREAK))
    if table is not None:

        def spell(pack: Pack) -> tuple[bytes, I64]:
            data, ends = table.spell(pack.tokens)
            lasts = np.append(pack.segments["start"][1:], len(pack.tokens)).astype(np.int64) - 1
            return data, ends[lasts] if len(pack.segments) else ends

        return spell

    context = tokenizer.added.get(IMAGE_CONTEXT)
    controls = {id for name, id in tokenizer.added.items() if name not in THINK_TAGS}

    def decode(pack: Pack) -> tuple[bytes, I64]:
        starts = [*pack.segments["start"].tolist(), len(pack.tokens)]
        parts = []
        for start, end in pairwise(starts):
            tokens, text, run = pack.tokens[start:end].tolist(), bytearray(), []
            for token in [*tokens, None]:
                if token is not None and token not in controls:
                    run.append(token)
                    continue
                text += tokenizer.decode(run).encode() if run else b""
                text += b"" if token in (None, context) else BREAK
                run = []
            parts.append(bytes(text))
        return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)

    return decode


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
                Place(*place, k), (pack.segments["id"][k].tobytes(), _excerpt(data[start:end], at - start, len(needle)))
            )
            at = data.find(needle, end)
        else:
            at = data.find(needle, at + 1)
    return found


def _excerpt(data: bytes, at: int, length: int) -> str:
    before, after = data[max(0, at - AROUND) : at], data[at + length : at + length + AROUND]
    before, after = before[before.rfind(BREAK) + 1 :], after.partition(BREAK)[0]
    text = (before + data[at : at + length] + after).decode(errors="ignore")
    return " ".join(text.split())


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
                found.setdefault(edge.place, (edge.id, _excerpt(data, at, len(needle))))
            at = data.find(needle, at + 1)
    return found
