"""What a build is as tables: those that its files hold, and those that its manifest and summary are laid out in.

The database reads no file itself (mixc/plan/database.py says how it is shut in): Parquet comes in through Arrow, column by
column and row group by row group, as a query asks for it. So a query, whatever it says, reaches these tables and no file,
and cannot write to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs

from mixc.emit.pictures import PICTURES, PICTURES_SCHEMA
from mixc.errors import BuildError
from mixc.plan.database import literal, open_database, quoted
from mixc.plan.tables import HELD_OUT_SCHEMA, KEPT_OUT_SCHEMA, PlanSummary
from shards.errors import ShardError
from shards.manifest import Manifest, read_manifest

PLAN_FILES = {
    "placements": "which sample stands where: a row for each sample, or piece of one, in a pack",
    "packs": "a row for each pack, in the order of training",
    "drops": "a row for each sample that no stage uses, with the rule that dropped it",
    "kept_out": "a row for a stage and a sample of its sources that its own rules keep out of it, where drops does not say so",
    "held_out": "samples that were kept for evaluation",
    "fragments": "a row for each file, or part of one, that sources were read from",
}
"""Parquet files of a plan and what they hold."""
_MAY_BE_MISSING = {"held_out": HELD_OUT_SCHEMA, "kept_out": KEPT_OUT_SCHEMA, "pictures": PICTURES_SCHEMA}
"""A plan that holds nothing out writes no such file, nor does a build without folders of images; one of an earlier version has no
kept_out."""
OTHERS = {
    "pictures": "a row for each image of sources that are folders of images: its file",
    "rejects": "unusable rows of the sources, with their place and the reason",
    "samples": "a row for each sample: its uses and stages, or the rule that dropped it",
    "sources": "a row for each source: its files, samples and rejects",
    "stages": "a row for each stage: its budget, steps, packs, tokens",
    "mix": "a row for each source of a stage: shares wished and met, epochs, tokens",
    "shards": "a row for each token shard",
}
ABOUT = PLAN_FILES | OTHERS
"""Every table, and what it holds."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    type: str
    """As DuckDB calls it."""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    about: str
    columns: list[Column]


