"""What another build's training used before the step from which a spec continues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from mixc.errors import BuildError, SpecError
from mixc.plan.keys import join_ids
from mixc.plan.load import id_halves
from mixc.plan.samples import Samples
from mixc.sorting import equal_runs, total_order
from mixc.spec.schema import ContinueFrom
from shards.counted import counted
from shards.errors import ShardError
from shards.manifest import read_manifest

Array = npt.NDArray[Any]

BATCH_ROWS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """Samples that were trained, each once, sorted by id, and how often."""

    root: str
    """Of the build."""
    stage: str
    step: int
    hi: Array
    """uint64 [C]: halves of the ids."""
    lo: Array
    uses: Array
    """uint32 [C]: visits (epochs), in all stages; a sample of which a piece was trained counts as used."""
    in_stage: Array
    """uint32 [C]: those in `stage` itself."""

    @property
    def digest(self) -> str:
        """blake3 over ids (16 bytes) and uses (u32, little-endian), sorted by id."""
        rows = np.zeros(len(self.hi), [("id", "V16"), ("uses", "<u4")])
        rows["id"] = np.frombuffer(join_ids(self.hi, self.lo), "V16")
        rows["uses"] = self.uses
        return blake3(rows.tobytes()).hexdigest()

    def of(self, samples: Samples) -> tuple[Array, Array]:
        """Uses uint32 [N] of a plan's samples: in all stages, and in `stage` itself."""
        count = len(samples)
        hi, lo = np.concatenate([samples.hi, self.hi]), np.concatenate([samples.lo, self.lo])
        order = total_order([hi, lo])  # stable: a plan's sample stands before its equal among the consumed
        starts, ends = equal_runs(hi[order], lo[order])
        found, at = order[starts], order[ends - 1] - count
        uses, in_stage = np.zeros(len(samples), np.uint32), np.zeros(len(samples), np.uint32)
        uses[found], in_stage[found] = self.uses[at], self.in_stage[at]
        return uses, in_stage


def read_consumed(build: Path, point: ContinueFrom) -> Consumed:
    """What stages before `point.stage`, and that stage up to before step `point.step`, trained. Raises SpecError when
    the build has no such step, BuildError when it cannot be read."""
    try:
        manifest = read_manifest(build)
    except (OSError, ShardError) as error:
        raise BuildError(
            "the build to continue from cannot be read", where=str(build), why=str(error), mend="name a build's folder"
        ) from None
    names = [stage.name for stage in manifest.stages]
    if point.stage not in names:
        raise SpecError(
            f"the build to continue from has no stage `{point.stage}`",
            where=str(build),
            why=f"it has {', '.join(names)}",
        )
    number = names.index(point.stage)
    if point.step > manifest.stages[number].steps:
        raise SpecError(
            f"stage `{point.stage}` of the build to continue from has {counted(manifest.stages[number].steps, 'step')},"
            f" not {point.step:,}",
            where=str(build),
        )
    try:
        visits = [_visits(batch) for batch in _trained(build / "plan" / "placements.parquet", number, point.step)]
    except (OSError, pa.ArrowException) as error:
        raise BuildError(
            "the plan of the build to continue from cannot be read",
            where=str(build),
            why=str(error),
            mend="compile the build again",
        ) from None
    columns = [np.concatenate(parts) for parts in zip(*visits, strict=True)] if visits else [np.zeros(0, np.uint64)] * 4
    hi, lo, stage, epoch = columns
    order = total_order([hi, lo, stage, epoch])
    hi, lo, stage, epoch = hi[order], lo[order], stage[order], epoch[order]
    fresh = np.ones(len(hi), bool)  # the first of a visit's pieces
    fresh[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1]) | (stage[1:] != stage[:-1]) | (epoch[1:] != epoch[:-1])
    hi, lo, stage = hi[fresh], lo[fresh], stage[fresh]
    first = np.ones(len(hi), bool)
    first[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
    sample = np.cumsum(first) - 1
    count = int(first.sum())
    return Consumed(
        root=manifest.root,
        stage=point.stage,
        step=point.step,
        hi=hi[first],
        lo=lo[first],
        uses=np.bincount(sample, minlength=count).astype(np.uint32),
        in_stage=np.bincount(sample, stage == number, minlength=count).astype(np.uint32),
    )


def _trained(placements: Path, stage: int, step: int) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(placements)
    for batch in file.iter_batches(BATCH_ROWS, columns=["stage", "step", "id", "epoch"]):
        earlier = pc.less(batch["stage"], stage)
        own = pc.and_(pc.equal(batch["stage"], stage), pc.less(batch["step"], step))
        yield batch.filter(pc.or_(earlier, own))


def _visits(batch: pa.RecordBatch) -> tuple[Array, Array, Array, Array]:
    hi, lo = id_halves(batch["id"])
    return hi, lo, batch["stage"].to_numpy().astype(np.uint64), batch["epoch"].to_numpy().astype(np.uint64)
