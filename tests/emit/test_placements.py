"""The plan's rows of a shard are found, wherever row groups end."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.emit.placements import Placements, read_placements
from mixc.plan.tables import PLACEMENTS_SCHEMA
from shards.digest import source_key


@given(
    packs=st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=3),
    group=st.integers(1, 7),
    first=st.integers(0, 5),
    count=st.integers(0, 6),
    stage=st.integers(0, 3),
)
def test_the_placements_of_some_packs(
    tmp_path_factory: pytest.TempPathFactory, packs: list[list[int]], group: int, first: int, count: int, stage: int
) -> None:
    """`packs`: of each stage and pack, how many samples it has."""
    rows = [(s, p, k) for s, counts in enumerate(packs) for p, n in enumerate(counts) for k in range(n)]
    number = np.arange(len(rows))
    columns = {
        field.name: pa.array(number, pa.int64()).cast(field.type)
        for field in PLACEMENTS_SCHEMA
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    }
    for place, name in enumerate(("stage", "pack", "place")):
        columns[name] = pa.array([row[place] for row in rows], PLACEMENTS_SCHEMA.field(name).type)
    columns["source"] = pa.array([f"source {n % 3}" for n in number], pa.string())
    ids = pa.array([bytes([n + 1] * 16) for n in number], pa.binary(16))
    columns["id"] = columns["content"] = pa.ExtensionArray.from_storage(pa.uuid(), ids)
    path = tmp_path_factory.mktemp("plan") / "placements.parquet"
    table = pa.Table.from_arrays([columns[name] for name in PLACEMENTS_SCHEMA.names], schema=PLACEMENTS_SCHEMA)
    pq.write_table(table, path, row_group_size=group)

    found = read_placements(path, stage=stage, first=first, last=first + count)
    own = [n for n, (s, p, _) in enumerate(rows) if s == stage and first <= p < first + count]
    assert found.id.tobytes() == b"".join(bytes([n + 1] * 16) for n in own)
    assert found.source.tolist() == [source_key(f"source {n % 3}") for n in own]
    assert found.pack.tolist() == [rows[n][1] for n in own]
    for name in {field.name for field in fields(Placements)} - {"id", "source", "pack"}:
        assert getattr(found, name).tolist() == own
