"""The Datatrove step that links: task k writes one token shard or one media shard, and a receipt for it.

A receipt is written after its shard, atomically, and holds all that the manifest needs of it. A shard without one does
not exist, so a compile that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
from datatrove.pipeline.base import PipelineStep

import mixc.executor  # noqa: F401  quiets Datatrove in worker processes
from mixc.emit.expand import Expanded, Segment, assemble, cut, expand
from mixc.emit.layout import MediaShardTask, TokenShardTask
from mixc.errors import BuildError
from mixc.measure.object import Object
from shards.atomic import atomic_write
from shards.digest import source_key
from shards.manifest import MediaShardEntry, ShardEntry
from shards.media import MEDIA_DTYPE, write_media_shard
from shards.pack import encode_pack
from shards.tokens import write_token_shard

OPEN_OBJECTS = 64
"""Objects a task keeps open: bounds file handles, whatever the number of fragments."""


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
        self.objects, self.tokens_per_tile = work.objects, work.tokens_per_tile
        self._open: dict[int, Object] = {}
        for task in work.tasks[rank::world_size]:
            receipt = self._tokens(task) if isinstance(task, TokenShardTask) else self._media(task)
            path = receipt_path(self.staging, task)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(msgspec.msgpack.encode(receipt))
            self.stat_update("shards")
        yield from ()

    def _object(self, fragment: int) -> Object:
        if fragment not in self._open:
            if len(self._open) >= OPEN_OBJECTS:
                oldest = next(iter(self._open))
                self._open.pop(oldest).close()
            self._open[fragment] = Object.open(Path(self.objects[fragment]))
        return self._open[fragment]

    def _tokens(self, task: TokenShardTask) -> TokenReceipt:
        entry, digests = write_token_shard(self.staging, task.name, self._packs(task))
        return TokenReceipt(entry, b"".join(digests))

    def _packs(self, task: TokenShardTask) -> Iterator[bytes]:
        columns = (
            'pack, source, id::BLOB, epoch, piece, piece_start, piece_end, weight, fragment, "offset", length, tokens'
        )
        with duckdb.connect() as db:
            db.execute("SET threads = 1")
            rows = db.execute(
                f"SELECT {columns} FROM read_parquet(?) WHERE stage = ? AND pack >= ? AND pack < ? ORDER BY pack, place",
                [str(self.staging / "plan/placements.parquet"), task.stage, task.first, task.last],
            )
            expected = task.first
            for pack, group in groupby(_stream(rows), key=lambda row: int(row[0])):
                for _ in range(expected, pack):
                    yield encode_pack(assemble([]))
                yield encode_pack(assemble([self._segment(row) for row in group]))
                expected = pack + 1
            for _ in range(expected, task.last):
                yield encode_pack(assemble([]))

    def _segment(self, row: tuple[Any, ...]) -> Segment:
        _, source, id, epoch, piece, start, end, weight, fragment, offset, length, tokens = row
        record = self._object(fragment).record(offset, length)
        whole = expand(record.tokens, record.spans, record.images, tokens_per_tile=self.tokens_per_tile)
        content: Expanded = cut(whole, start, end)
        if len(content.tokens) != tokens:
            raise BuildError(
                "an object does not hold what the plan was made from",
                where=self.objects[fragment],
                why=f"a sample of {len(content.tokens)} tokens stands where the plan counts {tokens}",
                mend="delete the cache folder and compile again",
            )
        return Segment(
            id=bytes(id),
            source=source_key(source),
            epoch=epoch,
            piece=piece,
            weight=weight,
            content=content,
        )

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
                yield bytes(digest), extension, self._object(fragment).image(offset, size)

        entry, offsets = write_media_shard(self.staging, task.name, items())
        records = np.zeros(len(rows), dtype=MEDIA_DTYPE)
        for i, (digest, _, _, size, _, width, height) in enumerate(rows):
            record = records[i]
            record["digest"], record["shard"], record["offset"] = bytes(digest), task.number, offsets[i]
            record["size"], record["width"], record["height"] = size, width, height
        return MediaReceipt(entry, records.tobytes())


def _stream(rows: duckdb.DuckDBPyConnection, size: int = 4096) -> Iterator[tuple[Any, ...]]:
    while batch := rows.fetchmany(size):
        yield from batch
