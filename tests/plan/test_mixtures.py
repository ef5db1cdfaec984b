"""Groups, schedules, temperature, balance, quantiles, what is held out, used before or continued: as docs/planning.md
has them, on small worlds."""

from __future__ import annotations

import random
import re
import uuid
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import pi, sin
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixc.clean.minhash import signatures
from mixc.errors import PlanError, SpecError
from mixc.spec.schema import Balance, Decontaminate, Dedup, ImageDedup, MinHash, MixEntry, Order, Quantile
from tests.plan.conftest import World, digest


def tokens_by_source(plan: Any, stage: int = 0) -> dict[str, int]:
    return {name: source.tokens for name, source in plan.summary.stages[stage].sources.items()}


@pytest.fixture
def three(world: Any, row: Any) -> list[Any]:
    """Sources a, b, c of 400 samples of 10 tokens each."""
    return [world.fragment(name, [row(content=(name, i)) for i in range(400)]) for name in "abc"]


def test_groups_divide_their_share(world: Any, make_spec: Any, make_stage: Any, three: list[Any]) -> None:
    groups = {"pictures": {"a": 3, "b": 1}}
    stage = make_stage({"pictures": 0.8, "c": 0.2}, budget="4000 tokens")
    plan = world.plan(make_spec({name: {} for name in "abc"}, [stage], groups=groups), three)
    assert tokens_by_source(plan) == {"a": 2400, "b": 800, "c": 800}
    wished = {name: source.wished for name, source in plan.summary.stages[0].sources.items()}
    assert wished == {"a": 0.6, "b": 0.2, "c": 0.2}