@contextmanager
def open_tables(build: Path, scratch: Path, *, memory_limit: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the tables of `build`, and nothing else to reach, in a transaction that only reads. It spills into
    `scratch`, a folder made now and removed at the end. Raises BuildError when this is no build, PlanError as
    `open_database`."""
    try:
        manifest = read_manifest(build)
        summary = msgspec.json.decode((build / "plan/summary.json").read_bytes(), type=PlanSummary)
    except ShardError:
        raise
    except (OSError, msgspec.MsgspecError) as error:
        raise _unreadable(build / "plan/summary.json", error) from error
    names = [stage.name for stage in manifest.stages]
    if names != [stage.name for stage in summary.stages]:
        raise _unreadable(build / "plan/summary.json", ValueError("it has other stages than the manifest"))
    with open_database(scratch, memory_limit=memory_limit) as connection:
        for name in PLAN_FILES:
            _add_file(connection, name, build / "plan" / f"{name}.parquet", names)
        _add_file(connection, "pictures", build / PICTURES, names)
        _add_file(connection, "rejects", build / "rejects.parquet", names)
        for name, rows in _laid_out(manifest, summary).items():
            connection.register(f"laid out {name}", rows)
            connection.execute(f"CREATE TABLE {name} AS FROM {quoted(f'laid out {name}')}")
            connection.unregister(f"laid out {name}")
        for statement in _DERIVED:
            connection.execute(statement)
        connection.execute("BEGIN TRANSACTION READ ONLY")
        yield connection


def list_tables(connection: duckdb.DuckDBPyConnection) -> list[Table]:
    """All tables with their columns, in the order of ABOUT."""
    return [
        Table(
            name=name,
            about=about,
            columns=[
                Column(name=column, type=type) for column, type, *_ in connection.execute(f"DESCRIBE {name}").fetchall()
            ],
        )
        for name, about in ABOUT.items()
    ]


def _add_file(connection: duckdb.DuckDBPyConnection, name: str, path: Path, stages: list[str]) -> None:
    """A view of a Parquet file, with a stage's name beside its number."""
    data: Any
    if name in _MAY_BE_MISSING and not path.exists():
        data = _MAY_BE_MISSING[name].empty_table()
    else:
        try:
            data = ds.dataset(str(path.absolute()), format="parquet", filesystem=fs.LocalFileSystem())
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
    connection.register(f"file {name}", data)
    columns = "*"
    if "stage" in data.schema.names:
        listed = ", ".join(map(literal, stages))
        columns = f"stage, list_extract([{listed}]::VARCHAR[], stage + 1) AS stage_name, * EXCLUDE (stage)"
    connection.execute(f"CREATE TEMP VIEW {name} AS SELECT {columns} FROM {quoted(f'file {name}')}")


def _laid_out(manifest: Manifest, summary: PlanSummary) -> dict[str, pa.Table]:
    """Tables that are in no Parquet file."""
    planned = {stage.name: stage for stage in summary.stages}
    numbered = list(enumerate(manifest.stages))
    counts = ("samples", "tokens", "supervised_tokens", "images", "tiles")
    integers: Callable[..., list[tuple[str, pa.DataType]]] = lambda *names: [(name, pa.uint64()) for name in names]  # noqa: E731
    stage = [("stage", pa.uint16()), ("stage_name", pa.string())]
    stages = [
        {
            "stage": number,
            "stage_name": entry.name,
            "unit": entry.unit,
            "budget": planned[entry.name].budget,
            "batch": entry.batch,
            "sequence_length": entry.sequence_length,
            "max_tiles": entry.max_tiles,
            "steps": entry.steps,
            "packs": entry.packs,
            "empty_packs": planned[entry.name].empty_packs,
            **{name: getattr(entry, name) for name in counts},
            "fill": planned[entry.name].fill,
            "digest": entry.digest,
        }
        for number, entry in numbered
    ]
    mix = [
        {"stage": number, "stage_name": entry.name, "source": source, **msgspec.structs.asdict(share)}
        for number, entry in numbered
        for source, share in planned[entry.name].sources.items()
    ]
    shards = [
        {
            "stage": number,
            "stage_name": entry.name,
            **{name: getattr(shard, name) for name in ("name", "packs", "bytes", "digest")},
        }
        for number, entry in numbered
        for shard in entry.shards
    ]
    limits = ("budget", "batch", "sequence_length", "max_tiles", "steps", "packs", "empty_packs")
    shares = [(name, pa.float64()) for name in ("wished", "met", "epochs")]
    return {
        "stages": pa.Table.from_pylist(
            stages,
            pa.schema(
                [
                    *stage,
                    ("unit", pa.string()),
                    *integers(*limits, *counts),
                    ("fill", pa.float64()),
                    ("digest", pa.string()),
                ]
            ),
        ),
        "mix": pa.Table.from_pylist(
            mix, pa.schema([*stage, ("source", pa.string()), *shares, *integers("eligible", *counts)])
        ),
        "shards": pa.Table.from_pylist(
            shards, pa.schema([*stage, ("name", pa.string()), *integers("packs", "bytes"), ("digest", pa.string())])
        ),
    }


_DERIVED = (
    # a sample that is used has no rule, and one that is dropped has one
    """
    CREATE TEMP VIEW samples AS
        SELECT id, source, count(DISTINCT (stage, epoch)) AS uses,
               list(DISTINCT stage_name ORDER BY stage_name) AS stages, NULL::VARCHAR AS rule,
               min(fragment) AS fragment, arg_min("row", fragment) AS "row"
        FROM placements GROUP BY id, source
        UNION ALL
        SELECT id, source, 0, [], rule, fragment, "row" FROM drops
    """,
    """
    CREATE TEMP VIEW sources AS
        SELECT source, count(*) AS fragments, count(DISTINCT path) AS files, sum(samples)::UBIGINT AS samples,
               sum(rejects)::UBIGINT AS rejects
        FROM fragments GROUP BY source ORDER BY source
    """,
)


def _unreadable(path: Path, error: Exception) -> BuildError:
    return BuildError(
        "this file of the build cannot be read",
        where=str(path),
        why=str(error).split("\n", 1)[0],
        mend="`mixc verify` says what else is wrong with the build",
    )
