"""What `mixc compile` says at its end: what was built, and the commands that come next. `mixc plan` has the tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mixc.cache.sizes import show_size
from mixc.plan.show import short
from shards.counted import counted
from shards.files import named_files

if TYPE_CHECKING:
    from mixc.compile import Compiled
    from mixc.plan.tables import StagePlan


def lines(compiled: Compiled, out: Path, rejected: Sequence[str]) -> Iterator[str]:
    """`rejected`: lines that name some of the rows that cannot be used."""
    manifest, summary = compiled.manifest, compiled.summary
    for stage in summary.stages:
        yield _stage(stage)
    left = sum(summary.drops.values())
    unusable = sum(sum(reasons.values()) for reasons in summary.rejects.values())
    told = [f"{counted(left, 'sample')} in no stage"] if left else []
    told += [f"{counted(unusable, 'row')} rejected"] if unusable else []
    if told:
        yield f"left out: {', '.join(told)}; the report says why"
    yield from rejected
    size = show_size(sum(bytes for bytes, _ in named_files(manifest).values()))
    yield f"{'unchanged' if compiled.unchanged else 'built'} {out}: {size}, {counted(manifest.media.images, 'image')}"
    yield f"root {manifest.root}"
    if compiled.replaced:
        yield "replaced: the same root" if compiled.replaced == manifest.root else f"replaced: root {compiled.replaced}"
    place = shlex.quote(str(out))
    yield "next:"
    yield f"  mixc train {place} --out run" + ("" if manifest.continues is None else " --continue-from RUN")
    yield f"  mixc report {place}"


def _stage(stage: StagePlan) -> str:
    return (
        f"{stage.name}: {counted(stage.steps, 'step')} of {counted(stage.batch, 'pack')}, {stage.fill:.0%} filled;"
        f" {counted(stage.samples, 'sample')} of {counted(len(stage.sources), 'source')}, {short(stage.tokens)} tokens"
    )
