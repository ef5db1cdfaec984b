from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mixc.plan.show import short, show


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
