"""The rooms keep their doors shut: who may import whom, and what starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def imported(path: Path) -> set[str]:
    """First names of all that a file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("mixc", {"runtime", "torch", "transformers", "deepspeed", "flash_attn"}),
        ("runtime", {"mixc", "duckdb", "datatrove", "pyarrow"}),
        ("shards", {"mixc", "runtime", "torch", "duckdb", "datatrove", "pyarrow"}),
    ],
)
def test_rooms_do_not_import_what_they_must_not(room: str, forbidden: set[str]) -> None:
    files = sorted((REPO / room).rglob("*.py"))
    assert files
    assert {str(f.relative_to(REPO)): found for f in files if (found := imported(f) & forbidden)} == {}


PASSES = [
    "spec",
    "cache",
    "sources",
    "measure",
    "clean",
    "signals",
    "plan",
    "emit",
    "query",
    "page",
    "diff",
    "report",
    "launch",
    "doctor",
    "ask",
    "init",
    "cli",
]


def test_passes_import_only_earlier_passes() -> None:
    """The compiler reads in one direction. What stands beside the passes (errors, executor, hashing, sorting, compile) is exempt."""
    wrong = []
    for position, name in enumerate(PASSES):
        for path in sorted((REPO / "mixc" / name).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mixc."):
                    other = (node.module or "").split(".")[1]
                    if other in PASSES[position + 1 :]:
                        wrong.append(f"{path.relative_to(REPO)} imports {node.module}")
    assert wrong == []


HEAVY = {"torch", "transformers", "deepspeed"}


@pytest.mark.parametrize(
    "module",
    ["mixc.cli.main", "mixc.check", "mixc.compile", "mixc.diff.run", "mixc.report.page", "mixc.report.inspect"],
)
def test_no_command_of_the_compiler_loads_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout.split() == []


def test_help_loads_nothing_heavy() -> None:
    """What keeps `mixc --help` under 0.4 s (benchmarks/startup.py): no table, database or tokenizer library."""
    code = "import sys, mixc.cli.main; print(*sorted({'duckdb', 'pyarrow', 'numpy', 'datatrove', 'tokenizers', 'PIL'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout.split() == []
