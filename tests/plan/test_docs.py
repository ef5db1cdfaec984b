"""The examples and constants in docs/planning.md are those of the code."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from mixc.measure.facts import SIGNALS
from mixc.plan.allocate import Demand, Policy, allocate
from mixc.plan.checks import FEW_KEPT
from mixc.plan.drops import RULES
from mixc.plan.order import PIECE_STEP
from mixc.plan.run import MANY_EPOCHS, MUCH_PADDING, OFF_BUDGET

PAGE = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")


def demand(name: str, size: int, budget_size: int) -> Demand:
    return Demand(name=name, weight=Fraction(1, 2), size=size, budget_size=budget_size, max_epochs=Fraction(1))


def test_the_worked_examples() -> None:
    example = " ".join(PAGE.split("*Example.*")[1].split("*Example with")[0].split())
    numbers = re.search(
        r"`repeat` takes (\d+) and (\d+); `renormalise` (\d+) and (\d+); `shorten` (\d+) and (\d+)", example
    )
    assert numbers is not None
    told = [int(n) for n in numbers.groups()]
    given = [demand("big", 1000, 1000), demand("small", 100, 100)]
    policies: tuple[Policy, ...] = ("repeat", "renormalise", "shorten")
    found = [t for policy in policies for t in allocate(given, budget=400, policy=policy).targets.values()]
    assert told == found
    assert allocate(given, budget=400, policy="fail").shortfalls[0].epochs == 2
    units = [demand("long", 10_000, 100), demand("short", 10_000, 1000)]
    assert allocate(units, budget=110, policy="fail").targets == {"long": 1000, "short": 1000}
    assert "so each gives 1,000 tokens" in " ".join(PAGE.split())


def test_rules_signals_and_limits() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE.split("## 2.")[0], re.M)) == RULES
    listed = re.search(r"The signals \((.*?)\) are", PAGE, re.S)
    assert listed is not None
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == SIGNALS
    assert f"0x{int(PIECE_STEP):x}" in PAGE
    for text in (
        f"less than {int(FEW_KEPT * 100)} %",
        f"more than {MANY_EPOCHS} epochs",
        f"more than {int(MUCH_PADDING * 100)} % padding",
        f"more than {int(OFF_BUDGET * 100)} % from its budget",
    ):
        assert text in " ".join(PAGE.split()), text
