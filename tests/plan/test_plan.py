"""The plan pass as a whole: what it promises of every plan, and one plan made again from docs/planning.md."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import fsum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from mixc.measure.columns import as_text
from mixc.plan import keys, tables
from mixc.plan.allocate import largest_remainder
from mixc.spec.schema import Dedup, MixEntry, Order, Source

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def rows_of(row: Any, source: str, number: int, seed: int = 0) -> list[Any]:
    """Samples of skewed length, some with an image, some columns NULL, one in twenty a duplicate."""
    dice = random.Random(f"{source}{seed}")
    rows = []
    for i in range(number):
        tiles = dice.choice([0, 0, 1, 2]) if source == "b" else 0
        content = dice.randrange(i) if i and dice.random() < 0.05 else i
        columns = {
            "score": dice.choice([None, dice.random()]),
            "level": dice.randrange(5),
            "lang": dice.choice(["en", "de", None]),
        }
        tokens = min(60, 3 + int(dice.lognormvariate(2, 0.8))) + 10 * tiles
        content = f"{source} {content}" if source != "c" or i % 10 else f"shared {i}"
        if source == "a" and i % 10 == 0:
            content = f"shared {i}"
        rows.append(row(content=content, tokens=tokens, images=int(tiles > 0), tiles=tiles, columns=columns))
    return rows


def by_content(rows: list[Any]) -> list[Any]:
    """Rows of equal content must agree in what follows from it."""
    first: dict[object, Any] = {}
    for r in rows:
        first.setdefault(r.content, r)
    return [
        replace(r, tokens=first[r.content].tokens, images=first[r.content].images, tiles=first[r.content].tiles)
        for r in rows
    ]


@pytest.fixture
def mixture(row: Any, make_spec: Any, make_stage: Any) -> Any:
    """(spec, rows by source): three stages over three sources that use every rule."""
    rows = {source: by_content(rows_of(row, source, n)) for source, n in {"a": 400, "b": 300, "c": 250}.items()}
    rows["d"] = rows_of(row, "d", 20)
    stages = [
        make_stage(
            WEIGHTS, name="shuffled", budget="0.6 epochs", on_exhausted="renormalise", loss="square", reuse=True
        ),
        make_stage(
            {
                "a": MixEntry(weight=0.6, where="level < 4", max_epochs=3),
                "b": MixEntry(weight=0.4, max_epochs=3),
            },
            name="ordered",
            budget="150 samples",
            unit="supervised_tokens",
            order=Order(by="score", direction="descending", window=40),
            batch=4,
            reuse=True,
        ),
        make_stage(["b", "c"], name="short", sequence_length=24, max_tiles=1, budget="2 epochs", batch=3, reuse=True),
    ]
    spec = make_spec(
        {
            "a": {"where": "lang = 'en' or score > 0.2"},
            "b": {"kind": "caption"},
            "c": {},
            "d": {},
        },
        stages,
        dedup=Dedup(exact=True),
    )
    return spec, rows


def fragments_of(world: Any, rows: dict[str, list[Any]], tag: str = "0") -> list[Any]:
    return [world.fragment(source, own, f"{tag}") for source, own in rows.items()]


def table_digest(plan: Any) -> str:
    content = hashlib.sha256()
    for name, table in plan.content().items():
        content.update(name.encode())
        content.update(repr(table.to_pylist()).encode())
    content.update(msgspec.json.encode(plan.summary))
    return content.hexdigest()


# What every plan promises


def test_every_sample_is_used_or_dropped_once(world: Any, mixture: Any) -> None:
    spec, rows = mixture
    plan = world.plan(spec, fragments_of(world, rows))
    used = {row["id"].bytes for row in plan.rows("placements")}
    dropped = [row["id"].bytes for row in plan.rows("drops")]
    assert len(dropped) == len(set(dropped))
    assert not used & set(dropped)
    assert len(used) + len(dropped) == sum(map(len, rows.values()))
    rules = Counter(row["rule"] for row in plan.rows("drops"))
    assert plan.summary.drops == dict(sorted(rules.items()))
    assert set(rules) >= {"where", "dedup_exact", "budget", "unused_source"}
    order = [(row["source"], row["id"].bytes) for row in plan.rows("drops")]
    assert order == sorted(order)


def test_tables_agree_with_each_other_and_with_the_summary(world: Any, mixture: Any) -> None:
    spec, rows = mixture
    plan = world.plan(spec, fragments_of(world, rows))
    for name, schema in (
        ("placements", tables.PLACEMENTS_SCHEMA),
        ("packs", tables.PACKS_SCHEMA),
        ("drops", tables.DROPS_SCHEMA),
        ("fragments", tables.FRAGMENTS_SCHEMA),
    ):
        assert pq.read_schema(plan.out / f"{name}.parquet").equals(schema)
    assert msgspec.json.decode((plan.out / "summary.json").read_bytes(), type=tables.PlanSummary) == plan.summary
    placements = plan.rows("placements")
    place = [(row["stage"], row["pack"], row["place"]) for row in placements]
    assert place == sorted(place)
    packs = plan.rows("packs")
    held: dict[tuple[int, int], list[Any]] = {(p["stage"], p["pack"]): [] for p in packs}
    for row in placements:
        assert row["place"] == len(held[row["stage"], row["pack"]])
        held[row["stage"], row["pack"]].append(row)
    for stage, summary in enumerate(plan.summary.stages):
        own = [p for p in packs if p["stage"] == stage]
        assert [p["pack"] for p in own] == list(range(summary.packs))
        assert summary.packs == summary.steps * summary.batch
        for p in own:
            inside = held[stage, p["pack"]]
            assert p["step"] == p["pack"] // summary.batch
            assert all(row["step"] == p["step"] for row in inside)
            assert p["samples"] == len(inside)
            for column in ("tokens", "supervised_tokens", "images", "tiles"):
                assert p[column] == sum(row[column] for row in inside)
            assert p["denominator"] == fsum(row["weight"] * row["supervised_tokens"] for row in inside)
            assert p["tokens"] <= summary.sequence_length
            assert p["tiles"] <= summary.max_tiles
        empty = [p["pack"] for p in own if not p["samples"]]
        assert len(empty) == summary.empty_packs
        assert all(number >= summary.packs - summary.batch for number in empty)
        assert summary.empty_packs < summary.batch
        for column in ("samples", "tokens", "supervised_tokens", "images", "tiles"):
            total = getattr(summary, column)
            assert total == sum(p[column] for p in own)
            assert total == sum(getattr(source, column) for source in summary.sources.values())


def test_epochs_come_whole_and_in_turn(world: Any, mixture: Any) -> None:
    spec, rows = mixture
    plan = world.plan(spec, fragments_of(world, rows))
    for stage, summary in enumerate(plan.summary.stages):
        for source, counts in summary.sources.items():
            seen = Counter(
                (row["epoch"], row["id"].bytes)
                for row in plan.rows("placements")
                if (row["stage"], row["source"], row["piece"]) == (stage, source, 0)
            )
            assert max(seen.values()) == 1
            epochs = [set() for _ in range(1 + max(epoch for epoch, _ in seen))]
            for epoch, sample in seen:
                epochs[epoch].add(sample)
            assert all(len(full) == counts.eligible for full in epochs[:-1])
            assert len(epochs[-1]) <= counts.eligible


def test_shares_are_met_to_the_sample(world: Any, mixture: Any) -> None:
    """In the stage's unit no source is further from its part of the total than half its largest sample."""
    spec, rows = mixture
    plan = world.plan(spec, fragments_of(world, rows))
    ordered = plan.summary.stages[1]
    total = sum(source.supervised_tokens for source in ordered.sources.values())
    for source in ordered.sources.values():
        assert abs(source.supervised_tokens - source.wished * total) <= 60
        assert source.met == source.supervised_tokens / total


