"""Emit: plan and objects in, token shards, media shards and the manifest out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt

from mixc.emit.layout import MediaShardTask, TokenShardTask, order_media, token_shards
from mixc.emit.settings import train_settings
from mixc.emit.step import EmitStep, MediaReceipt, Task, TokenReceipt, Work, read_receipt, write_work
from mixc.executor import Progress, run_tasks
from mixc.plan.tables import PlanSummary, StagePlan
from mixc.spec.schema import Spec, Stage
from shards.layout import MEDIA_INDEX, steps_name
from shards.manifest import (
    Geometry,
    MediaEntry,
    SourceShare,
    StageEntry,
    stage_digest,
)
from shards.media import MEDIA_DTYPE, write_media_index
from shards.steps import STEP_DTYPE, write_steps


@dataclass(frozen=True, slots=True)
class Emitted:
    """What emit adds to the manifest."""

    stages: list[StageEntry]
    media: MediaEntry


def emit(
    spec: Spec,
    summary: PlanSummary,
    *,
    staging: Path,
    objects: dict[int, Path],
    geometry: Geometry,
    workers: int,
    progress: Progress | None = None,
) -> Emitted:
    """Write every shard of the build into `staging`, which already holds `plan/`. Shards that a killed run finished are
    kept. `objects` maps a fragment number of the plan to its object's folder."""
    work = staging / "work"
    work.mkdir(exist_ok=True)
    media_tasks = order_media(staging / "plan", objects, work / "media.parquet")
    token_tasks = token_shards(summary.stages)
    tasks: list[Task] = [*token_tasks, *media_tasks]
    missing = [task for task in tasks if read_receipt(staging, task) is None]
    write_work(
        staging,
        Work(
            tasks=missing,
            objects={number: str(path) for number, path in objects.items()},
            tokens_per_tile=geometry.tokens_per_tile,
            image_context_id=geometry.image_context_id,
        ),
    )
    run_tasks(EmitStep(staging), tasks=len(missing), workers=workers, progress=progress)

    shards: dict[int, list[TokenReceipt]] = {index: [] for index in range(len(summary.stages))}
    media: list[MediaReceipt] = []
    for task in tasks:
        match task, read_receipt(staging, task):
            case TokenShardTask(), TokenReceipt() as receipt:
                shards[task.stage].append(receipt)
            case MediaShardTask(), MediaReceipt() as receipt:
                media.append(receipt)
            case _:
                raise AssertionError(f"{task.name} has no receipt although its task ended")
    stages = [
        _stage(spec.stages[index], planned, index, shards[index], staging)
        for index, planned in enumerate(summary.stages)
    ]
    return Emitted(stages, _media(staging, media))


def _stage(
    stage: Stage,
    planned: StagePlan,
    index: int,
    receipts: list[TokenReceipt],
    staging: Path,
) -> StageEntry:
    digests = b"".join(receipt.digests for receipt in receipts)
    steps_file = steps_name(stage.name)
    steps_digest = write_steps(staging / steps_file, _steps(staging, index, planned.steps))
    return StageEntry(
        name=stage.name,
        batch=planned.batch,
        sequence_length=planned.sequence_length,
        max_tiles=planned.max_tiles,
        steps=planned.steps,
        packs=planned.packs,
        samples=planned.samples,
        tokens=planned.tokens,
        supervised_tokens=planned.supervised_tokens,
        images=planned.images,
        tiles=planned.tiles,
        unit=planned.unit,
        sources={
            name: msgspec.convert({f: getattr(share, f) for f in SourceShare.__struct_fields__}, SourceShare)
            for name, share in sorted(planned.sources.items())
        },
        train=train_settings(stage, planned),
        digest=stage_digest([digests[i : i + 32] for i in range(0, len(digests), 32)]),
        steps_file=steps_file,
        steps_digest=steps_digest,
        shards=[receipt.entry for receipt in receipts],
    )


def _steps(staging: Path, stage: int, count: int) -> npt.NDArray[np.void]:
    """What each step holds, STEP_DTYPE [count]. A step's denominator is the exactly rounded sum of its packs'."""
    steps = np.zeros(count, dtype=STEP_DTYPE)
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT step, list(denominator), sum(tokens), sum(supervised_tokens), sum(images), sum(tiles), sum(samples) "
            "FROM read_parquet(?) WHERE stage = ? GROUP BY step",
            [str(staging / "plan/packs.parquet"), stage],
        )
        while row := rows.fetchone():
            record = steps[row[0]]
            record["denominator"] = math.fsum(row[1])
            for name, value in zip(("tokens", "supervised", "images", "tiles", "samples"), row[2:], strict=True):
                record[name] = value
    return steps


def _media(staging: Path, receipts: list[MediaReceipt]) -> MediaEntry:
    records = np.frombuffer(b"".join(receipt.records for receipt in receipts), dtype=MEDIA_DTYPE)
    (staging / MEDIA_INDEX).parent.mkdir(exist_ok=True)
    digest = write_media_index(staging / MEDIA_INDEX, records)
    return MediaEntry(
        images=len(records),
        bytes=int(records["size"].sum()),
        index=MEDIA_INDEX,
        index_file=digest,
        shards=[receipt.entry for receipt in receipts],
    )
