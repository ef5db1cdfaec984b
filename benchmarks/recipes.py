"""What the SAIL-VL recipes come to: each planned on made-up facts of the published sizes times a scale.

    python -m benchmarks.recipes [--scale 1e-4] [sail_vl2/2b.yaml ...]

Prints the table of docs/recipes.md, planned samples and tokens divided by the scale, and on stderr the seconds of each plan
(facts are written before, and not counted) and the process's peak memory. What the facts assume: tests/specs/synthetic.py.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.specs.published import RECIPES
from tests.specs.synthetic import made, plan_recipe, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", default=list(RECIPES), help="below specs/; all when none is given")
    parser.add_argument("--scale", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    planned = {}
    for name in arguments.specs:
        with tempfile.TemporaryDirectory() as folder:
            recipe = made(name, arguments.scale, Path(folder))
            start = time.perf_counter()
            planned[name] = plan_recipe(recipe, threads=arguments.threads)
            seconds = time.perf_counter() - start
            rows = sum(fragment.samples for fragment in recipe.fragments)
            placed = sum(stage.samples for stage in planned[name].stages)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
            print(
                f"{name}: {rows:,} samples, {placed:,} placements in {seconds:.1f} s; peak {peak:.2f} GiB",
                file=sys.stderr,
            )
    print("\n".join(table(planned, arguments.scale)))


if __name__ == "__main__":
    main()
