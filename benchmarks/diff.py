"""How long a diff of two large builds takes: two plans of N samples that differ by a threshold, or by a weight.

    python benchmarks/diff.py 10000000 [--folder FOLDER] [--edits threshold,weight]

The facts are those of benchmarks/plan.py, planned by the real plan pass, three stages, in processes of their own, untimed: into a
temporary folder, or into FOLDER, where a later run finds them. Each diff then runs in a new process, of which seconds and peak
memory are told. Objects and shards play no part: a diff of two builds reads none when their plans explain what differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
EDITS = ("base", "threshold", "weight")


def make_plan(folder: Path, samples: int, edit: str) -> None:
    """Plan into folder/edit, unless it is there, and keep the canonical spec beside it."""
    import msgspec
    from geometry import GEOMETRY
    from plan import make_fragments, make_spec

    from mixc.plan.run import plan
    from mixc.spec.canonical import canonical
    from mixc.spec.schema import Spec

    (folder / "facts").mkdir(parents=True, exist_ok=True)
    fragments = make_fragments(folder / "facts", samples)
    form = canonical(make_spec("100k"))
    if edit == "threshold":
        form["sources"]["noisy"]["where"] = "quality > 0.8"
    if edit == "weight":
        form["stages"][0]["mix"]["pages"]["weight"] = 0.26
    out = folder / edit
    if not (out / "summary.json").exists():
        plan(msgspec.convert(form, Spec), fragments, geometry=GEOMETRY, out=out, rejects={})
    (folder / f"{edit}.json").write_bytes(msgspec.json.encode(form))


def open_side(folder: Path, edit: str):  # type: ignore[no-untyped-def]
    """A side that is a plan alone."""
    import msgspec
    import pyarrow.parquet as pq
    from geometry import GEOMETRY

    from mixc.diff.side import Side, SideFragment
    from mixc.emit.settings import train_settings
    from mixc.plan.tables import PlanSummary
    from mixc.spec.schema import Spec

    form = json.loads((folder / f"{edit}.json").read_text())
    summary = msgspec.json.decode((folder / edit / "summary.json").read_bytes(), type=PlanSummary)
    spec = msgspec.convert(form, Spec)
    return Side(
        label=edit,
        kind="build",
        root=None,
        spec=form,
        tokenizer="0" * 64,
        template="0" * 64,
        signals={},
        consumed=None,
        versions={},
        fragments=[
            SideFragment(**{key: row[key] for key in ("source", "path", "digest", "samples", "rejects")}, object=None)
            for row in pq.read_table(folder / edit / "fragments.parquet").to_pylist()
        ],
        geometry=GEOMETRY,
        train={s.name: train_settings(s, p) for s, p in zip(spec.stages, summary.stages, strict=True)},
        plan=folder / edit,
        summary=summary,
        unplanned="",
        build=None,
    )


def compare(folder: Path, edit: str) -> None:
    """What is measured: the diff, as JSON to stdout."""
    from mixc.diff.run import compare as diff

    found = diff(open_side(folder, "base"), open_side(folder, edit))
    assert found.samples is not None and found.order is not None
    first = found.order.first_difference
    print(
        json.dumps(
            {
                "causes": [cause.text for cause in found.causes],
                "samples": {n: getattr(found.samples, n) for n in ("added", "removed", "moved", "repeated", "kept")},
                "first": first and [first.stage, first.step, first.pack],
                "equal steps": f"{found.order.equal_steps:,} of {found.order.steps:,}",
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=int, nargs="?", default=100_000)
    parser.add_argument("--folder", type=Path, help="to keep the facts and plans in")
    parser.add_argument("--edits", default="threshold,weight")
    parser.add_argument("--do", choices=["plan", "compare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do == "plan":
        make_plan(arguments.folder, arguments.samples, arguments.edits)
        return
    if arguments.do == "compare":
        compare(arguments.folder, arguments.edits)
        return
    from process import measured

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        size = ["--folder", str(folder), str(arguments.samples)]
        edits = arguments.edits.split(",")
        for edit in ("base", *edits):
            subprocess.run([sys.executable, HERE, *size, "--do", "plan", "--edits", edit], check=True)
        for edit in edits:
            cost = measured([sys.executable, HERE, *size, "--do", "compare", "--edits", edit])
            told = json.loads(cost.output)
            print(
                f"{arguments.samples:,} samples, {edit}: {cost.wall:.1f} s ({cost.cpu:.1f} CPU-s), "
                f"peak {cost.peak / 1024:.2f} GiB"
            )
            for key, value in told.items():
                print(f"  {key}: {value}")


if __name__ == "__main__":
    main()
