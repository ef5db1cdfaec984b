"""Commands that go from a spec towards a build: check, plan, compile, schema."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[Path, typer.Argument(help="a mixture spec", metavar="SPEC", show_default=False)]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="A.B=C", help="override one value of the spec; stages by name: stages.NAME.key"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        min=1,
        help="processes (as many as the sources are worth, up to all cores); never changes the result",
    ),
]


def check(spec: SpecArgument, set: SetOption = [], json: JsonOption = False) -> None:  # noqa: B006
    """Check a spec and the head of each of its sources, before anything runs. Exits with 1 when a source is wrong."""
    from mixc.check import check_spec
    from mixc.cli.console import print_json, warn
    from mixc.errors import SourceError
    from shards.counted import counted

    checked = check_spec(spec, set)
    if json:
        print_json(checked)
    else:
        warn(checked.warnings)
        for source in checked.sources:
            columns = ", ".join(source.columns) or "none"
            size = counted(source.bytes, "byte")
            print(f"{source.name}: {counted(source.files, 'file')}, {size}, columns {columns}")
        for problem in checked.problems:
            told = SourceError(problem.what, where=problem.where, why=problem.why, mend=problem.mend)
            print(f"error: {told}", file=sys.stderr)
        if checked.ok:
            print("ok")
    raise typer.Exit(0 if checked.ok else 1)


def plan(
    spec: SpecArgument,
    set: SetOption = [],  # noqa: B006
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Show what would be built: shares wished and met, epochs, tokens, packing, drops. Writes no shard."""
    import tempfile

    from msgspec.structs import asdict

    from mixc.cache.use import using
    from mixc.cli.console import print_json, progress_bar, warn
    from mixc.compile import front, plan_only
    from mixc.rejects import lines, of_objects
    from shards.cache_folder import cache_folder

    with using(cache_folder()) as use:
        with progress_bar() as progress:
            measured = front(spec, set, use=use, workers=workers, progress=progress)
        with tempfile.TemporaryDirectory(prefix="mixc-plan-") as folder:
            summary = plan_only(measured, Path(folder), threads=measured.workers)
        rejected = of_objects(measured.objects, measured.loaded.base)
    warn([*measured.warnings, *use.warnings])
    if json:
        print_json({**asdict(summary), "reject_examples": rejected.examples})
    else:
        from rich.console import Console

        from mixc.plan.show import show, unweighted

        rest = f'after `mixc compile {spec} -o BUILD`, `mixc sql BUILD "select * from rejects"` lists all'
        by_size = unweighted(measured.loaded.spec)
        show(summary, Console(), list(lines(rejected, rest)), by_size=by_size)


def compile(
    spec: SpecArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUILD", help="folder of the build", show_default=False)],
    set: SetOption = [],  # noqa: B006
    workers: WorkersOption = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="refuse to build anything but what SPEC's .lock, or BUILD's lock, pins")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compile a spec into a build: deterministic token shards, media shards, manifest and lock."""
    from mixc.cli.console import print_json, progress_bar, warn
    from mixc.compile import compile_spec
    from mixc.rejects import lines, of_objects

    def replaces(root: str) -> None:
        before = f"root {root[:16]}" if root else "one that cannot be read"
        print(f"replaces the build at {out}, {before}, when the new one is whole", file=sys.stderr)

    with progress_bar() as progress:
        compiled = compile_spec(spec, out, set, workers=workers, locked=locked, progress=progress, replaces=replaces)
    manifest, summary, measured = compiled.manifest, compiled.summary, compiled.measured
    warn([*measured.warnings, *([] if json else summary.warnings)])
    rejected = of_objects(measured.objects, measured.loaded.base)
    if json:
        print_json(
            {
                "build": str(out),
                "root": manifest.root,
                "unchanged": compiled.unchanged,
                "replaced": compiled.replaced,
                "stages": [
                    {
                        "name": stage.name,
                        "samples": stage.samples,
                        "packs": stage.packs,
                        "steps": stage.steps,
                        "tokens": stage.tokens,
                        "supervised_tokens": stage.supervised_tokens,
                        "images": stage.images,
                        "fill": planned.fill,
                        "shards": [shard.name for shard in stage.shards],
                    }
                    for stage, planned in zip(manifest.stages, summary.stages, strict=True)
                ],
                "rejects": summary.rejects,
                "reject_examples": rejected.examples,
                "drops": summary.drops,
                "objects": {
                    "measured": len(measured.objects) - measured.reused,
                    "reused": measured.reused,
                },
                "warnings": [*measured.warnings, *summary.warnings],
            }
        )
        return
    from mixc.cli.built import lines as built

    rest = f'`mixc sql {shlex.quote(str(out))} "select * from rejects"` lists all'
    for line in built(compiled, out, list(lines(rejected, rest))):
        print(line)


def schema() -> None:
    """Print the spec's JSON Schema, for editors."""
    from mixc.cli.console import print_json
    from mixc.spec.jsonschema import json_schema

    print_json(json_schema())
