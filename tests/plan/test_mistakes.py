"""What a user can get wrong: each told with its place, the evidence and the mend, never a traceback."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from mixc.errors import BuildError, MixcError, PlanError, SpecError
from mixc.plan.database import open_database, shared_database
from mixc.spec.load import load
from mixc.spec.schema import Dedup, MixEntry, Order
from mixc.spec.yaml import parse, plain


@pytest.fixture
def fragments(world: Any, row: Any) -> list[Any]:
    columns = [{"score": i / 10, "lang": "en" if i else "x", "level": i} for i in range(10)]
    a = [row(content=i, tokens=20, columns=c) for i, c in enumerate(columns)]
    b = [row(content=100 + i, tokens=20, columns={"level": f"{i}"}) for i in range(30)]
    return [world.fragment("a", a), world.fragment("b", b)]


@pytest.fixture
def refuse(world: Any, make_spec: Any, make_stage: Any, fragments: list[Any]) -> Any:
    """Plan and return the error's text; nothing of the work may be left behind."""

    def run(kind: type[MixcError], mix: Any, where: str | None = None, options: Any = None, **settings: Any) -> str:
        spec = make_spec({"a": {"where": where}, "b": {}}, [make_stage(mix, **settings)])
        with pytest.raises(kind) as caught:
            world.plan(spec, fragments, **(options or {}))
        assert not list(world.folder.glob("plan-*/.scratch"))
        assert not list(world.folder.glob("plan-*/summary.json"))
        text = str(caught.value)
        assert "LINE 1" not in text and "facts_" not in text and "source_0" not in text
        return text

    return run


def test_unknown_column(refuse: Any) -> None:
    text = refuse(SpecError, ["a"], where="scoer > 0.5")
    assert "source `a` has no column `scoer`" in text
    assert "`lang`, `level`, `score`" in text
    assert "did you mean `score`" in text
    assert "sources.a.where" in text


def test_unknown_column_in_a_stage_names_the_source_that_lacks_it(refuse: Any) -> None:
    text = refuse(SpecError, ["a", "b"], order=Order(by="score"))
    assert "source `b` has no column `score`" in text
    assert "stages[0].order.by" in text
    text = refuse(SpecError, {"a": MixEntry(where="nope = 1")})
    assert "stages[0].mix.a.where" in text


def test_the_place_in_the_file_is_shown(world: Any, fragments: list[Any], tmp_path: Path) -> None:
    text = """\
mixture: m
seed: 1
model: sail-vl-tiny
sources:
  a: {path: "*", kind: text, text: text, where: "level > 1 and scoer > 0.5"}
stages:
  - name: one
    budget: 1 epoch
    mix: [a]
    sequence_length: 64
    train: {lr: {language: 1.0e-5}, batch: 2}
"""
    (tmp_path / "spec.yaml").write_text(text)
    loaded = load(tmp_path / "spec.yaml")
    with pytest.raises(SpecError) as caught:
        world.plan(loaded.spec, fragments[:1], locate=loaded.place)
    line = text.splitlines()[4]
    assert f"spec.yaml:5:{line.index('scoer') + 1}" in str(caught.value)
    assert "^^^^^" in str(caught.value)


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("level", ["gives a whole number, not true or false", "complexity < 2.5"]),
        ("lower(score) = 'x'", ["does not work on source `a`", "score is a number"]),
        ("lang > 3", ["does not work on source `a`", "lang is text"]),
        ("cast(lang as integer) > 3", ["does not work on source `a`", "try_cast"]),
        ("lang + 1 = 2", ["does not work on source `a`", "lang is text"]),
        ("tokens > 5) or (1 = 1", ["not a DuckDB expression"]),
        ("tokens > (select 1)", ["subquery"]),
        ("read_text('/etc/passwd') = ''", ["read_text"]),
        ("true; drop table samples", ["statement"]),
        ("random() < 0.5", ["random"]),
        ("", ["empty"]),
    ],
)
def test_expressions_that_do_not_work(refuse: Any, where: str, parts: list[str]) -> None:
    text = refuse(SpecError, ["a"], where=where)
    for part in parts:
        assert part in text, text
    staged = refuse(SpecError, {"a": MixEntry(where=where)})
    assert parts[0] in staged


def test_a_source_threshold_guards_those_of_its_stages(
    world: Any, make_spec: Any, make_stage: Any, fragments: list[Any], row: Any
) -> None:
    """A cast that fails for a row is no error where the source's own `where` keeps that row out."""
    rows = [row(content=i, columns={"v": "x" if i % 2 else str(i)}) for i in range(10)]
    stage = make_stage({"a": MixEntry(where="v::integer > 3")}, order=Order(by="10 // (v::integer - 2)"))
    spec = make_spec({"a": {"where": "v <> 'x'"}}, [stage])
    assert world.plan(spec, [world.fragment("a", rows, "9")]).summary.stages[0].samples == 3


