"""A pack as a person would want to read it: text with the supervised part marked, images with their grids."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from mixc.emit.lock import read_lock
from mixc.errors import BuildError
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from shards.build import Build
from shards.cache_folder import cache_folder
from shards.digest import source_key
from shards.pack import Pack


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a segment: text, or an image in its place."""

    text: str
    supervised: bool
    image: str | None = None
    """blake3 of the encoded image."""
    grid: str | None = None
    """`cols x rows`, `+ thumbnail`."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    source: str
    epoch: int
    piece: int
    tokens: int
    supervised_tokens: int
    weight: float
    runs: list[Run]


class InspectedPack(msgspec.Struct, frozen=True, kw_only=True):
    stage: str
    step: int
    pack: int
    tokens: int
    capacity: int
    segments: list[Segment]


def inspect_pack(path: Path, stage: str | None, number: int) -> InspectedPack:
    """Pack `number` of a stage (the first by default), decoded with the tokenizer that the build was made with."""
    build = Build.open(path)
    entry = build.stage(stage or build.manifest.stages[0].name).entry
    if number >= entry.packs:
        raise BuildError(f"stage {entry.name} has packs 0 to {entry.packs - 1}, not {number}", where=str(path))
    lock = read_lock(path / "mixture.lock")
    tokenizer = load_tokenizer(lock.spec["tokenizer"], base=Path.cwd(), cache=cache_folder())
    if tokenizer.digest != build.manifest.tokenizer:
        raise BuildError(
            f"the tokenizer {lock.spec['tokenizer']!r} is not the one that the build was made with",
            where=str(path),
            why=f"{tokenizer.digest[:16]}, the build has {build.manifest.tokenizer[:16]}",
        )
    names = {source_key(name): name for name in lock.sources}
    pack = build.stage(entry.name).pack(number)
    ends = [*pack.segments["start"][1:].tolist(), len(pack.tokens)]
    return InspectedPack(
        stage=entry.name,
        step=number // entry.batch,
        pack=number,
        tokens=len(pack.tokens),
        capacity=entry.sequence_length,
        segments=[
            Segment(
                id=segment["id"].tobytes().hex(),
                source=names.get(int(segment["source"]), f"{int(segment['source']):016x}"),
                epoch=int(segment["epoch"]),
                piece=int(segment["piece"]),
                tokens=end - int(segment["start"]),
                supervised_tokens=_supervised(pack, int(segment["start"]), end),
                weight=float(segment["weight"]),
                runs=_runs(pack, int(segment["start"]), end, tokenizer, build.manifest.geometry.tokens_per_tile),
            )
            for segment, end in zip(pack.segments, ends, strict=True)
        ],
    )


def _supervised(pack: Pack, start: int, end: int) -> int:
    inside = (pack.spans["start"] >= start) & (pack.spans["end"] <= end)
    return int((pack.spans["end"] - pack.spans["start"])[inside].sum())


def _runs(pack: Pack, start: int, end: int, tokenizer: Tokenizer, tokens_per_tile: int) -> list[Run]:
    """Cut [start, end) wherever supervision or an image begins or ends, and decode each part."""
    images = {int(image["start"]): image for image in pack.images if start <= image["start"] < end}
    spans = [(int(a), int(b)) for a, b in zip(pack.spans["start"], pack.spans["end"], strict=True) if start <= a < end]
    cuts = {start, end, *(cut for span in spans for cut in span)}
    for at, image in images.items():
        tiles = int(image["cols"]) * int(image["rows"]) + int(image["thumbnail"])
        cuts |= {at, at + tiles * tokens_per_tile}
    runs = []
    for a, b in pairwise(sorted(cuts)):
        if a in images:
            image = images[a]
            grid = f"{image['cols']} x {image['rows']}" + (" + thumbnail" if image["thumbnail"] else "")
            runs.append(Run(text="", supervised=False, image=image["digest"].tobytes().hex(), grid=grid))
        else:
            supervised = any(first <= a < last for first, last in spans)
            runs.append(Run(text=tokenizer.decode(pack.tokens[a:b].astype(np.uint32)), supervised=supervised))
    return runs


def show(pack: InspectedPack, console: Console) -> None:
    """Supervised text is bold green; without colour it stands between ⟦ and ⟧."""
    console.print(
        f"stage {pack.stage}, step {pack.step}, pack {pack.pack}: {len(pack.segments)} samples, "
        f"{pack.tokens:,} of {pack.capacity:,} tokens"
    )
    for number, segment in enumerate(pack.segments):
        piece = f", piece {segment.piece}" if segment.piece else ""
        console.rule(
            f"{number}: {segment.source} {segment.id[:12]} epoch {segment.epoch}{piece}, {segment.tokens:,} tokens, "
            f"{segment.supervised_tokens:,} supervised, weight {segment.weight:.4g}",
            align="left",
        )
        text = Text()
        for run in segment.runs:
            if run.image:
                text.append(f"[image {run.image[:12]}, {run.grid}]", style="cyan")
            elif run.supervised:
                text.append(run.text if console.color_system else f"⟦{run.text}⟧", style="bold green")
            else:
                text.append(run.text, style="dim")
        console.print(text, soft_wrap=True)
