"""Commands that look at builds: diff, inspect, explain, verify, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixc.cli.build import JsonOption, WorkersOption


def _here(text: str) -> Path:
    if "://" in text:
        from mixc.errors import MixcError

        raise MixcError(
            "this command reads builds on this machine",
            where=text,
            mend="copy it here; `mixc train` reads it where it is",
        )
    return Path(text)


BuildArgument = Annotated[
    Path, typer.Argument(help="a folder written by `mixc compile`", metavar="BUILD", show_default=False, parser=_here)
]


def diff(
    a: Annotated[Path, typer.Argument(help="a build, or a spec", metavar="A", show_default=False, parser=_here)],
    b: Annotated[Path, typer.Argument(help="a build, or a spec", metavar="B", show_default=False, parser=_here)],
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Say what changed from A to B, and the first training step that differs. Exits with 1 when they differ."""
    from mixc.cli.console import print_json
    from mixc.diff.run import diff as compare
    from mixc.diff.show import lines

    found = compare(a, b, workers=workers)
    if json:
        print_json(found)
    else:
        for line in lines(found):
            print(line)
    raise typer.Exit(0 if found.equal else 1)


def inspect(
    build: BuildArgument,
    stage: Annotated[str | None, typer.Option("--stage", help="a stage of the build (its first)")] = None,
    pack: Annotated[int, typer.Option("--pack", min=0, help="number of a pack in the stage")] = 0,
    json: JsonOption = False,
) -> None:
    """Show a pack as text: segments, images with their grids, supervised text marked."""
    from mixc.cli.console import print_json
    from mixc.report.inspect import inspect_pack, show

    found = inspect_pack(build, stage, pack)
    if json:
        print_json(found)
    else:
        from rich.console import Console

        show(found, Console())


def explain(
    build: BuildArgument,
    stage: Annotated[str | None, typer.Option("--stage", help="with --step: a stage of the build")] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="a training step of the stage")] = None,
    sample: Annotated[str | None, typer.Option("--sample", metavar="ID", help="a sample's id, 32 hex digits")] = None,
    json: JsonOption = False,
) -> None:
    """Say which documents a step trained on, or what became of a sample."""
    from mixc.cli.console import print_json
    from mixc.errors import MixcError
    from mixc.report.explain import explain_sample, explain_step, sample_lines, step_lines

    if (sample is None) == (stage is None or step is None):
        raise MixcError("name a step or a sample", mend="--stage NAME --step N, or --sample ID")
    if sample is not None:
        story = explain_sample(build, sample)
        if json:
            print_json(story)
        else:
            for line in sample_lines(story):
                print(line)
        return
    assert stage is not None and step is not None
    documents = explain_step(build, stage, step)
    if json:
        print_json(documents)
    else:
        for line in step_lines(documents):
            print(line)


def verify(build: BuildArgument, json: JsonOption = False) -> None:
    """Read every byte of a build and check it against its digests. Exits with 1 when something is wrong."""
    from mixc.cli.console import print_json, progress_bar
    from mixc.errors import BuildError
    from shards.verify import verify as check

    if not build.is_dir():
        raise BuildError("there is no build here", where=str(build))
    with progress_bar() as progress:
        problems = check(build, progress=lambda _, done, total: progress("verify", done, total))
    if json:
        print_json(
            {"build": str(build), "ok": not problems, "problems": [{"file": p.file, "what": p.what} for p in problems]}
        )
    else:
        for problem in problems:
            print(problem)
        print("ok: every byte is as it was written" if not problems else f"{len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


def report(
    build: BuildArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the page (BUILD.html)", metavar="FILE")] = None,
    model: Annotated[str | None, typer.Option("--model", help="forecast the cost of this model (the build's)")] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="on this device")] = "H100",
    mfu: Annotated[float, typer.Option("--mfu", help="of whose peak so much is made use of")] = 0.4,
) -> None:
    """Write one static HTML page about a build: composition, flow, curriculum, packing, cost, drops, rejects."""
    from mixc.report.page import write_page

    path = out or build.with_name(build.name + ".html")
    write_page(build, path, model=model, device=gpu, mfu=mfu)
    print(path)
