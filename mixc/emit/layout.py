"""How packs and images are divided into files. A function of the plan alone: workers and machines never show."""

from __future__ import annotations

from pathlib import Path

import duckdb
import msgspec

from mixc.plan.database import literal
from mixc.plan.tables import StagePlan
from shards.layout import media_shard_name, token_shard_name

MEDIA_SHARD_BYTES = 1 << 30
"""A media shard is closed when it has passed this size. A default of ours: large enough to stream, small to move."""

MIN_SHARD_TOKENS, MAX_SHARD_TOKENS, SHARDS_A_STAGE = 1 << 22, 1 << 25, 16
"""A stage becomes about 16 token shards, so that emit has work for several processes, of at least four million tokens (no
dust in small builds, and each has a vocabulary of its own) and at most 32 million: 34 MB, so that a shard is put together
in half a GB of memory, and a trillion tokens are thirty thousand files."""


class TokenShardTask(msgspec.Struct, frozen=True, tag="tokens"):
    """Packs [first, last) of a stage become one file."""

    stage: int
    name: str
    first: int
    last: int


class MediaShardTask(msgspec.Struct, frozen=True, tag="media"):
    """Images [first, last) of the build, in order of first use, become one file."""

    number: int
    name: str
    first: int
    last: int


def token_shards(stages: list[StagePlan]) -> list[TokenShardTask]:
    """Divide every stage's packs into shards of consecutive packs."""
    tasks = []
    for index, stage in enumerate(stages):
        limit = max(1, MAX_SHARD_TOKENS // stage.sequence_length)
        floor = max(1, MIN_SHARD_TOKENS // stage.sequence_length)
        size = min(limit, max(floor, -(-stage.packs // SHARDS_A_STAGE)))
        for number, first in enumerate(range(0, stage.packs, size)):
            name = token_shard_name(stage.name, number)
            tasks.append(TokenShardTask(index, name, first, min(first + size, stage.packs)))
    return tasks


def order_media(plan: Path, objects: dict[int, Path], out: Path) -> list[MediaShardTask]:
    """Write `out`: every image that the plan uses, once, in order of first use, with the shard it goes to.

    `objects` maps a fragment number to its object's folder. Columns of `out` (Parquet, sorted by `number`): number u64,
    shard u32, digest blob, fragment u32, offset, size, extension, width, height.

    Of an image that stands in several fragments any copy will do, for they are equal; the lowest numbered is taken.
    """
    with duckdb.connect() as db:
        db.execute(f"SET temp_directory = {literal(str(out.parent / 'spill'))}")
        db.execute("CREATE TABLE place AS SELECT * FROM (VALUES (0::UINTEGER, '')) v(fragment, file) LIMIT 0")
        rows = [(number, str(path / "media.parquet")) for number, path in sorted(objects.items())]
        db.executemany("INSERT INTO place VALUES (?, ?)", rows or [(0, "")])
        db.execute(f"CREATE VIEW placements AS FROM read_parquet({literal(str(plan / 'placements.parquet'))})")
        files = sorted({file for _, file in rows})
        if not files:
            return []
        db.execute(
            "CREATE VIEW media AS SELECT * FROM read_parquet(["
            + ", ".join(literal(file) for file in files)
            + "], filename = 'file')"
        )
        db.execute(
            """
            CREATE TABLE used AS
            SELECT stage, pack, p.place AS segment, m.place AS place, fragment, m.digest, m.offset, size,
                   extension, width, height
            FROM placements p JOIN place USING (fragment) JOIN media m ON m.file = place.file AND m."row" = p."row"
            WHERE p.images > 0
            QUALIFY row_number() OVER (PARTITION BY digest ORDER BY stage, pack, segment, m.place, fragment) = 1
            """
        )
        db.execute(
            f"""
            COPY (
                SELECT number, (before // {MEDIA_SHARD_BYTES})::UINTEGER AS shard, * EXCLUDE (number, before)
                FROM (SELECT row_number() OVER w - 1 AS number,
                             coalesce(sum(size) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::UBIGINT
                                 AS before,
                             digest, fragment, "offset", size, extension, width, height
                      FROM used WINDOW w AS (ORDER BY stage, pack, segment, place))
                ORDER BY number
            ) TO {literal(str(out))} (FORMAT parquet, COMPRESSION zstd)
            """
        )
        ranges = db.execute(
            f"SELECT shard, min(number), max(number) + 1 FROM read_parquet({literal(str(out))}) GROUP BY shard ORDER BY shard"
        ).fetchall()
    # A huge image can pass over a whole shard's worth of bytes, so shards are numbered again, without holes.
    return [MediaShardTask(i, media_shard_name(i), first, last) for i, (_, first, last) in enumerate(ranges)]