def test_what_a_group_is_given_its_members_are(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [world.fragment(name, [row(content=(name, i), columns={"q": i}) for i in range(100)]) for name in "ab"]
    entry = MixEntry(where="q < 50", max_epochs=2, quantile=Quantile(by="q", below=0.5))
    spec = make_spec({"a": {}, "b": {}}, [make_stage({"g": entry}, budget="2 epochs")], groups={"g": ["a", "b"]})
    plan = world.plan(spec, fragments)
    assert plan.summary.stages[0].samples == 2 * 2 * 25
    rules = Counter((r["rule"], r["detail"]) for r in plan.rows("drops"))
    assert rules == {("stage_where", "one: q < 50"): 100, ("quantile", "one: q"): 50}


def test_a_name_reached_twice_is_an_error(world: Any, make_spec: Any, make_stage: Any, three: list[Any]) -> None:
    spec = make_spec({name: {} for name in "abc"}, [make_stage({"g": 1, "a": 1})], groups={"g": ["a", "b"]})
    with pytest.raises(SpecError, match="reaches `a` twice"):
        world.plan(spec, three)


def test_temperature_evens_out_by_size(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [
        world.fragment(name, [row(content=(name, i)) for i in range(number)])
        for name, number in (("big", 1600), ("small", 100))
    ]
    stage = make_stage(["big", "small"], temperature=2, budget="500 samples", unit="samples")
    plan = world.plan(make_spec({"big": {}, "small": {}}, [stage]), fragments)
    assert {n: s.samples for n, s in plan.summary.stages[0].sources.items()} == {"big": 400, "small": 100}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_schedule_between_mixes_holds_over_every_window(
    world: Any, make_spec: Any, make_stage: Any, three: list[Any], kind: str
) -> None:
    """After n of N samples each source has given the integral of its share, to within a sample and a half."""
    stage = make_stage(
        {"a": 0.9, "b": 0.1},
        mix_end={"a": 0.1, "b": 0.9},
        mix_schedule=kind,
        budget="400 samples",
        unit="samples",
        order=Order(window=1),
        batch=1,
    )
    plan = world.plan(make_spec({"a": {}, "b": {}}, [stage]), three[:2])
    sources = [r["source"] for r in plan.rows("placements")]
    assert Counter(sources) == {"a": 200, "b": 200}
    given = 0
    for n, source in enumerate(sources, 1):
        given += source == "a"
        t = n / 400
        progress = t * t / 2 if kind == "linear" else t / 2 - sin(pi * t) / (2 * pi)
        assert abs(given - 400 * (0.9 * t - 0.8 * progress)) <= 1.5


def test_a_source_may_begin_and_end_with_nothing(world: Any, make_spec: Any, make_stage: Any, three: list[Any]) -> None:
    stage = make_stage({"a": 1, "b": 0}, mix_end={"a": 1, "b": 1}, budget="3000 tokens", order=Order(window=1), batch=1)
    plan = world.plan(make_spec({"a": {}, "b": {}}, [stage]), three[:2])
    assert tokens_by_source(plan) == {"a": 2250, "b": 750}
    assert [r["source"] for r in plan.rows("placements")][:30].count("b") <= 1
    stage = make_stage({"a": 1, "b": 1}, mix_end={"a": 1, "b": 0}, budget="3000 tokens", order=Order(window=1), batch=1)
    plan = world.plan(make_spec({"a": {}, "b": {}}, [stage]), three[:2])
    assert tokens_by_source(plan) == {"a": 2250, "b": 750}
    last = [r["source"] for r in plan.rows("placements")][-30:]
    assert last.count("b") <= 1


def test_balance_takes_equal_amounts_of_each_value(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    langs = ["en"] * 700 + ["de"] * 200 + ["ja"] * 60 + [None] * 40
    fragments = [world.fragment("a", [row(content=i, columns={"lang": lang}) for i, lang in enumerate(langs)])]
    by_id = dict(zip(ids(world, "a", len(langs)), langs, strict=True))

    def counts(budget: str, **balance: Any) -> Counter[str | None]:
        entry = MixEntry(weight=1, balance=Balance(by="lang", **balance))
        plan = world.plan(make_spec({"a": {}}, [make_stage({"a": entry}, budget=budget)]), fragments)
        return Counter(by_id[sample] for sample in plan.ids(0, "a"))

    assert counts("1600 tokens") == {"en": 40, "de": 40, "ja": 40, None: 40}
    assert counts("3000 tokens") == {"en": 100, "de": 100, "ja": 60, None: 40}  # what a value lacks goes to the others
    assert counts("500 tokens", temperature=1) == {"en": 35, "de": 10, "ja": 3, None: 2}
    assert counts("10000 tokens") == Counter(langs)


def test_classes_smaller_than_a_sample_still_fill_the_source(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    """A thousand classes of one sample each, and a tenth of the source: each class's part is nearer to none than to one."""
    rows = [row(content=i, tokens=5 + i % 7, columns={"c": i}) for i in range(1000)]
    total = sum(r.tokens for r in rows)
    entry = MixEntry(weight=1, balance=Balance(by="c"))
    spec = make_spec({"a": {}}, [make_stage({"a": entry}, budget=f"{total // 10} tokens")])
    plan = world.plan(spec, [world.fragment("a", rows)])
    assert abs(plan.summary.stages[0].tokens - total // 10) <= 6
    assert max(Counter(plan.ids(0, "a")).values()) == 1


def test_a_used_source_gives_within_its_cap(world: Any, make_spec: Any, make_stage: Any, three: list[Any]) -> None:
    """All of it used once: a cap of two epochs leaves one, by weight, by size and in classes."""
    first = make_stage(["a"], name="first")
    for entry, budget in (
        (MixEntry(weight=1, max_epochs=2), "4000 tokens"),
        (MixEntry(max_epochs=2), "1 epoch"),
        (MixEntry(max_epochs=2, balance=Balance(by="tokens")), "1 epoch"),
    ):
        second = make_stage({"a": entry}, name="second", budget=budget)
        plan = world.plan(make_spec({"a": {}}, [first, second]), three[:1])
        assert Counter(plan.ids(1, "a")) == Counter(ids_of(three[0], "a"))
        assert all(r["epoch"] == 1 for r in plan.rows("placements") if r["stage"] == 1)


def ids(world: Any, source: str, number: int) -> list[bytes]:
    return [digest(source, i) for i in range(number)]


def test_quantiles_partition_a_source(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """Ranks that meet share nothing and leave nothing out, whatever the ties; NULL is in none."""
    dice = random.Random(3)
    values = [None if i % 13 == 0 else dice.randrange(4) for i in range(301)]
    fragments = [world.fragment("a", [row(content=i, columns={"v": v}) for i, v in enumerate(values)])]
    cuts = [0, 0.1, 1 / 3, 0.7, 1]
    stages = [
        make_stage({"a": MixEntry(quantile=Quantile(by="v", at_least=low, below=high))}, name=f"q{i}")
        for i, (low, high) in enumerate(pairwise(cuts))
    ]
    plan = world.plan(make_spec({"a": {}}, stages), fragments)
    known = sum(v is not None for v in values)
    found = [set(plan.ids(i, "a")) for i in range(4)]
    assert [len(f) for f in found] == [
        int(Fraction(repr(high)) * known) - int(Fraction(repr(low)) * known) for low, high in pairwise(cuts)
    ]
    assert len(set().union(*found)) == known
    by_id = dict(zip(ids(world, "a", 301), values, strict=True))
    tops = [max(by_id[s] for s in f) for f in found]
    lows = [min(by_id[s] for s in f) for f in found]
    assert all(top <= low for top, low in zip(tops, lows[1:], strict=False))


def test_held_out_is_touched_by_no_stage_nor_are_its_copies(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    fragments = [
        world.fragment("a", [row(content=i) for i in range(200)]),
        world.fragment("b", [row(content=i) for i in range(100, 300)]),
    ]
    spec = make_spec({"a": {}, "b": {}}, [make_stage(["a", "b"])], held_out={"a": "10%"})
    plan = world.plan(spec, fragments)
    held = {r["content"].bytes for r in plan.rows("held_out")}
    assert len(held) == 20
    assert not held & {r["content"].bytes for r in plan.rows("placements")}
    drops = Counter((r["source"], r["rule"]) for r in plan.rows("drops"))
    assert drops["a", "held_out"] == 20
    assert drops["b", "held_out"] == sum(1 for r in plan.rows("drops") if r["source"] == "b") > 0
    # A larger part holds out the same and more.
    more = world.plan(msgspec.structs.replace(spec, held_out={"a": "50 samples"}), fragments)
    assert held < {r["content"].bytes for r in more.rows("held_out")}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.fixed_dictionaries({name: st.lists(st.integers(0, 40), min_size=3, max_size=60) for name in "ab"}),
    amount=st.sampled_from(["1 samples", "3 samples", "35%", "60%"]),
    exact=st.booleans(),
    where=st.sampled_from([None, "q < 5"]),
    grouped=st.booleans(),
    pieces=st.integers(1, 4),
    threads=st.integers(1, 3),
)
def test_what_a_spec_trains_on_and_what_another_takes_of_its_held_out_are_all_there_is(
    tmp_path_factory: Any,
    make_spec: Any,
    make_stage: Any,
    row: Any,
    contents: dict[str, list[int]],
    amount: str,
    exact: bool,
    where: str | None,
    grouped: bool,
    pieces: int,
    threads: int,
) -> None:
    """Of every source, whatever its duplicates within it and in others, and however it lies in files."""
    rows = {name: [row(content=i, columns={"q": i % 9}) for i in own] for name, own in contents.items()}
    sources = {name: {"where": where} for name in rows}

    def placed(spec: Any, cut: int, threads: int) -> tuple[set[Any], set[Any], Counter[Any]]:
        world = World(tmp_path_factory.mktemp("world"))
        fragments = [world.fragment(name, own[i::cut], f"{i}") for name, own in rows.items() for i in range(cut)]
        plan = world.plan(spec, fragments, threads=threads)
        found = plan.rows("placements")
        ids = {(r["source"], r["id"].bytes) for r in found}
        assert len(ids) == len(found)
        return ids, {r["content"].bytes for r in found}, Counter(r["rule"] for r in plan.rows("drops"))

    def mixed(**entry: Any) -> list[Any]:
        names = ["both"] if grouped else list(rows)
        return [make_stage({name: MixEntry(**entry) for name in names}, unit="samples")]

    common: dict[str, Any] = {"dedup": Dedup(exact=exact), "groups": {"both": ["a", "b"]} if grouped else {}}
    everything = make_spec(sources, mixed(), **common)
    trained = make_spec(sources, mixed(), held_out=dict.fromkeys(rows, amount), **common)
    evaluated = make_spec(sources, mixed(held_out=True), held_out=dict.fromkeys(rows, amount), **common)
    try:
        whole, _, _ = placed(everything, 1, 1)
        train, train_contents, _ = placed(trained, 1, 1)
        held, held_contents, dropped = placed(evaluated, pieces, threads)
    except PlanError as error:  # nothing is left of a source, on one side or the other
        assert re.search("every sample of source|nothing is held out|keeps no sample", str(error))
        return
    assert not train & held and not train_contents & held_contents
    assert train | held == whole
    assert dropped["not_held_out"] == len(train) and dropped["held_out"] == 0


def test_what_a_stage_takes_of_what_is_held_out_and_what_it_leaves(
    world: Any, row: Any, make_spec: Any, make_stage: Any, three: list[Any]
) -> None:
    """Its own rules hold there too, and sources that it does not mix are nothing to warn of."""
    rows = [row(content=("d", i), tokens=10 + 90 * (i % 2), columns={"q": i}) for i in range(100)]
    fragments = [*three, world.fragment("d", rows)]
    sources: dict[str, Any] = {"a": {}, "b": {}, "c": {}, "d": {"too_long": "drop"}}
    stage = make_stage({"d": MixEntry(held_out=True, where="q < 80"), "a": MixEntry()})
    plan = world.plan(make_spec(sources, [stage], held_out={"d": "60%", "b": "1%"}), fragments)
    assert not [warning for warning in plan.summary.warnings if "in no stage's mix" in warning]
    found = Counter((r["source"], r["rule"]) for r in plan.rows("drops"))
    held = {r["row"] for r in plan.rows("held_out") if r["source"] == "d"}
    assert len(plan.ids(0, "a")) == 400
    assert len(plan.ids(0, "d")) == len([n for n in held if n < 80 and n % 2 == 0])
    assert found["d", "not_held_out"] == 40
    assert found["d", "stage_where"] == len([n for n in held if n >= 80])
    assert found["d", "too_long"] == len([n for n in held if n < 80 and n % 2])
    assert found["b", "unused_source"] == 396 and found["b", "held_out"] == 4


def test_what_is_held_out_may_be_nothing(world: Any, make_spec: Any, make_stage: Any, three: list[Any]) -> None:
    stage = make_stage({"a": MixEntry(held_out=True)})
    with pytest.raises(PlanError, match="nothing is held out of source `a`") as caught:
        world.plan(make_spec({"a": {}}, [stage], held_out={"a": "0.1%"}), three[:1])
    assert "`0.1%` of 400 samples come to none" in str(caught.value) and "hold more out" in str(caught.value)


def test_stages_do_not_repeat_each_other_unless_asked(
    world: Any, make_spec: Any, make_stage: Any, three: list[Any]
) -> None:
    first = make_stage(["a"], name="first", budget="1000 tokens")
    second = make_stage(["a"], name="second", budget="1 epoch")
    plan = world.plan(make_spec({"a": {}}, [first, second]), three[:1])
    assert len(plan.ids(0, "a")) == 100
    assert len(plan.ids(1, "a")) == 300
    assert not set(plan.ids(0, "a")) & set(plan.ids(1, "a"))
    asked = world.plan(make_spec({"a": {}}, [first, msgspec.structs.replace(second, reuse=True)]), three[:1])
    assert len(asked.ids(1, "a")) == 400


def test_earlier_uses_count_against_the_cap(world: Any, make_spec: Any, make_stage: Any, three: list[Any]) -> None:
    first = make_stage(["a"], name="first", budget="3000 tokens")
    over = make_stage({"a": 1}, name="second", budget="1500 tokens")
    with pytest.raises(PlanError, match="cannot fill the share") as caught:
        world.plan(make_spec({"a": {}}, [first, over]), three[:1])
    assert "earlier uses included" in str(caught.value) and "reuse: true" in str(caught.value)
    twice = make_stage({"a": MixEntry(weight=1, max_epochs=2)}, name="second", budget="3000 tokens")
    plan = world.plan(make_spec({"a": {}}, [first, twice]), three[:1])
    seen = Counter(plan.ids(0, "a") + plan.ids(1, "a"))
    assert set(seen) == set(ids_of(three[0], "a"))  # what was not used comes first
    assert sorted(seen.values()) == [1] * 200 + [2] * 200
    visits = [(r["id"].bytes, r["epoch"]) for r in plan.rows("placements") if r["stage"] == 1]
    assert {sample for sample, epoch in visits if epoch == 0} == set(ids_of(three[0], "a")) - set(plan.ids(0, "a"))
    assert sum(epoch == 1 for _, epoch in visits) == 200
    gone = make_stage(["a"], name="third", budget="1 epoch")
    with pytest.raises(PlanError, match="was used before"):
        world.plan(make_spec({"a": {}}, [make_stage(["a"], name="all"), gone]), three[:1])


def ids_of(fragment: Any, source: str) -> list[bytes]:
    return [value.bytes for value in pq.read_table(fragment.facts)["id"].to_pylist()]


MIX = st.dictionaries(st.sampled_from("abc"), st.integers(1, 1000), min_size=1)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mix=MIX,
    end=st.one_of(st.none(), st.integers(0, 2**31)),
    budget=st.integers(500, 20_000),
    unit=st.sampled_from(["tokens", "supervised_tokens", "samples"]),
    policy=st.sampled_from(["repeat", "renormalise", "shorten"]),
    seed=st.integers(0, 2**20),
    grouped=st.booleans(),
)
def test_shares_are_met_to_one_sample(
    tmp_path_factory: Any,
    make_spec: Any,
    make_stage: Any,
    row: Any,
    mix: dict[str, int],
    end: int | None,
    budget: int,
    unit: str,
    policy: str,
    seed: int,
    grouped: bool,
) -> None:
    """Wished and met differ by at most a source's largest sample, and packing changes none of it."""
    world = World(tmp_path_factory.mktemp("world"))
    dice = random.Random(seed)
    lengths = {name: [dice.randrange(2, 60) for _ in range(dice.randrange(20, 200))] for name in sorted(mix)}
    fragments = [
        world.fragment(name, [row(content=(name, i), tokens=n) for i, n in enumerate(own)])
        for name, own in lengths.items()
    ]
    shares: Any = {name: float(weight) for name, weight in mix.items()}
    groups = {}
    if grouped:
        groups = {"all": shares}
        shares = {"all": 1.0}
    ends = None if end is None or grouped else {name: float(random.Random(end).randrange(1, 99)) for name in shares}
    stage = make_stage(
        shares, mix_end=ends, budget=f"{budget} {unit.replace('_', ' ')}", unit=unit, on_exhausted=policy
    )
    plan = world.plan(
        make_spec({name: {"kind": "chat"} for name in lengths}, [stage], groups=groups, seed=seed), fragments
    )
    sources = plan.summary.stages[0].sources
    column = {"tokens": "tokens", "supervised_tokens": "supervised_tokens", "samples": "samples"}[unit]
    placed = Counter[str]()
    for r in plan.rows("placements"):
        placed[r["source"]] += 1 if unit == "samples" else r[column]
    total = sum(placed.values())
    capped = any(
        "cannot" in w or "shortened" in w or "go to the others" in w or "rest of its share" in w
        for w in plan.summary.warnings
    )
    largest = {name: 1 if unit == "samples" else max(own) for name, own in lengths.items()}
    for name, source in sources.items():
        assert getattr(source, column) == placed[name]  # before packing and after it
        assert source.met == placed[name] / total
        if not capped:
            assert abs(placed[name] - source.wished * budget) <= largest[name]


def test_a_share_of_one_in_ten_thousand_is_met(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """Levanter's block of 2,048 rounds such a share to nothing."""
    fragments = [
        world.fragment("big", [row(content=("big", i)) for i in range(20_000)]),
        world.fragment("rare", [row(content=("rare", i)) for i in range(10)]),
    ]
    stage = make_stage({"big": 0.9999, "rare": 0.0001}, budget="20000 samples", unit="samples", on_exhausted="repeat")
    plan = world.plan(make_spec({"big": {}, "rare": {}}, [stage]), fragments)
    assert {n: s.samples for n, s in plan.summary.stages[0].sources.items()} == {"big": 19998, "rare": 2}


def test_the_seed_chooses_and_not_the_place_in_a_file(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """OLMo-core takes a prefix of the file whatever the seed."""
    fragments = [world.fragment("a", [row(content=i) for i in range(1000)])]
    rank = {sample: i for i, sample in enumerate(ids(world, "a", 1000))}
    chosen = []
    for seed in (1, 2):
        plan = world.plan(make_spec({"a": {}}, [make_stage(["a"], budget="1000 tokens")], seed=seed), fragments)
        chosen.append({rank[sample] for sample in plan.ids(0, "a")})
    assert chosen[0] != chosen[1]
    for places in chosen:
        assert len(places) == 100
        assert 350 < sum(places) / 100 < 650  # four standard deviations about the middle
        assert max(places) > 900


def test_the_preferred_source_wins(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [world.fragment(name, [row(content=i) for i in range(10)]) for name in "abc"]
    spec = make_spec({name: {} for name in "abc"}, [make_stage(["c"])], dedup=Dedup(exact=True, prefer=["c"]))
    plan = world.plan(spec, fragments)
    assert len(plan.ids(0, "c")) == 10
    assert {r["source"] for r in plan.rows("drops")} == {"a", "b"}


def test_overlapping_sources_are_said(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragments = [
        world.fragment("a", [row(content=i) for i in range(50)]),
        world.fragment("b", [row(content=i) for i in [*range(40, 90), *range(80, 90)]]),
    ]
    spec = make_spec({"a": {}, "b": {}}, [make_stage(["a", "b"])])
    said = world.plan(spec, fragments).summary.warnings
    assert any("10 samples of `b` stand in `a` too" in w for w in said)
    assert any("10 of the 60 samples of `b` repeat others" in w for w in said)
    without = world.plan(msgspec.structs.replace(spec, dedup=Dedup(exact=True)), fragments).summary
    assert not any("overlap" in w or "repeat" in w for w in without.warnings)
    assert without.drops["dedup_exact"] == 20


def signal(folder: Path, name: str, values: Any) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table({"value": values}), path)
    return path


def test_computed_signals_are_columns(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    fragment = world.fragment("a", [row(content=i, columns={"quality": 0}) for i in range(10)])
    fragment = replace(fragment, signals={"quality": signal(world.folder, "quality", pa.array(range(10)))})
    entry = MixEntry(where="Quality >= 4", quantile=Quantile(by="quality", below=0.5))
    stage = make_stage({"a": entry}, order=Order(by="-quality", window=1), batch=1)
    plan = world.plan(make_spec({"a": {"where": "quality < 9"}}, [stage]), [fragment])
    assert plan.ids(0, "a") == [ids(world, "a", 10)[i] for i in (5, 4)]
    assert any("has a column `quality`" in w for w in plan.summary.warnings)


def test_contaminated_samples_are_dropped_with_what_they_share(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    fragment = world.fragment("a", [row(content=i) for i in range(5)])
    hits = pa.array([None, "mmlu.jsonl 3", None, None, "mmlu.jsonl 7"])
    fragment = replace(fragment, signals={"contaminated": signal(world.folder, "contaminated", hits)})
    spec = make_spec({"a": {}}, [make_stage(["a"])], decontaminate=Decontaminate(against="x.jsonl"))
    plan = world.plan(spec, [fragment])
    assert len(plan.ids(0, "a")) == 3
    assert {(r["rule"], r["detail"]) for r in plan.rows("drops")} == {
        ("decontaminate", "mmlu.jsonl 3"),
        ("decontaminate", "mmlu.jsonl 7"),
    }


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**20),
    amounts=st.fixed_dictionaries({name: st.integers(100, 3000) for name in "mno"}),
    change=st.sampled_from(["add", "remove", "rename", "edit", "reorder"]),
    feature=st.sampled_from(["plain", "balance", "quantile", "where", "held_out", "schedule", "two stages"]),
    split=st.integers(1, 4),
    threads=st.integers(1, 3),
)
def test_other_sources_and_files_leave_a_choice_as_it_was(
    tmp_path_factory: Any,
    make_spec: Any,
    make_stage: Any,
    row: Any,
    seed: int,
    amounts: dict[str, int],
    change: str,
    feature: str,
    split: int,
    threads: int,
) -> None:
    """What is taken of `n` hangs on `n`, its share and the seed alone."""
    dice = random.Random(seed)
    rows = {
        name: [
            row(content=(name, i), tokens=dice.randrange(2, 60), columns={"q": dice.randrange(9)}) for i in range(300)
        ]
        for name in "mno"
    }
    entry = {
        "balance": {"balance": Balance(by="q", temperature=1.7)},
        "quantile": {"quantile": Quantile(by="q", at_least=0.2, below=0.8)},
        "where": {"where": "q < 6"},
    }.get(feature, {})

    def plan(amounts: dict[str, int], rows: dict[str, list[Any]], pieces: int, **options: Any) -> list[set[Any]]:
        world = World(tmp_path_factory.mktemp("world"))
        fragments = [world.fragment(name, own[i::pieces], f"{i}") for name, own in rows.items() for i in range(pieces)]
        mix = {
            name: MixEntry(weight=float(n), max_epochs=9, **(entry if name == "n" else {}))
            for name, n in amounts.items()
        }
        ends = {name: float(n) for name, n in amounts.items()} if feature == "schedule" else None
        names = ("one", "two") if feature == "two stages" else ("one",)
        stages = [make_stage(mix, name=name, mix_end=ends, budget=f"{sum(amounts.values())} tokens") for name in names]
        held = {"held_out": {"n": "10%"}} if feature == "held_out" else {}
        spec = make_spec({name: {"kind": "chat"} for name in rows}, stages, seed=seed, **held)
        made = world.plan(spec, fragments, **options)
        return [
            {(r["id"].bytes, r["epoch"]) for r in made.rows("placements") if (r["stage"], r["source"]) == (j, "n")}
            for j in range(len(stages))
        ]

    before = plan(amounts, rows, 1)
    if change == "add":
        amounts = amounts | {"a": 777}
        rows = rows | {"a": [row(content=("a", i), tokens=9, columns={"q": i % 9}) for i in range(200)]}
    elif change == "remove":
        amounts, rows = {k: v for k, v in amounts.items() if k != "m"}, {k: v for k, v in rows.items() if k != "m"}
    elif change == "rename":
        amounts = {"z" if k == "m" else k: v for k, v in amounts.items()}
        rows = {"z" if k == "m" else k: v for k, v in rows.items()}
    elif change == "edit":
        rows = rows | {"m": rows["m"][::2]}
    else:
        rows = {name: dice.sample(own, len(own)) for name, own in reversed(rows.items())}
    assert plan(amounts, rows, split, threads=threads) == before


def test_near_duplicates_keep_their_winner(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    """The preferred source wins; a sample that an earlier rule dropped wins nothing."""
    words = " ".join(f"word{i}" for i in range(60))
    texts = {
        "a": [words, words + " and one more", "something else entirely, of its own words"],
        "b": [words + " at the end of b", "a text that b alone has, with enough words to count"],
    }
    fragments = []
    for name, own in texts.items():
        columns = [{"keep": not (name == "b" and i == 1)} for i in range(len(own))]
        fragment = world.fragment(name, [row(content=(name, i), columns=c) for i, c in enumerate(columns)])
        signed = signatures(own, ngram=3, permutations=64)
        values = pa.array([s.tobytes() for s in signed], pa.binary(256))
        fragments.append(replace(fragment, signals={"minhash": signal(world.folder, f"{name}-minhash", values)}))
    dedup = Dedup(minhash=MinHash(threshold=0.8, ngram=3, permutations=64), prefer=["b"])
    spec = make_spec({"a": {}, "b": {"where": "keep"}}, [make_stage(["a", "b"])], dedup=dedup)
    plan = world.plan(spec, fragments)
    winner = f"b {uuid.UUID(bytes=digest('b', ('b', 0)))}"
    drops = {(r["source"], r["id"].bytes): (r["rule"], r["detail"]) for r in plan.rows("drops")}
    assert drops == {
        ("a", digest("a", ("a", 0))): ("dedup_minhash", winner),
        ("a", digest("a", ("a", 1))): ("dedup_minhash", winner),
        ("b", digest("b", ("b", 1))): ("where", "keep"),
    }


def test_near_images_keep_their_winner(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    base = 0x0F0F_1234_5678_9ABC
    hashes = [[base], [base ^ 0b11], [base ^ 0xFFFF], [], [base, base], [0]]
    rows = [row(content=i, images=len(h), tiles=len(h)) for i, h in enumerate(hashes)]
    fragment = world.fragment("a", rows)
    values = pa.array(hashes, pa.list_(pa.uint64()))
    fragment = replace(fragment, signals={"phash": signal(world.folder, "phash", values)})
    stage = make_stage(["a"], sequence_length=1024)
    spec = make_spec({"a": {"kind": "chat"}}, [stage], dedup=Dedup(image=ImageDedup(phash=4)))
    plan = world.plan(spec, [fragment])
    (drop,) = plan.rows("drops")
    first, second = sorted((digest("a", 0), digest("a", 1)))
    assert (drop["id"].bytes, drop["rule"]) == (second, "dedup_image")
    assert drop["detail"] == f"a {uuid.UUID(bytes=first)}"


def test_signatures_may_lie_in_a_file(
    world: Any, row: Any, make_spec: Any, make_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{'the same words again and again ' * 3}{'' if i % 3 else i}" for i in range(30)]
    fragment = world.fragment("a", [row(content=i) for i in range(30)])
    values = pa.array([s.tobytes() for s in signatures(texts, ngram=3, permutations=32)], pa.binary(128))
    fragment = replace(fragment, signals={"minhash": signal(world.folder, "minhash", values)})
    dedup = Dedup(minhash=MinHash(threshold=0.7, ngram=3, permutations=32))
    spec = make_spec({"a": {}}, [make_stage(["a"])], dedup=dedup)
    expected = world.plan(spec, [fragment])
    monkeypatch.setattr("mixc.plan.clean.IN_MEMORY", 0)
    found = world.plan(spec, [fragment])
    assert found.rows("drops") == expected.rows("drops") != []
    assert not (found.out / ".scratch").exists()


def test_an_object_without_samples_has_signals_of_no_rows(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    fragments = []
    for name, rows in (("full", [row(content=i, images=1, tiles=1) for i in range(3)]), ("none", [])):
        fragment = world.fragment("a", rows, name)
        columns = {
            "minhash": pa.array([bytes([i] * 64) for i in range(len(rows))], pa.binary(64)),
            "phash": pa.array([[0xFF << 8 * i] for i in range(len(rows))], pa.list_(pa.uint64())),
            "contaminated": pa.array([None] * len(rows), pa.string()),
            "quality": pa.array(range(len(rows)), pa.int64()),
        }
        signals = {key: signal(world.folder, f"{name}-{key}", values) for key, values in columns.items()}
        fragments.append(replace(fragment, signals=signals))
    spec = make_spec(
        {"a": {"kind": "chat", "where": "quality >= 0"}},
        [make_stage(["a"], sequence_length=512)],
        dedup=Dedup(minhash=MinHash(permutations=16), image=ImageDedup(phash=2)),
        decontaminate=Decontaminate(against="x.jsonl"),
    )
    assert len(world.plan(spec, fragments).ids(0, "a")) == 3