# The same plan, whatever does not matter


def test_provenance_threads_and_memory_do_not_matter(world: Any, mixture: Any) -> None:
    spec, rows = mixture
    expected = table_digest(world.plan(spec, fragments_of(world, rows)))
    dice = random.Random(1)
    shuffled = {source: dice.sample(own, len(own)) for source, own in rows.items()}
    split = [
        world.fragment(source, part, f"{tag}{i}")
        for tag, (source, own) in enumerate(shuffled.items())
        for i, part in enumerate((own[: len(own) // 3], own[len(own) // 3 :]))
    ]
    assert expected == table_digest(world.plan(spec, fragments_of(world, shuffled, "s"), threads=2))
    for threads, memory in ((1, None), (2, "60MB"), (4, None)):
        dice.shuffle(split)
        assert expected == table_digest(world.plan(spec, split, threads=threads, memory_limit=memory))
    reversed_spec = msgspec.structs.replace(spec, sources=dict(reversed(spec.sources.items())))
    assert expected == table_digest(world.plan(reversed_spec, split))


def test_a_repeated_plan_has_equal_bytes(world: Any, mixture: Any) -> None:
    spec, rows = mixture
    fragments = fragments_of(world, rows)
    first, second = world.plan(spec, fragments), world.plan(spec, fragments[::-1], threads=3)
    names = sorted(path.name for path in first.out.iterdir())
    assert names == [
        "drops.parquet",
        "fragments.parquet",
        "kept_out.parquet",
        "packs.parquet",
        "placements.parquet",
        "summary.json",
    ]
    for name in names:
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()


PLAN_ELSEWHERE = """
import sys, msgspec, pathlib
from mixc.plan.load import PlannedFragment
from mixc.plan.run import plan
from mixc.spec.schema import Spec
from shards.manifest import Geometry
spec, geometry, fragments = (pathlib.Path(p).read_bytes() for p in sys.argv[1:4])
fragments = [
    PlannedFragment(**(f | {"facts": pathlib.Path(f["facts"])})) for f in msgspec.json.decode(fragments)
]
plan(msgspec.json.decode(spec, type=Spec), fragments, geometry=msgspec.json.decode(geometry, type=Geometry),
     out=pathlib.Path(sys.argv[4]), rejects={})
"""


def test_the_hash_seed_does_not_matter_and_nothing_is_printed(
    world: Any, mixture: Any, tmp_path: Path, geometry: Any
) -> None:
    spec, rows = mixture
    fragments = fragments_of(world, rows)
    expected = world.plan(spec, fragments)
    (tmp_path / "spec").write_bytes(msgspec.json.encode(spec))
    (tmp_path / "geometry").write_bytes(msgspec.json.encode(geometry))
    listing = [
        {name: str(getattr(f, name)) for name in ("source", "path", "digest", "object", "facts")}
        | {"samples": f.samples, "rejects": f.rejects}
        for f in fragments
    ]
    (tmp_path / "fragments").write_text(json.dumps(listing))
    out = tmp_path / "elsewhere"
    arguments = [str(tmp_path / name) for name in ("spec", "geometry", "fragments")] + [str(out)]
    ran = subprocess.run(
        [sys.executable, "-c", PLAN_ELSEWHERE, *arguments],
        env=os.environ | {"PYTHONHASHSEED": "4242"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    for path in expected.out.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


# Change little, move little


def test_a_new_source_leaves_the_choice_of_the_others(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = {source: [row(content=i, tokens=5 + i % 40) for i in range(500)] for source in "abn"}
    sources = {source: {} for source in rows}
    budget = "8000 tokens"
    fragments = fragments_of(world, rows)
    before = world.plan(
        make_spec({k: sources[k] for k in "ab"}, [make_stage({"a": 0.6, "b": 0.4}, budget=budget)]),
        fragments[:2],
    )
    after = world.plan(make_spec(sources, [make_stage({"a": 0.54, "b": 0.36, "n": 0.1}, budget=budget)]), fragments)
    raised = world.plan(
        make_spec(sources, [make_stage({"a": 0.54, "b": 0.36, "n": 0.1}, budget="8889 tokens")]), fragments
    )
    for source in "ab":
        old, new = set(before.ids(0, source)), set(after.ids(0, source))
        assert new < old  # a prefix: only what the lost budget takes away
        assert 0.88 < len(new) / len(old) < 0.92
        assert set(raised.ids(0, source)) == old  # with the budget restored, exactly the same samples
    assert after.ids(0, "n")


def test_a_larger_budget_takes_more_of_the_same(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [world.fragment("a", [row(content=i, tokens=3 + i % 17) for i in range(200)])]
    last: set[bytes] = set()
    for budget in (10, 100, 101, 500, 1500):
        plan = world.plan(make_spec({"a": {}}, [make_stage(["a"], budget=f"{budget} tokens")]), fragments)
        chosen = set(plan.ids(0, "a"))
        assert last <= chosen
        assert abs(plan.summary.stages[0].tokens - budget) <= 10  # half of the longest sample, 19, rounded up
        last = chosen


def test_stages_seeds_and_epochs_choose_apart(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [world.fragment("a", [row(content=i) for i in range(200)])]
    stages = [make_stage(["a"], name=name, budget="1000 tokens", reuse=True) for name in ("one", "two")]
    plan = world.plan(make_spec({"a": {}}, stages), fragments)
    other = world.plan(make_spec({"a": {}}, stages, seed=8), fragments)
    chosen = [set(plan.ids(0, "a")), set(plan.ids(1, "a")), set(other.ids(0, "a"))]
    assert all(len(ids) == 100 for ids in chosen)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert 30 < len(chosen[first] & chosen[second]) < 70  # 50 expected of independent halves


# A plan computed again, from docs/planning.md alone


def reference_plan(
    seed: int,
    stage: str,
    samples: dict[str, list[tuple[bytes, int]]],
    weights: dict[str, Fraction],
    budget: int,
) -> list[tuple[str, int, bytes]]:
    """(source, epoch, id) in the order of a shuffled stage; shares and budget in tokens."""

    def key(purpose: str, epoch: int, sample: bytes) -> int:
        return int(keys.key64(keys.make_key(seed, purpose, stage, epoch), *keys.split_ids(sample))[0])

    total = sum(weights.values())
    targets = largest_remainder({name: budget * weight / total for name, weight in weights.items()})
    placed = []
    for name, own in samples.items():
        size = sum(tokens for _, tokens in own)
        epochs, rest = divmod(targets[name], size)
        taken = [(epoch, sample, tokens) for epoch in range(epochs) for sample, tokens in own]
        queue = sorted(own, key=lambda item: (key("select", epochs, item[0]), item[0]))
        sums = [0]
        for _, tokens in queue:
            sums.append(sums[-1] + tokens)
        count = min(range(len(sums)), key=lambda k: (abs(sums[k] - rest), k))
        taken += [(epochs, sample, tokens) for sample, tokens in queue[:count]]
        taken.sort(key=lambda item: (item[0], key("order", item[0], item[1]), item[1]))
        whole, before = sum(tokens for _, _, tokens in taken), 0
        for epoch, sample, tokens in taken:
            position = (2 * before + tokens) * 2**62 // (2 * whole)
            placed.append((position, epoch, key("order", epoch, sample), sample, name))
            before += tokens
    return [(name, epoch, sample) for _, epoch, _, sample, name in sorted(placed)]


def test_a_plan_can_be_predicted(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = {
        name: [row(content=(name, i), tokens=3 + (i * i) % 29) for i in range(number)]
        for name, number in {"x": 60, "y": 25, "z": 90}.items()
    }
    weights = {"x": Fraction("0.5"), "y": Fraction("0.45"), "z": Fraction("0.1")}
    stage = make_stage(
        {name: MixEntry(weight=float(w), max_epochs=9) for name, w in weights.items()},
        budget="2345 tokens",
        order=Order(window=1),  # one sample a window, one pack a step: the table shows the order itself
        batch=1,
    )
    plan = world.plan(make_spec({name: {} for name in rows}, [stage]), fragments_of(world, rows))
    samples = {name: [(digest_of(name, r.content), r.tokens) for r in own] for name, own in rows.items()}
    expected = reference_plan(7, "one", samples, weights, 2345)
    assert [(r["source"], r["epoch"], r["id"].bytes) for r in plan.rows("placements")] == expected
    assert max(epoch for _, epoch, _ in expected) >= 2


def digest_of(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def test_sources_are_interleaved_evenly(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """After any part of the stage, each source has given its share of it to within one sample."""
    rows = {name: [row(content=i) for i in range(number)] for name, number in {"x": 170, "y": 60, "z": 7}.items()}
    stage = make_stage(list(rows), order=Order(window=1), batch=1)
    plan = world.plan(make_spec({name: {} for name in rows}, [stage]), fragments_of(world, rows))
    given = Counter[str]()
    for n, placement in enumerate(plan.rows("placements"), 1):
        given[placement["source"]] += 1
        for name, own in rows.items():
            assert abs(given[name] - n * len(own) / 237) <= 1.5


def test_order_by_sorts_between_windows_and_not_within(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    dice = random.Random(5)
    rows = [row(content=i, columns={"level": None if i % 10 == 0 else dice.random()}) for i in range(300)]
    for direction in ("ascending", "descending"):
        stage = make_stage(["a"], order=Order(by="level", direction=direction, window=30), batch=1)
        plan = world.plan(make_spec({"a": {}}, [stage]), [world.fragment("a", rows)])
        levels = {digest_of("a", r.content): r.columns["level"] for r in rows}
        found = [levels[sample] for sample in plan.ids(0, "a")]
        windows = [found[i : i + 30] for i in range(0, 300, 30)]
        known = [v for v in found if v is not None]
        assert found[-30:].count(None) == 30  # NULL comes last in both directions
        sign = 1 if direction == "ascending" else -1
        for earlier, later in pairwise(windows):
            ends = [[sign * v for v in w if v is not None] for w in (earlier, later)]
            if all(ends):
                assert max(ends[0]) <= min(ends[1])
        assert known != sorted(known, reverse=direction == "descending")


# Rules one by one


def test_pieces_of_long_text(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=0, tokens=130), row(content=1, tokens=64), row(content=2, tokens=65)]
    plan = world.plan(make_spec({"a": {}}, [make_stage(["a"], loss="sample")]), [world.fragment("a", rows)])
    found = sorted(
        (
            r["tokens"],
            r["id"].bytes,
            r["piece"],
            r["piece_start"],
            r["piece_end"],
            r["supervised_tokens"],
            r["weight"],
        )
        for r in plan.rows("placements")
    )
    ids = [digest_of("a", i) for i in range(3)]
    expected = [
        (2, ids[0], 2, 128, 130, 1, 1.0),
        (1, ids[2], 1, 64, 65, 0, 0.0),
        *((64, ids[0], k, 64 * k, 64 * k + 64, 63, float(np.float32(1 / 63))) for k in (0, 1)),
        (64, ids[1], 0, 0, 64, 63, float(np.float32(1 / 63))),
        (64, ids[2], 0, 0, 64, 63, float(np.float32(1 / 63))),
    ]
    assert found == sorted(expected)
    assert plan.summary.stages[0].sources["a"].supervised_tokens == 129 + 63 + 64 - 3


def test_too_long_is_dropped_with_its_counts(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [
        row(content=0, tokens=65),
        row(content=1, tokens=20, images=1, tiles=3),
        row(content=2, tokens=20, images=1, tiles=2),
    ]
    for source in ({"kind": "caption"}, {"kind": "text", "too_long": "drop"}):
        plan = world.plan(make_spec({"a": source}, [make_stage(["a"], max_tiles=2)]), [world.fragment("a", rows)])
        assert plan.ids(0, "a") == [digest_of("a", 2)]
        drops = {r["id"].bytes: (r["rule"], r["detail"]) for r in plan.rows("drops")}
        assert drops == {
            digest_of("a", 0): ("too_long", "one: 65 tokens, 0 tiles"),
            digest_of("a", 1): ("too_long", "one: 20 tokens, 3 tiles"),
        }


def test_duplicates_are_ranked_by_their_columns_before_any_threshold(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    rows = [row(content="same", columns={"n": n}) for n in (3, 1, 2)] + [row(content="other", columns={"n": 0})]
    plain = world.plan(make_spec({"a": {}}, [make_stage(["a"])]), [world.fragment("a", rows)])
    base = digest_of("a", "same")
    names = {base, keys.duplicate_id(base, 1), keys.duplicate_id(base, 2)}
    assert set(plain.ids(0, "a")) == names | {digest_of("a", "other")}

    limited = make_spec({"a": {"where": "n <> 2"}}, [make_stage(["a"])])
    plan = world.plan(limited, [world.fragment("a", rows, "1")])
    assert set(plan.ids(0, "a")) < set(plain.ids(0, "a"))  # a threshold renames nothing
    assert [r["rule"] for r in plan.rows("drops")] == ["where"]


def test_exact_dedup_keeps_the_first_source(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i) for i in range(10)]
    fragments = [
        world.fragment("b", rows),
        world.fragment("a", [*rows[5:], *rows[8:]]),
        world.fragment("c", rows[:2]),
    ]
    spec = make_spec({"b": {}, "a": {"where": "tokens > 0"}, "c": {}}, [make_stage(["a", "b"])])
    spec = msgspec.structs.replace(spec, dedup=Dedup(exact=True))
    plan = world.plan(spec, fragments)
    assert set(plan.ids(0, "a")) == {digest_of("a", i) for i in range(5, 10)}
    assert set(plan.ids(0, "b")) == {digest_of("b", i) for i in range(5)}
    drops = plan.rows("drops")
    assert {r["rule"] for r in drops} == {"dedup_exact"}
    details = {(r["source"], r["id"].bytes): r["detail"] for r in drops}
    assert details["b", digest_of("b", 7)] == f"a {uuid.UUID(bytes=digest_of('a', 7))}"
    assert details["a", keys.duplicate_id(digest_of("a", 8), 1)] == f"a {uuid.UUID(bytes=digest_of('a', 8))}"
    assert details["c", digest_of("c", 0)] == f"b {uuid.UUID(bytes=digest_of('b', 0))}"
    # A sample that fails its own `where` wins nothing.
    picky = Source(path="*", kind="text", where="tokens = 11")
    off = msgspec.structs.replace(spec, sources=spec.sources | {"a": picky})
    some = [row(content="own", tokens=11), *rows[5:]]
    plan = world.plan(off, [fragments[0], world.fragment("a", some, "2"), fragments[2]])
    assert set(plan.ids(0, "b")) == {digest_of("b", i) for i in range(10)}


def test_null_in_a_threshold_is_false(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, columns={"n": None if i % 2 else i}) for i in range(10)]
    plan = world.plan(make_spec({"a": {"where": "n >= 4"}}, [make_stage(["a"])]), [world.fragment("a", rows)])
    assert set(plan.ids(0, "a")) == {digest_of("a", i) for i in (4, 6, 8)}
    plan = world.plan(
        make_spec({"a": {}}, [make_stage({"a": MixEntry(where="not (n >= 4)")})]), [world.fragment("a", rows)]
    )
    assert set(plan.ids(0, "a")) == {digest_of("a", i) for i in (0, 2)}
    assert {(r["rule"], r["detail"]) for r in plan.rows("drops")} == {("stage_where", "one: not (n >= 4)")}


def test_a_sample_is_dropped_by_the_rule_where_it_came_furthest(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    rows = [row(content=0, tokens=100), row(content=1, tokens=10), row(content=2, tokens=12)]
    stages = [
        make_stage({"a": MixEntry(where="tokens > 1000 or tokens = 12")}, name="first"),
        make_stage({"a": MixEntry(where="tokens > 10")}, name="second", reuse=True),
        make_stage(["a"], name="third", budget="1 samples", unit="samples", sequence_length=16, reuse=True),
    ]
    plan = world.plan(make_spec({"a": {"kind": "chat"}}, stages), [world.fragment("a", rows)])
    drops = {r["id"].bytes: (r["rule"], r["detail"]) for r in plan.rows("drops")}
    assert drops[digest_of("a", 0)] == ("too_long", "second: 100 tokens, 0 tiles")
    if digest_of("a", 1) in drops:
        assert drops[digest_of("a", 1)] == ("budget", "third")


def test_column_types_that_differ_between_files(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    parts = [
        [row(content=0, columns={"n": 1, "m": 1, "t": "x"})],
        [row(content=1, columns={"n": 2.5, "m": "b", "t": None})],
        [row(content=2)],
    ]
    fragments = [world.fragment("a", part, str(i)) for i, part in enumerate(parts)]
    stage = make_stage({"a": MixEntry(where="n < 2.6 and (m = '1' or m = 'b') and coalesce(t, 'y') < 'z'")})
    plan = world.plan(make_spec({"a": {}}, [stage]), fragments)
    assert set(plan.ids(0, "a")) == {digest_of("a", 0), digest_of("a", 1)}


@pytest.mark.parametrize(
    ("number", "text"), [(1.0, "1"), (1e20, "1e+20"), (True, "true"), (2**53 + 1, "9007199254740992"), (-2, "-2")]
)
def test_a_number_of_a_file_is_the_text_that_it_would_be_among_texts(
    world: Any, row: Any, make_spec: Any, make_stage: Any, number: Any, text: str
) -> None:
    rows = [row(content=0, columns={"m": number}), row(content=1, columns={"m": "b"})]
    stage = make_stage({"a": MixEntry(where=f"m = '{text}'")})
    fragments = [world.fragment("a", [part], str(place)) for place, part in enumerate(rows)]
    plan = world.plan(make_spec({"a": {}}, [stage]), fragments)
    assert plan.ids(0, "a") == [digest_of("a", 0)]
    assert as_text(number) == text  # what a file that has both holds


def test_columns_may_have_any_name(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    names = ["n", "value", "passes", "row", "hi", "a.b", 'quo"te', "select", "größe", "x0", "rule"]
    rows = [row(content=i, columns=dict.fromkeys(names, i) | {"Score": i, "score": -i}) for i in range(10)]
    condition = " and ".join('"{}" < 5'.format(name.replace('"', '""')) for name in [*names, "Score"])
    stage = make_stage({"a": MixEntry(where=condition)}, order=Order(by="value", window=1), batch=1)
    plan = world.plan(make_spec({"a": {"where": "n < 7"}}, [stage]), [world.fragment("a", rows)])
    assert plan.ids(0, "a") == [digest_of("a", i) for i in range(5)]


def test_a_signal_hides_a_column(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, tokens=10 + i, columns={"Tokens": 0}) for i in range(4)]
    plan = world.plan(make_spec({"a": {"where": "tokens > 11"}}, [make_stage(["a"])]), [world.fragment("a", rows)])
    assert len(plan.ids(0, "a")) == 2
    assert any("`Tokens`" in w and "signal" in w for w in plan.summary.warnings)


def test_signals_can_be_subtracted(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, tokens=10 + i, supervised=5) for i in range(4)]
    spec = make_spec({"a": {"where": "supervised_tokens - tokens < -6"}}, [make_stage(["a"])])
    assert len(world.plan(spec, [world.fragment("a", rows)]).ids(0, "a")) == 2


def test_budget_units(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, tokens=20, supervised=5, images=i % 2, tiles=i % 2) for i in range(100)]
    fragments = [world.fragment("a", rows)]
    spec = lambda **s: make_spec({"a": {"kind": "chat"}}, [make_stage(["a"], **s)])  # noqa: E731
    for budget, column, expected in (
        ("400 tokens", "tokens", 400),
        ("100 supervised tokens", "supervised_tokens", 100),
        ("30 samples", "samples", 30),
        ("0.5 epochs", "samples", 50),
    ):
        stage = world.plan(spec(budget=budget), fragments).summary.stages[0]
        assert getattr(stage, column) == expected
    stage = world.plan(spec(budget="10 images", unit="images"), fragments).summary.stages[0]
    assert stage.images == 10
    stage = world.plan(spec(budget=40, unit="samples"), fragments).summary.stages[0]
    assert (stage.samples, stage.budget) == (40, 40)


def test_a_budget_in_another_unit_than_the_shares(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """Equal shares in tokens; a sample of `a` has two of `b`, so 30 samples are 10 and 20."""
    fragments = [
        world.fragment(name, [row(content=i, tokens=tokens) for i in range(90)])
        for name, tokens in (("a", 20), ("b", 10))
    ]
    mix = {"a": 0.5, "b": 0.5}
    sources = {"a": {}, "b": {}}
    plan = world.plan(make_spec(sources, [make_stage(mix, budget="30 samples")]), fragments)
    stage = plan.summary.stages[0]
    assert {name: source.samples for name, source in stage.sources.items()} == {"a": 10, "b": 20}
    assert not any("comes to" in warning for warning in plan.summary.warnings)
    # The mean is not the sample: one that strays far is told.
    skewed = [world.fragment("a", [row(content=i, tokens=60 if i % 9 == 0 else 2) for i in range(90)], "1")]
    plan = world.plan(make_spec({"a": {}}, [make_stage(["a"], budget="9 samples")]), skewed)
    stage = plan.summary.stages[0]
    assert stage.samples != 9
    assert f"the budget of 9 samples comes to {stage.samples}" in "\n".join(plan.summary.warnings)


def test_two_epochs_need_no_cap_but_keep_one_that_is_written(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    fragments = [world.fragment("a", [row(content=i) for i in range(10)])]
    plan = world.plan(make_spec({"a": {}}, [make_stage(["a"], budget="2 epochs")]), fragments)
    assert plan.summary.stages[0].samples == 20
    capped = make_stage({"a": MixEntry(max_epochs=1.5)}, budget="2 epochs", on_exhausted="shorten")
    plan = world.plan(make_spec({"a": {}}, [capped]), fragments)
    assert plan.summary.stages[0].samples == 15
    assert any("shortened" in w for w in plan.summary.warnings)


def test_padding_is_told_with_what_would_help(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """Samples of three fifths of a pack. A window of all of them finds nothing better; over a smaller one, a wider may."""
    fragments = [world.fragment("a", [row(content=i, tokens=60) for i in range(12)])]

    def told(**order: Any) -> str:
        stage = make_stage(["a"], budget="1 epoch", sequence_length=100, **order)
        found = [w for w in world.plan(make_spec({"a": {}}, [stage]), fragments).summary.warnings if "padding" in w]
        assert len(found) == 1
        return found[0]

    assert (
        "40% of its packs' tokens are padding; its samples leave that much of 100, and no smaller ones are left"
        in told()
    )
    assert "a wider `order: {window: ...}` than 4 may find" in told(order=Order(window=4))


def test_warnings(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [
        world.fragment("big", [row(content=i, tokens=40, columns={"q": i}) for i in range(400)]),
        world.fragment("small", [row(content="s", tokens=40)]),
        world.fragment("tiny", [row(content="t", tokens=60)]),
        world.fragment("idle", [row(content="i")]),
    ]
    stages = [
        make_stage(
            {"big": 1000, "small": MixEntry(weight=500, max_epochs=999), "tiny": 1},
            budget="9000 tokens",
            batch=1000,
        ),
        make_stage({"big": MixEntry(where="q < 3")}, name="two", on_exhausted="repeat", budget="1000 tokens"),
    ]
    plan = world.plan(make_spec({name: {} for name in ("big", "small", "tiny", "idle")}, stages), fragments)
    said = "\n".join(plan.summary.warnings)
    for part in (
        "source `idle` is in no stage",
        "the share of `tiny` rounds to nothing",
        "`small` is repeated for",
        "of its packs' tokens are padding",
        "of the 1000 packs of its last step are empty",
        "`where` of `big` keeps 3 of 400",
        "repeated beyond max_epochs",
    ):
        assert part in said, part


def test_rejects_are_reported(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [world.fragment("a", [row(content=0)])]
    rejects = {"a": {"image_bomb": 2, "broken_row": 0}}
    plan = world.plan(make_spec({"a": {}}, [make_stage(["a"])]), fragments, rejects=rejects)
    assert plan.summary.rejects == {"a": {"image_bomb": 2}}


def test_spills_to_disk_and_cleans_up(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, tokens=20 + i % 30, columns={"t": f"{i:0100d}"}) for i in range(20_000)]
    fragments = [world.fragment("a", rows)]
    spec = make_spec({"a": {}}, [make_stage(["a"], budget="0.7 epochs", batch=16, order=Order(by="t"))])
    small = world.plan(spec, fragments, memory_limit="24MB", threads=2)
    assert table_digest(small) == table_digest(world.plan(spec, fragments))
    assert not (small.out / ".scratch").exists()
