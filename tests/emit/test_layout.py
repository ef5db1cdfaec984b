"""The division of packs and images into files."""

from __future__ import annotations

import itertools
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from mixc.emit.layout import MAX_SHARD_TOKENS, MIN_SHARD_TOKENS, SHARDS_A_STAGE, order_media, token_shards
from mixc.measure.facts import MEDIA_SCHEMA
from mixc.plan.tables import PLACEMENTS_SCHEMA, StagePlan


def stage(name: str, packs: int, sequence_length: int) -> StagePlan:
    zeros = {
        field: 0
        for field in StagePlan.__struct_fields__
        if field not in ("name", "unit", "packs", "sequence_length", "sources", "fill", "rank_skew")
    }
    return StagePlan(
        name=name,
        unit="tokens",
        packs=packs,
        sequence_length=sequence_length,
        sources={},
        fill=1.0,
        rank_skew=0.0,
        **zeros,
    )


@given(
    st.lists(
        st.tuples(st.integers(1, 10**7), st.sampled_from([16, 2048, 8192, 20480, 1 << 20])), min_size=1, max_size=3
    )
)
def test_shards_cover_every_pack_once_and_are_neither_dust_nor_boulders(stages: list[tuple[int, int]]) -> None:
    plans = [stage(f"s{i}", packs, length) for i, (packs, length) in enumerate(stages)]
    tasks = token_shards(plans)
    assert len({task.name for task in tasks}) == len(tasks)
    for index, plan in enumerate(plans):
        own = [task for task in tasks if task.stage == index]
        assert own[0].first == 0 and own[-1].last == plan.packs
        assert all(a.last == b.first for a, b in itertools.pairwise(own))
        for task in own:
            size = task.last - task.first
            assert size == 1 or size * plan.sequence_length <= MAX_SHARD_TOKENS
        if len(own) > SHARDS_A_STAGE:
            assert (own[0].last - own[0].first) * plan.sequence_length > MAX_SHARD_TOKENS // 2
        if len(own) > 1:
            assert (own[0].last - own[0].first + 1) * plan.sequence_length > MIN_SHARD_TOKENS


def test_images_come_once_in_order_of_first_use_whichever_fragment_holds_them(tmp_path: Path) -> None:
    objects = {}
    images = {0: [("a", 0), ("b", 1), ("c", 2)], 1: [("b", 0), ("d", 1)]}  # fragment -> (image, row)
    for fragment, rows in images.items():
        objects[fragment] = tmp_path / f"object's {fragment}"
        objects[fragment].mkdir()
        table = [
            {
                "row": row,
                "place": 0,
                "digest": name.encode() * 32,
                "offset": 10 * row,
                "size": 5 + row,
                "extension": "png",
                "width": 1,
                "height": 1,
            }
            for name, row in rows
        ]
        pq.write_table(pa.Table.from_pylist(table, schema=MEDIA_SCHEMA), objects[fragment] / "media.parquet")
    used = [(0, 0, 0, 1, 1), (0, 1, 0, 0, 1), (0, 1, 1, 0, 0), (1, 0, 0, 0, 0)]  # stage, pack, place, fragment, row
    defaults = {field.name: 0 for field in PLACEMENTS_SCHEMA} | {"source": "s", "id": bytes(16), "content": bytes(16)}
    rows = [
        {**defaults, "stage": s, "pack": p, "place": k, "fragment": f, "row": r, "images": 1, "weight": 1.0}
        for s, p, k, f, r in used
    ]
    plan = tmp_path / "plan"
    plan.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=PLACEMENTS_SCHEMA), plan / "placements.parquet")

    tasks = order_media(plan, objects, tmp_path / "media.parquet")
    with duckdb.connect() as db:
        got = db.execute(
            "SELECT digest, fragment FROM read_parquet(?) ORDER BY number", [str(tmp_path / "media.parquet")]
        ).fetchall()
    assert [(bytes(digest)[:1], fragment) for digest, fragment in got] == [(b"d", 1), (b"b", 0), (b"a", 0)]
    assert [msgspec.structs.astuple(task) for task in tasks] == [(0, "media/00000.tar", 0, 3)]


def test_a_mixture_without_images_has_no_media_shard(tmp_path: Path) -> None:
    (tmp_path / "object").mkdir()
    pq.write_table(pa.Table.from_pylist([], schema=MEDIA_SCHEMA), tmp_path / "object/media.parquet")
    pq.write_table(pa.Table.from_pylist([], schema=PLACEMENTS_SCHEMA), tmp_path / "placements.parquet")
    assert order_media(tmp_path, {0: tmp_path / "object"}, tmp_path / "media.parquet") == []
