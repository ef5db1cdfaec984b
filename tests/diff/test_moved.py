"""The rule of a sample that moved between stages is the one that keeps it out of the stage where it does not stand."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from mixc.diff.composition import joint
from mixc.diff.ids import find
from mixc.diff.moved import MovedSide
from mixc.diff.placements import read_placements
from mixc.diff.selection import Selected, compare_selection
from mixc.errors import PlanError, SpecError
from mixc.spec.canonical import canonical
from mixc.spec.schema import MixEntry, Spec
from tests.plan.conftest import Plan, Row, World
from tests.plan.rules import Mixture, kept_out, make_spec, rows, stages


def compared(plans: tuple[Plan, Plan], specs: tuple[Spec, Spec]) -> Any:
    by_name = [{stage.name: stage for stage in plan.summary.stages} for plan in plans]
    names = joint(*(list(own) for own in by_name))
    forms = [canonical(spec) for spec in specs]
    sides = []
    for n, plan in enumerate(plans):
        placed = read_placements(
            plan.out / "placements.parquet", [stage.packs for stage in plan.summary.stages], ["a", "b"]
        )
        moved = MovedSide(
            plan=plan.out,
            placements=placed,
            stages=by_name[n],
            other=by_name[1 - n],
            spec=forms[n],
            spec_of_other=forms[1 - n],
            no_stage=("new_stage", "gone_stage")[n],
        )
        files = [row["path"] for row in plan.rows("fragments")]
        own = [names.index(name) for name in by_name[n]]
        sides.append(Selected(placements=placed, plan=plan.out, stages=own, files=files, moved=moved))
    matched = find(*sides[0].placements.ids, *sides[1].placements.ids)
    return compare_selection(sides[0], sides[1], matched, names)


def stages_of(plan: Plan) -> dict[bytes, set[int]]:
    found: dict[bytes, set[int]] = defaultdict(set)
    for row in plan.rows("placements"):
        found[row["id"].bytes].add(row["stage"])
    return found


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=stages(2),
    change=st.integers(0, 2),
    second=stages(1),
    too_long=st.sampled_from([None, "drop"]),
    rows=st.fixed_dictionaries({name: rows(name) for name in "ab"}),
)
def test_the_rule_of_a_moved_sample_is_that_of_the_stage_where_it_is_not(
    tmp_path_factory: Any, first: Any, change: int, second: Any, too_long: Any, rows: Any
) -> None:
    """Two specs that share all stages but one. A plain evaluation of the rules says what to expect."""
    other = (
        [second[0] if n == change else stage for n, stage in enumerate(first)]
        if change < len(first)
        else first[:1] + second
    )
    specs = make_spec(first, None, too_long), make_spec(other, None, too_long)
    world = World(tmp_path_factory.mktemp("world"))
    fragments = [world.fragment(name, rows[name]) for name in "ab"]
    try:
        plans = world.plan(specs[0], fragments), world.plan(specs[1], fragments)
    except (PlanError, SpecError):
        assume(False)
        return
    found = compared(plans, specs)
    uses = [stages_of(plan) for plan in plans]
    rules = [kept_out(Mixture(spec, rows)) for spec in specs]
    counts: Counter[tuple[str, str]] = Counter()
    each: dict[str, list[dict[str, str]]] = {}
    for source in "ab":
        for n in range(len(rows[source])):
            id = Mixture(specs[0], rows).id(source, n)
            left, right = uses[0].get(id, set()), uses[1].get(id, set())
            if not left or not right or left == right:
                continue
            told: list[dict[str, str]] = [{}, {}]
            for side, missing in ((0, right - left), (1, left - right)):
                for stage in missing:
                    none = stage >= len(specs[side].stages)
                    rule = ("new_stage", "gone_stage")[side] if none else rules[side].get((stage, id), "not_mixed")
                    counts[source, rule] += 1
                    told[side][f"s{stage}"] = rule
                    event(rule)
            each[id.hex()] = told
    assert found.moved == len(each)
    moves = [move for move in found.moves if move.a and move.b]
    told_counts: Counter[tuple[str, str]] = Counter()
    for move in moves:
        told_counts.update({(move.source, rule): count for rule, count in move.rules.items()})
    assert told_counts == counts
    for example in found.examples.get("moved", []):
        sides = (example.not_in_a, example.not_in_b)
        assert [{own.stage: own.rule for own in side} for side in sides] == each[example.id]


def test_a_plan_of_an_earlier_version_leaves_what_is_possible(tmp_path: Path) -> None:
    """It has no such table. The rules of both stages are the same but for one threshold, so that or the budget it must be."""
    own = {
        "a": [Row(content=("a", n), columns={"level": n % 5, "score": 0.5}) for n in range(40)],
        "b": [Row(content=("b", n), tiles=1, images=1, columns={"level": 0, "score": None}) for n in range(10)],
    }
    world = World(tmp_path)
    fragments = [world.fragment(name, own[name]) for name in "ab"]
    specs = []
    for where in ("level >= 2", "level < 3"):
        common = {"budget": "0.7 epochs", "sequence_length": 64, "reuse": True}
        specs.append(
            make_spec(
                [
                    {"mix": {"a": MixEntry()}, **common},
                    {"mix": {"a": MixEntry(where=where), "b": MixEntry()}, **common},
                ],
                None,
                None,
            )
        )
    plans = world.plan(specs[0], fragments), world.plan(specs[1], fragments)
    known = {rule for move in compared(plans, (specs[0], specs[1])).moves if move.a and move.b for rule in move.rules}
    assert known == {"stage_where", "budget"}
    for plan in plans:
        (plan.out / "kept_out.parquet").unlink()
    found = compared(plans, (specs[0], specs[1]))
    assert {rule for move in found.moves if move.a and move.b for rule in move.rules} >= {"stage_where or budget"}
