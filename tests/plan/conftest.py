"""Small worlds to plan: facts of made-up samples, written as the measure pass lays them out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixc.measure.facts import COLUMN_PREFIX, FACTS_SCHEMA
from mixc.plan.load import PlannedFragment
from mixc.plan.run import plan
from mixc.plan.tables import PlanSummary
from mixc.spec.schema import Source, Spec, Stage, Train
from shards.manifest import Geometry

GEOMETRY = Geometry(
    name="sail-vl-tiny",
    tile_size=448,
    tokens_per_tile=256,
    max_tiles=12,
    min_tiles=1,
    thumbnail=True,
    vocab_size=151936,
    image_start_id=151666,
    image_end_id=151667,
    image_context_id=151665,
    pad_id=151643,
)
PROVENANCE = ("fragment", "row", "offset", "length")


def digest(*parts: object, size: int = 16) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=size).digest()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One made-up sample. Its identity is `content` (and its source), as a real one's is."""

    content: object
    tokens: int = 10
    supervised: int | None = None
    images: int = 0
    tiles: int = 0
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    summary: PlanSummary
    out: Path

    def rows(self, table: str) -> list[dict[str, Any]]:
        return pq.read_table(self.out / f"{table}.parquet").to_pylist()

    def ids(self, stage: int, source: str) -> list[bytes]:
        """Of every placement of a source, in order."""
        return [row["id"].bytes for row in self.rows("placements") if row["stage"] == stage and row["source"] == source]

    def content(self) -> dict[str, pa.Table]:
        """Every table without the columns that say where a sample lies."""
        tables = {name: pq.read_table(self.out / f"{name}.parquet") for name in ("placements", "packs", "drops")}
        return {
            name: table.drop_columns([column for column in PROVENANCE if column in table.column_names])
            for name, table in tables.items()
        }


class World:
    """Writes facts and plans them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plans = 0

    def fragment(
        self, source: str, rows: Iterable[Row], name: str = "0", types: dict[str, pa.DataType] | None = None
    ) -> PlannedFragment:
        rows = list(rows)
        path = self.folder / f"{source}-{name}.facts.parquet"
        ids = [digest(source, row.content) for row in rows]
        columns: dict[str, list[Any]] = {
            "row": list(range(len(rows))),
            "id": ids,
            "content": [digest(row.content) for row in rows],
            "columns": [int.from_bytes(digest(sorted(row.columns.items()), size=8), "little") for row in rows],
            "offset": [100 * i for i in range(len(rows))],
            "length": [100] * len(rows),
            "tokens": [row.tokens for row in rows],
            "supervised_tokens": [row.tokens - 1 if row.supervised is None else row.supervised for row in rows],
            "images": [row.images for row in rows],
            "tiles": [row.tiles for row in rows],
        }
        arrays = []
        for schema_field in FACTS_SCHEMA:
            values = columns.get(schema_field.name, [0] * len(rows))
            if schema_field.type == pa.uuid():
                arrays.append(pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16))))
            else:
                arrays.append(pa.array(values, schema_field.type))
        table = pa.Table.from_arrays(arrays, schema=FACTS_SCHEMA)
        names = sorted({name for row in rows for name in row.columns})
        for column in names:
            kind = (types or {}).get(column)
            table = table.append_column(
                COLUMN_PREFIX + column, pa.array([row.columns.get(column) for row in rows], kind)
            )
        pq.write_table(table, path)
        return PlannedFragment(
            source=source,
            path=f"{name}.jsonl",
            digest=digest("fragment", source, sorted(ids)).hex(),
            object=digest("object", source, sorted(ids)).hex(),
            facts=path,
            samples=len(rows),
            rejects=0,
        )

    def plan(self, spec: Spec, fragments: Iterable[PlannedFragment], **options: Any) -> Plan:
        self.plans += 1
        out = self.folder / f"plan-{self.plans}"
        options = {"threads": 1, "rejects": {}, **options}
        return Plan(summary=plan(spec, list(fragments), geometry=GEOMETRY, out=out, **options), out=out)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def row() -> type[Row]:
    return Row


@pytest.fixture
def make_stage() -> Callable[..., Stage]:
    def make(mix: Any, **settings: Any) -> Stage:
        batch, loss = settings.pop("batch", 2), settings.pop("loss", "token")
        train = Train(lr={"language": 1e-5}, batch=batch, loss=loss)
        defaults = {"name": "one", "budget": "1 epoch", "sequence_length": 64}
        return Stage(mix=mix, train=train, **(defaults | settings))

    return make


@pytest.fixture
def make_spec() -> Callable[..., Spec]:
    def make(sources: dict[str, dict[str, Any]], stages: list[Stage], **settings: Any) -> Spec:
        built = {name: Source(**({"path": "*", "kind": "text"} | given)) for name, given in sources.items()}
        return Spec(**({"mixture": "m", "seed": 7, "model": "sail-vl-tiny"} | settings), sources=built, stages=stages)

    return make


@pytest.fixture
def geometry() -> Geometry:
    return GEOMETRY