def test_ambiguous_and_different_names(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=0, columns={"Score": 1, "score": 2})]
    for where in ("SCORE > 0", "Score > 0 and score > 0"):
        spec = make_spec({"a": {"where": where}}, [make_stage(["a"])])
        with pytest.raises(SpecError, match="may be any of `Score`, `score`"):
            world.plan(spec, [world.fragment("a", rows, "7")])
    spec = make_spec({"a": {"where": "score = 2"}}, [make_stage(["a"])])
    assert world.plan(spec, [world.fragment("a", rows, "7")]).summary.stages[0].samples == 1


def test_order_by_of_different_kinds(refuse: Any) -> None:
    text = refuse(SpecError, ["a", "b"], order=Order(by="level"))
    assert "different kinds" in text and "in `a` it is a number; in `b` it is text" in text


def test_thresholds_that_keep_nothing(refuse: Any) -> None:
    text = refuse(PlanError, ["a"], where="score > 5")
    assert "keeps no sample of source `a`" in text and "sources.a.where" in text and "all 10" in text
    text = refuse(PlanError, {"a": MixEntry(where="score > 0.5")}, where="score < 0.3")
    assert "stages[0].mix.a.where" in text and "all 3" in text


def test_nothing_fits(refuse: Any) -> None:
    text = refuse(PlanError, ["a", "b"], sequence_length=16, max_tiles=1, budget="1 tokens", batch=1)
    assert "would be empty" in text


def test_all_too_long(world: Any, make_spec: Any, make_stage: Any, fragments: list[Any]) -> None:
    spec = make_spec({"a": {"too_long": "drop"}}, [make_stage(["a"], sequence_length=16)])
    with pytest.raises(PlanError, match="no sample of source `a` fits a pack"):
        world.plan(spec, fragments[:1])


def test_all_are_duplicates(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i) for i in range(3)]
    spec = make_spec({"a": {}, "b": {}}, [make_stage(["a", "b"])], dedup=Dedup(exact=True))
    with pytest.raises(PlanError, match="every sample of source `b` is a duplicate"):
        world.plan(spec, [world.fragment("a", rows), world.fragment("b", rows)])


def test_exhausted_names_every_shortfall(refuse: Any) -> None:
    text = refuse(PlanError, {"a": 0.5, "b": 0.5}, budget="2000 tokens")
    assert "`a`, `b` cannot fill the share asked for" in text
    assert "`a` should give 1,000 tokens but has 200 in 1 epoch (5.00 epochs wanted)" in text
    assert "write `a: {weight: 0.5, max_epochs: 5}`, `b: {weight: 0.5, max_epochs: 2}` in the mix of stage" in text
    assert "on_exhausted" in text and "stages[0].mix.a" in text


@pytest.mark.parametrize("mix", [{"a": 0.25, "b": 0.75}, ["a", "b"], {"a": MixEntry(max_epochs=1.5), "b": MixEntry()}])
@pytest.mark.parametrize("budget", ["1000 tokens", "1777 tokens"])
def test_what_the_mend_says_to_write_can_be_planned(
    world: Any, make_spec: Any, make_stage: Any, fragments: list[Any], mix: Any, budget: str
) -> None:
    def plan(mix: Any) -> Any:
        return world.plan(make_spec({"a": {}, "b": {}}, [make_stage(mix, budget=budget)]), fragments)

    with pytest.raises(PlanError, match="cannot fill the share") as caught:
        plan(mix)
    *said, _ = re.findall(r"`(.*?)`", caught.value.mend.partition("; or ")[0])
    parsed = [plain(parse(each.encode(), "mend")) for each in said]
    written = parsed[0]["mix"] if isinstance(mix, list) else mix | {k: v for each in parsed for k, v in each.items()}
    plan({name: msgspec.convert(e, MixEntry) if isinstance(e, dict) else e for name, e in written.items()})


def test_a_mend_keeps_what_else_an_entry_says(refuse: Any) -> None:
    text = refuse(PlanError, {"a": MixEntry(weight=2, where="score < 0.7"), "b": 1}, budget="600 tokens")
    assert "write `a: {weight: 2, ..., max_epochs: 3}` in the mix of stage" in text


def test_a_share_of_something_a_source_has_not(refuse: Any) -> None:
    text = refuse(PlanError, {"a": 0.5, "b": 0.5}, unit="images", budget="10 images")
    assert "holds no images" in text
    text = refuse(PlanError, ["a", "b"], budget="10 images")
    assert "its sources hold no images" in text


def test_mixes_that_make_no_sense(refuse: Any) -> None:
    text = refuse(SpecError, {"a": 1, "bb": 1})
    assert "there is no source `bb`" in text and "did you mean `b`" in text
    text = refuse(SpecError, {"a": 1, "b": MixEntry()})
    assert "no weight" in text
    assert "mixes nothing" in refuse(SpecError, [])
    for bad in (float("inf"), float("nan")):
        assert "weight must be" in refuse(SpecError, {"a": bad})


