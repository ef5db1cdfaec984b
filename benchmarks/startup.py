"""How long small commands take, where everything is measured already: `mixc --help`, and plan, compile and diff of the demo.

    python benchmarks/startup.py [--runs 11] [--against CHECKOUT]

Whole processes, all that they start included: the least CPU seconds, and the least and median seconds of the clock. `--against` runs
those of another checkout by turns with these, for a comparison that a busy machine spoils less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from process import Cost, measured

REPO = Path(__file__).resolve().parents[1]
SPEC, OTHER = "specs/demo.yaml", "specs/demo-b.yaml"


def main(runs: int, checkouts: list[Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="mixc-bench-") as scratch:
        commands = {
            "mixc --help": ["--help"],
            "plan": ["plan", SPEC],
            "compile, unchanged": ["compile", SPEC, "-o", f"{scratch}/build"],
            "diff of two specs": ["diff", SPEC, OTHER],
        }
        for what, command in commands.items():
            costs: dict[Path, list[Cost]] = {checkout: [] for checkout in checkouts}
            for _ in range(runs + 1):
                for checkout, found in costs.items():
                    found.append(run(command, checkout, Path(scratch)))
            for checkout, found in costs.items():
                counted = found[1:]  # the first measures the demo, and warms caches
                walls = [cost.wall for cost in counted]
                where = f" ({checkout})" if len(checkouts) > 1 else ""
                print(
                    f"{what}{where}: {min(cost.cpu for cost in counted):.3f} CPU-s, {min(walls):.3f} s, "
                    f"median {statistics.median(walls):.3f} s of {runs} runs",
                    flush=True,
                )


def run(command: list[str], checkout: Path, scratch: Path) -> Cost:
    environment = {
        **os.environ,
        "MIXC_CACHE": str(scratch / "cache"),
        "PYTHONPATH": str(checkout),
        "PYTHONPYCACHEPREFIX": str(scratch / "bytecode"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    program = (
        "import sys; from mixc.cli.main import main\ntry: main()\nexcept SystemExit as end: sys.exit(end.code == 2)"
    )
    return measured([sys.executable, "-c", program, *command], env=environment, cwd=checkout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    arguments = parser.parse_args()
    against = [arguments.against.resolve()] if arguments.against else []
    main(arguments.runs, [*against, REPO])
