from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from mixc.plan.show import short, show, stage_line, unweighted
from mixc.spec.schema import MixEntry


def test_a_plan_is_shown_with_its_figures(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = {name: [row(content=(name, i), tokens=20) for i in range(30)] for name in ("a", "b", "idle")}
    stage = make_stage({"a": 0.75, "b": 0.25}, budget="400 tokens", batch=4)
    fragments = [world.fragment(name, own) for name, own in rows.items()]
    plan = world.plan(make_spec({name: {} for name in rows}, [stage]), fragments, rejects={"a": {"image_bomb": 1234}})
    console = Console(width=80, record=True, file=io.StringIO())
    show(plan.summary, console)
    text = console.export_text()
    for part in (
        "75.00%",
        "25.00%",
        "300",
        "100",
        "0.50",
        "steps of 4 packs",
        "budget",
        "unused_source",
        "1,234",
    ):
        assert part in text, part
    assert "warning: source `idle` is in no stage's mix" in text


def test_shares_that_nobody_asked_for_are_by_size(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    stages = [
        make_stage(["a", "b"], name="sizes", batch=1),
        make_stage(["a", "b"], name="even", batch=1, temperature=2.0, reuse=True, on_exhausted="repeat"),
        make_stage({"a": MixEntry(max_epochs=2), "b": MixEntry()}, name="caps", batch=1, reuse=True),
        make_stage({"a": 1, "b": 1}, name="asked", batch=1, budget="200 tokens", reuse=True),
        make_stage(["both"], name="group", batch=1, reuse=True),
    ]
    fragments = [world.fragment(name, [row(content=(name, i), tokens=20) for i in range(20)]) for name in "ab"]
    spec = make_spec({"a": {}, "b": {}}, stages, groups={"both": {"a": 1.0, "b": 1.0}})
    assert unweighted(spec) == ["sizes", "caps"]
    console = Console(width=80, record=True, file=io.StringIO())
    show(world.plan(spec, fragments).summary, console, by_size=unweighted(spec))
    text = console.export_text()
    assert text.count("by size") == 4 and text.count("50.00%") > 4
    assert text.count("wished: the share asked for") == 1 and "rank skew" not in text


def test_ranks_that_wait_are_told(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    rows = [row(content=i, tokens=20 if i % 5 else 1000) for i in range(40)]
    fragments = [world.fragment("a", rows)]
    plan = world.plan(make_spec({"a": {}}, [make_stage(["a"], batch=2, sequence_length=1000)]), fragments)
    (stage,) = plan.summary.stages
    for skew, told in ((0.02, False), (0.31, True)):
        line = stage_line(msgspec.structs.replace(stage, rank_skew=skew, rank_skew_max=0.9))
        assert ("31.0% of the mean's work" in line and "90.0% in the worst (rank skew)" in line) == told


def test_one_of_a_thing_is_singular(world: Any, row: Any, make_spec: Any, make_stage: Any) -> None:
    plan = world.plan(
        make_spec({"a": {}}, [make_stage(["a"], batch=1)]), [world.fragment("a", [row(content=1, tokens=20)])]
    )
    assert stage_line(plan.summary.stages[0]).startswith("1 step of 1 pack; at most ")


def test_showing_needs_neither_duckdb_nor_pyarrow() -> None:
    code = "import sys, mixc.plan.show; print([m for m in ('duckdb', 'pyarrow', 'numpy') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (123_456, "123.5k"),
        (999_999, "1000k"),
        (4_567_890, "4.568M"),
        (1_234_567_890_123, "1.235T"),
    ],
)
def test_counts_are_short(count: int, text: str) -> None:
    assert short(count) == text