def test_a_source_without_samples(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    for fragments in ([], [world.fragment("a", [])]):
        spec = make_spec({"a": {}}, [make_stage(["a"])])
        with pytest.raises(PlanError, match="source `a` has no samples"):
            world.plan(spec, fragments)
    where = {"where": "x > 1"}
    stage = make_stage(["a"], order=Order(by="x"))
    for fragments in ([], [world.fragment("a", [])]):
        with pytest.raises(PlanError, match="source `a` has no samples"):
            world.plan(make_spec({"a": where}, [stage]), fragments)
    spare = world.plan(make_spec({"a": where, "b": {}}, [make_stage(["b"])]), [world.fragment("b", [row(content=0)])])
    assert spare.summary.stages[0].samples == 1  # a source that no stage needs may be empty


def test_a_bad_memory_limit(refuse: Any) -> None:
    assert "not a memory limit" in refuse(PlanError, ["a"], options={"memory_limit": "lots"})


def test_memory_that_runs_out_is_said(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, tokens=20, columns={"t": f"{i:0100d}"}) for i in range(20_000)]
    spec = make_spec({"a": {}}, [make_stage(["a"], order=Order(by="t"))])
    with pytest.raises(PlanError, match="does not fit the memory and disk"):
        world.plan(spec, [world.fragment("a", rows)], memory_limit="2MB")


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "short", "schema"])
def test_an_object_that_cannot_be_read(
    world: Any, make_spec: Any, make_stage: Any, fragments: list[Any], damage: str
) -> None:
    fragment = fragments[0]
    data = fragment.facts.read_bytes()
    if damage == "missing":
        fragment.facts.unlink()
    elif damage == "truncated":
        fragment.facts.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        fragment.facts.write_bytes(data[:4] + bytes(200) + data[204:])
    elif damage == "short":
        fragment = replace(fragment, samples=11)
    else:
        pq.write_table(pq.read_table(fragment.facts).drop_columns("tiles"), fragment.facts)
    with pytest.raises(BuildError) as caught:
        world.plan(make_spec({"a": {}}, [make_stage(["a"])]), [fragment])
    assert "facts.parquet" in str(caught.value) and "measured again" in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '{out}/x.csv'",
        "ATTACH '{out}/x.db'",
        "SET threads = 1",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM glob('/*')",
    ],
)
def test_the_database_is_shut_in(tmp_path: Path, sql: str) -> None:
    """The wall behind the allow-list of mixc/spec/expression.py."""
    import duckdb

    with open_database(tmp_path / "scratch") as connection, pytest.raises(duckdb.Error):
        connection.execute(sql.format(out=tmp_path)).fetchall()
    assert list(tmp_path.iterdir()) == []


def test_the_database_does_not_see_python_variables(tmp_path: Path) -> None:
    import duckdb
    import pyarrow as pa

    secret = pa.table({"x": [1]})
    with open_database(tmp_path / "scratch") as connection, pytest.raises(duckdb.CatalogException):
        connection.execute("SELECT * FROM secret").fetchall()
    assert secret.num_rows == 1


def test_plans_in_one_database_are_as_those_in_their_own(
    world: Any, make_spec: Any, make_stage: Any, fragments: list[Any], tmp_path: Path
) -> None:
    """Sources of one number have other columns, and a plan between them fails."""
    one = make_spec({"a": {"where": "score >= 0.3"}, "b": {}}, [make_stage(["a", "b"], order=Order(by="level::int"))])
    other = make_spec({"b": {"where": "level::int % 2 = 0"}}, [make_stage(["b"], order=Order(by="level"))])
    wrong = make_spec({"a": {"where": "lang::int = 1"}}, [make_stage(["a"])])
    kept = [(one, fragments), (other, fragments[1:]), (one, fragments)]
    alone = [world.plan(spec, given).content() for spec, given in kept]
    with shared_database(tmp_path / "database") as shared:
        assert not (tmp_path / "database").exists()
        plans = [world.plan(*kept[0], shared=shared)]
        with pytest.raises(SpecError, match="lang"):
            world.plan(wrong, fragments[:1], shared=shared)
        plans += [world.plan(spec, given, shared=shared) for spec, given in kept[1:]]
    assert [plan.content() for plan in plans] == alone
    assert not list(world.folder.glob("plan-*/.scratch"))
    assert not (tmp_path / "database").exists()


def test_what_a_killed_plan_left_is_no_obstacle(
    world: Any, make_spec: Any, make_stage: Any, fragments: list[Any]
) -> None:
    left = world.folder / "plan-1" / ".scratch"
    left.mkdir(parents=True)
    (left / "spill.tmp").write_bytes(b"x")
    (left.parent / "placements.parquet").write_bytes(b"half a file")
    plan = world.plan(make_spec({"a": {}}, [make_stage(["a"])]), fragments[:1])
    assert len(plan.rows("placements")) == 10
    assert not left.exists()
