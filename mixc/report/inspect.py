"""A pack as a person would want to read it: text with the supervised part marked, images with their grids."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mixc.emit.lock import read_lock
from mixc.measure.spelling import spelling
from mixc.report.explain import explain_sample
from mixc.report.opened import build_tokenizer, require_pack, require_step, stage_number
from shards.build import Build
from shards.digest import source_key
from shards.pack import Pack, supervised_by_segment


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token; or several, where only together they are whole characters."""

    ids: list[int]
    text: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a segment: text, or an image in its place."""

    text: str
    supervised: bool
    tokens: list[Token] | None = None
    """Of a text, if they were asked for and the tokenizer is byte-level."""
    image: str | None = None
    """blake3 of the encoded image."""
    grid: str | None = None
    """`cols x rows`, `+ thumbnail`."""
    cols: int = 0
    rows: int = 0
    thumbnail: bool = False
    width: int = 0
    """Pixels, as stored."""
    height: int = 0


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    place: int
    """In the pack."""
    id: str
    source: str
    epoch: int
    piece: int
    tokens: int
    supervised_tokens: int
    weight: float
    """Of each supervised token in the loss."""
    runs: list[Run]


class InspectedPack(msgspec.Struct, frozen=True, kw_only=True):
    stage: str
    step: int
    pack: int
    tokens: int
    capacity: int
    segments: list[Segment]
    """All of the pack's, or the one that was asked for."""


class Inspector:
    """The packs of one build, decoded with the tokenizer that it was made with; `tokens`: token by token. Raises BuildError and
    ShardError for what is not there or cannot be read."""

    def __init__(self, path: Path, *, tokens: bool = False) -> None:
        self._path = path
        self.build = Build.open(path)
        lock = read_lock(path / "mixture.lock")
        self._tokenizer = build_tokenizer(self.build.manifest, lock, path)
        self._spelling = spelling(self._tokenizer) if tokens else None
        self._names = {source_key(name): name for name in lock.sources}

    def step(self, stage: str | None, step: int) -> list[InspectedPack]:
        """All packs of a step."""
        entry = self.build.manifest.stages[self._number(stage)]
        require_step(entry, step, self._path)
        return [self.pack(entry.name, step * entry.batch + k) for k in range(entry.batch)]

    def sample(self, sample: str, stage: str | None = None) -> InspectedPack | None:
        """A sample, alone, where it first stands (in `stage`); None when no stage uses it. `sample` as for `explain_sample`."""
        uses = explain_sample(self._path, sample).uses
        if stage is not None:
            name = self.build.manifest.stages[self._number(stage)].name
            uses = [use for use in uses if use.stage == name]
        return self.pack(uses[0].stage, uses[0].pack, only=uses[0].place) if uses else None

    def pack(self, stage: str | None, number: int, *, only: int | None = None) -> InspectedPack:
        """Pack `number` of a stage (the first by default), or one segment of it."""
        entry = self.build.manifest.stages[self._number(stage)]
        require_pack(entry, number, self._path)
        pack = self.build.stage(entry.name).pack(number)
        starts = [*pack.segments["start"].tolist(), len(pack.tokens)]
        supervised = supervised_by_segment(pack).tolist()
        return InspectedPack(
            stage=entry.name,
            step=number // entry.batch,
            pack=number,
            tokens=len(pack.tokens),
            capacity=entry.sequence_length,
            segments=[
                Segment(
                    place=place,
                    id=segment["id"].tobytes().hex(),
                    source=self._names.get(int(segment["source"]), f"{int(segment['source']):016x}"),
                    epoch=int(segment["epoch"]),
                    piece=int(segment["piece"]),
                    tokens=starts[place + 1] - starts[place],
                    supervised_tokens=supervised[place],
                    weight=float(segment["weight"]),
                    runs=self._runs(pack, starts[place], starts[place + 1]),
                )
                for place, segment in enumerate(pack.segments)
                if only is None or place == only
            ],
        )

    def _number(self, stage: str | None) -> int:
        return 0 if stage is None else stage_number(self.build.manifest, stage, self._path)

    def _runs(self, pack: Pack, start: int, end: int) -> list[Run]:
        """Cut [start, end) wherever supervision or an image begins or ends, and decode each part."""
        images = {int(image["start"]): image for image in pack.images if start <= image["start"] < end}
        spans = [
            (int(a), int(b)) for a, b in zip(pack.spans["start"], pack.spans["end"], strict=True) if start <= a < end
        ]
        cuts = {start, end, *(cut for span in spans for cut in span)}
        for at, image in images.items():
            tiles = int(image["cols"]) * int(image["rows"]) + int(image["thumbnail"])
            cuts |= {at, at + tiles * self.build.manifest.geometry.tokens_per_tile}
        runs = []
        for a, b in pairwise(sorted(cuts)):
            if a in images:
                runs.append(self._image(images[a]))
                continue
            own = pack.tokens[a:b]
            runs.append(
                Run(
                    text=self._tokenizer.decode(own.astype(np.uint32)),
                    supervised=any(first <= a < last for first, last in spans),
                    tokens=None if self._spelling is None else _tokens(own, *self._spelling.spell(own)),
                )
            )
        return runs

    def _image(self, image: np.void) -> Run:
        digest = image["digest"].tobytes()
        position = self.build.media.position(digest)
        record = None if position is None else self.build.media.records[position]
        cols, rows, thumbnail = int(image["cols"]), int(image["rows"]), bool(image["thumbnail"])
        return Run(
            text="",
            supervised=False,
            image=digest.hex(),
            grid=f"{cols} x {rows}" + (" + thumbnail" if thumbnail else ""),
            cols=cols,
            rows=rows,
            thumbnail=thumbnail,
            width=0 if record is None else int(record["width"]),
            height=0 if record is None else int(record["height"]),
        )


def _tokens(ids: npt.NDArray[np.int32], data: bytes, ends: npt.NDArray[np.int64]) -> list[Token]:
    """Tokens one by one, but together those that share a character: bytes that are no UTF-8 alone."""
    found, start, first = [], 0, 0
    for t, end in enumerate(ends.tolist()):
        try:
            text = data[start:end].decode()
        except UnicodeDecodeError as error:
            # a character has at most four bytes; what is broken for longer is broken for good
            if t + 1 < len(ids) and end - start - error.start < 4:
                continue
            text = data[start:end].decode(errors="replace")
        found.append(Token(ids=ids[first : t + 1].tolist(), text=text))
        start, first = end, t + 1
    return found
