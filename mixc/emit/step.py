"""The Datatrove step that links: task k writes one token shard or one media shard, and a receipt for it.

A receipt is written after its shard, atomically, and holds all that the manifest needs of it. A shard without one does
not exist, so a compile that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
from datatrove.pipeline.base import PipelineStep

import mixc.executor  # noqa: F401  quiets Datatrove in worker processes
from mixc.emit.expand import Assembly, MismatchError
from mixc.emit.layout import MediaShardTask, TokenShardTask
from mixc.emit.placements import read_placements
from mixc.errors import BuildError
from mixc.measure.object import Object
from shards.atomic import atomic_write
from shards.handles import HandleCache
from shards.manifest import MediaShardEntry, ShardEntry
from shards.media import MEDIA_DTYPE, write_media_shard
from shards.tokens import write_token_shard

OPEN_OBJECTS = 64
"""Objects that a task keeps mapped: bounds them, whatever the number of fragments."""


class TokenReceipt(msgspec.Struct, frozen=True, tag="tokens"):
    entry: ShardEntry
    digests: bytes
    """The pack digests, 32 bytes each."""


class MediaReceipt(msgspec.Struct, frozen=True, tag="media"):
    entry: MediaShardEntry
    records: bytes
    """MEDIA_DTYPE rows, in order of first use."""


Task = TokenShardTask | MediaShardTask
WORK = "work/tasks.msgpack"
Receipt = TokenReceipt | MediaReceipt


def receipt_path(staging: Path, task: Task) -> Path:
    return staging / "work" / (task.name.replace("/", "__") + ".receipt")


def read_receipt(staging: Path, task: Task) -> Receipt | None:
    """The receipt of a finished task; None when it must run (again)."""
    try:
        receipt = msgspec.msgpack.decode(receipt_path(staging, task).read_bytes(), type=Receipt)
        size = (staging / task.name).stat().st_size
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return receipt if size == receipt.entry.bytes else None


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the tasks of one emit share. It lies in a file, because the executor pickles the step for every task."""

    tasks: list[Task]
    objects: dict[int, str]
    """Fragment number of the plan -> its object's folder."""
    tokens_per_tile: int
    image_context_id: int


def write_work(staging: Path, work: Work) -> None:
    with atomic_write(staging / WORK) as file:
        file.write(msgspec.msgpack.encode(work))


@lru_cache(maxsize=1)
def _read_work(path: Path, version: int) -> Work:
    """`version` is the file's time of change, so that a process that serves two emits does not mix them up."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Work)


class EmitStep(PipelineStep):  # type: ignore[misc]
    """Rank r of n does the r-th, (r+n)-th, ... task of the work file in `staging`."""

    name = "emit"
    type = "mixc"

    def __init__(self, staging: Path) -> None:
        super().__init__()
        self.staging = staging

    @property
    def work(self) -> Work:
        path = self.staging / WORK
        return _read_work(path, path.stat().st_mtime_ns)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        work = self.work
        self._objects: HandleCache[int, Object] = HandleCache(
            lambda fragment: Object(Path(work.objects[fragment])), OPEN_OBJECTS
        )
        for task in work.tasks[rank::world_size]:
            receipt = self._tokens(task, work) if isinstance(task, TokenShardTask) else self._media(task)
            path = receipt_path(self.staging, task)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(msgspec.msgpack.encode(receipt))
            self.stat_update("shards")
        yield from ()

    def _tokens(self, task: TokenShardTask, work: Work) -> TokenReceipt:
        plan = self.staging / "plan/placements.parquet"
        placements = read_placements(plan, stage=task.stage, first=task.first, last=task.last)
        assembly = Assembly(
            placements,
            first=task.first,
            last=task.last,
            tokens_per_tile=work.tokens_per_tile,
            image_context_id=work.image_context_id,
        )
        # every object once, and from its beginning to its end
        order = np.lexsort((placements.offset, placements.fragment))
        fragments = placements.fragment[order]
        for placed in np.split(order, np.flatnonzero(np.diff(fragments)) + 1):
            if not len(placed):
                continue
            fragment = int(placements.fragment[placed[0]])
            taken_from = self._objects.get(fragment)
            try:
                assembly.add(taken_from.words, placed)
                taken_from.let_go()  # or all objects would be in memory after a few shards
            except MismatchError as error:
                raise BuildError(
                    "an object does not hold what the plan was made from",
                    where=work.objects[fragment],
                    why=f"sample {placements.id[error.args[0]].tobytes().hex()} is not at {placements.offset[error.args[0]]}",
                    mend="delete the cache folder and compile again",
                ) from None
        entry, digests = write_token_shard(self.staging, task.name, assembly.packs())
        return TokenReceipt(entry, digests)

    def _media(self, task: MediaShardTask) -> MediaReceipt:
        with duckdb.connect() as db:
            db.execute("SET threads = 1")
            rows = db.execute(
                'SELECT digest, fragment, "offset", size, extension, width, height FROM read_parquet(?) '
                "WHERE number >= ? AND number < ? ORDER BY number",
                [str(self.staging / "work/media.parquet"), task.first, task.last],
            ).fetchall()

        def items() -> Iterator[tuple[bytes, str, bytes]]:
            for digest, fragment, offset, size, extension, _, _ in rows:
                yield bytes(digest), extension, self._objects.get(fragment).image(offset, size)

        entry, offsets = write_media_shard(self.staging, task.name, items())
        records = np.zeros(len(rows), dtype=MEDIA_DTYPE)
        for i, (digest, _, _, size, _, width, height) in enumerate(rows):
            record = records[i]
            record["digest"], record["shard"], record["offset"] = bytes(digest), task.number, offsets[i]
            record["size"], record["width"], record["height"] = size, width, height
        return MediaReceipt(entry, records.tobytes())
