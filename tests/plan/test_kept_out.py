"""The plan says of every sample and stage which rule keeps it out."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from mixc.errors import PlanError, SpecError
from mixc.plan.tables import KEPT_OUT_SCHEMA
from mixc.spec.schema import MixEntry
from tests.plan.conftest import World
from tests.plan.rules import CONDITIONS, Mixture, kept_out, make_spec, rows, stages


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stages=stages(),
    where=st.sampled_from(list(CONDITIONS)),
    too_long=st.sampled_from([None, "drop"]),
    rows=st.fixed_dictionaries({name: rows(name) for name in "ab"}),
    pieces=st.integers(1, 3),
)
def test_the_rule_that_keeps_a_sample_out_of_a_stage_is_told(
    tmp_path_factory: Any, stages: Any, where: Any, too_long: Any, rows: Any, pieces: int
) -> None:
    """`kept_out` where it has a row, else the drops' rule, else the budget: as a plain evaluation of the rules finds it."""
    mixture = Mixture(make_spec(stages, where, too_long), rows)
    world = World(tmp_path_factory.mktemp("world"))
    parts = [(name, i, rows[name][i::pieces]) for name in "ab" for i in range(pieces)]
    fragments = [world.fragment(name, part, str(i)) for name, i, part in parts]
    try:
        plan = world.plan(mixture.spec, fragments)
    except (PlanError, SpecError):  # a stage that none of its samples can fill
        assume(False)
        return
    placed = {(row["stage"], row["id"].bytes) for row in plan.rows("placements")}
    places = {
        (row["fragment"], row["row"]): row["id"].bytes for name in ("placements", "drops") for row in plan.rows(name)
    }
    table = [(row["stage"], places[row["fragment"], row["row"]], row["rule"]) for row in plan.rows("kept_out")]
    told = {(stage, id): rule for stage, id, rule in table}
    assert len(told) == len(table)
    drops = {row["id"].bytes: row["rule"] for row in plan.rows("drops")}
    for (stage, id), rule in kept_out(mixture).items():
        if (stage, id) in placed:
            assert rule == "budget" and (stage, id) not in told
            continue
        event(f"{rule}, {'dropped' if id in drops else 'used elsewhere'}")
        assert told.pop((stage, id), drops.get(id, "budget")) == rule
    assert not told
    assert not [each for each in table if drops.get(each[1]) == each[2]]  # that would be said twice


def test_the_table_is_sorted_and_says_no_more_than_it_must(
    world: Any, row: Any, make_spec: Any, make_stage: Any
) -> None:
    """A curriculum: each sample is kept out of the stage that takes the others. One that no stage takes is in the drops alone."""
    fragments = [
        world.fragment("a", [row(content=(part, i), columns={"q": i}) for i in range(30)], part) for part in "xy"
    ]
    stages = [
        make_stage({"a": MixEntry(weight=1, where=text)}, name=name)
        for name, text in (("easy", "q < 10"), ("hard", "q >= 10 and q < 20"))
    ]
    plan = world.plan(make_spec({"a": {}}, stages), fragments[::-1])
    assert pq.read_schema(plan.out / "kept_out.parquet").equals(KEPT_OUT_SCHEMA)
    table = plan.rows("kept_out")
    assert {(row["source"], row["rule"]) for row in table} == {("a", "stage_where")}
    assert [(row["stage"], row["fragment"], row["row"]) for row in table] == [
        *((0, fragment, n) for fragment in (0, 1) for n in range(10, 20)),
        *((1, fragment, n) for fragment in (0, 1) for n in range(10)),
    ]
    assert plan.summary.drops == {"stage_where": 20}


def test_a_stage_whose_rules_keep_nobody_out_has_no_rows(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    plan = world.plan(
        make_spec({"a": {}}, [make_stage({"a": 1}, budget="0.5 epochs")]),
        [world.fragment("a", [row(content=i) for i in range(20)])],
    )
    assert plan.rows("kept_out") == [] and plan.summary.drops == {"budget": 10}
