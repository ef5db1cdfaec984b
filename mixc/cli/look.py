"""Commands that look at builds: diff, inspect, explain, verify, report."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mixc.cli.build import JsonOption, SetOption, WorkersOption


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


class DiffFormat(StrEnum):
    text = "text"
    md = "md"
    html = "html"


_DIFF_FORMATS = {".md": DiffFormat.md, ".html": DiffFormat.html}
"""By the suffix of --out."""


def diff(
    a: Annotated[
        str, typer.Argument(help="a spec, a build, a lock, or git:REV:PATH of one", metavar="A", show_default=False)
    ],
    b: Annotated[str, typer.Argument(help="likewise", metavar="B", show_default=False)],
    format: Annotated[
        DiffFormat | None, typer.Option("--format", help="text for a terminal, md for a pull request, html for a page")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="write it there")] = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Say what changed from A to B and why, and the first training step that differs. Exits with 1 when they differ."""
    from mixc.cli.console import print_json
    from mixc.diff.run import diff as compare
    from mixc.errors import MixcError

    if json and (format or out):
        raise MixcError("--json is a format of its own, on stdout", mend="leave out --format and --out")
    if format is None:
        format = _DIFF_FORMATS.get(out.suffix if out else "", DiffFormat.text)
    if format is DiffFormat.html and out is None:
        raise MixcError("a page needs a place", mend="name it: -o diff.html")
    for name in (a, b):
        _here(name)
    found = compare(a, b, workers=workers)
    if json:
        print_json(found)
    elif format is DiffFormat.html:
        from mixc.diff.page import write_page

        assert out is not None
        write_page(found, out)
        print(out)
    elif format is DiffFormat.md or out:
        from mixc.diff.markdown import markdown
        from mixc.diff.show import lines
        from shards.atomic import atomic_write

        text = markdown(found) if format is DiffFormat.md else "".join(f"{line.text}\n" for line in lines(found))
        if out is None:
            print(text, end="")
        else:
            with atomic_write(out) as file:
                file.write(text.encode(errors="replace"))
            print(out)
    else:
        from mixc.diff.show import show

        show(found)
    raise typer.Exit(0 if found.equal else 1)


def inspect(
    build: BuildArgument,
    stage: Annotated[str | None, typer.Option("--stage", help="a stage of the build (its first)")] = None,
    pack: Annotated[int | None, typer.Option("--pack", min=0, help="number of a pack in the stage (its first)")] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="all packs of a training step")] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="ID", help="one sample, where it first stands")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="show where each token ends; JSON has their ids")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="write a static page, images inside it")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a pack as it is trained on: segments, text with the supervised part marked, images with their grids."""
    from mixc.cli.console import print_json
    from mixc.errors import BuildError, MixcError
    from mixc.report.inspect import Inspector

    asked = [name for name, value in (("--pack", pack), ("--step", step), ("--sample", sample)) if value is not None]
    if len(asked) > 1:
        raise MixcError(f"show one thing, not {' and '.join(asked)}")
    if html is not None and json:
        raise MixcError("--html and --json are two forms of the same", mend="ask twice")
    inspector = Inspector(build, tokens=tokens or html is not None)
    if sample is not None:
        one = inspector.sample(sample, stage)
        if one is None:
            where = "no stage uses" if stage is None else f"stage {stage} does not use"
            raise BuildError(f"{where} sample {sample}", where=str(build), mend="`mixc explain --sample` says why")
        found = [one]
    else:
        found = [inspector.pack(stage, pack or 0)] if step is None else inspector.step(stage, step)
    if json:
        print_json(found if step is not None else found[0])
    elif html is not None:
        from mixc.report.inspect_page import write_page

        write_page(found, inspector.build.image, html, mixture=inspector.build.manifest.mixture)
        print(html)
    else:
        from rich.console import Console

        from mixc.report.inspect_text import show

        for each in found:
            show(each, inspector.build.image, Console())


def explain(
    build: BuildArgument,
    stage: Annotated[str | None, typer.Option("--stage", help="with --step or --pack: a stage of the build")] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="a training step of the stage")] = None,
    pack: Annotated[int | None, typer.Option("--pack", min=0, help="a pack of the stage")] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="ID", help="a sample's id, or the first digits of it")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", metavar="PATH", help="a source's file, or a picture of a folder: its path, or the end of it"
        ),
    ] = None,
    row: Annotated[int | None, typer.Option("--row", min=0, help="with --file: one row of it")] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="FRAGMENT", help="find a text in everything that is trained on")
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="with --text: also in samples that no stage uses, which takes longer")
    ] = False,
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="find an image, byte for byte")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="rows and places to show; 0 for all")] = 20,
    json: JsonOption = False,
) -> None:
    """From a step or pack to its documents and the rules that chose them; from a sample, file or text to where it was used."""
    from mixc.cli.console import print_json, progress_bar
    from mixc.errors import MixcError
    from mixc.report import explain as explained
    from mixc.report import tell
    from mixc.report.pictures import find_picture
    from mixc.workers import cores

    asked = [name for name, value in (("--step", step), ("--pack", pack), ("--sample", sample), ("--file", file),
                                      ("--text", text), ("--image", image)) if value is not None]  # fmt: skip
    if len(asked) != 1:
        raise MixcError(
            "ask for one thing" + (f", not {' and '.join(asked)}" if asked else ""),
            mend="--stage NAME with --step N or --pack N, or --sample ID, --file PATH, --text FRAGMENT, --image FILE",
        )
    if (stage is None) == (asked[0] in ("--step", "--pack")):
        raise MixcError("--stage goes with --step or --pack", mend="name both, or neither")
    if row is not None and file is None:
        raise MixcError("--row is of a file", mend="name the file with --file PATH")
    if dropped and text is None:
        raise MixcError("--dropped goes with --text", mend="--sample and --file tell of dropped samples as they are")
    most = limit or None
    found: object
    if stage is not None:
        what = f"step {step}" if pack is None else f"pack {pack}"
        uses = (
            explained.explain_step(build, stage, step or 0)
            if pack is None
            else explained.explain_pack(build, stage, pack)
        )
        found, lines = uses, tell.step_lines(stage, what, uses)
    elif sample is not None:
        story = explained.explain_sample(build, sample)
        found, lines = story, tell.sample_lines(story)
    elif file is not None and row is not None:
        own = explained.explain_row(build, file, row)
        found = own
        lines = tell.sample_lines(own) if isinstance(own, explained.SampleStory) else iter([tell.row_line(own)])
    elif file is not None and (picture := find_picture(build, file)):
        own = explained.explain_row(build, picture.folder, picture.row)
        found, lines = own, tell.picture_lines(picture.path, own)
    elif file is not None:
        all_rows = explained.explain_file(build, file, limit=most)
        found, lines = all_rows, tell.file_lines(all_rows)
    else:
        from mixc.report.search import find_image, find_text

        with progress_bar() as progress:

            def packs(done: int, total: int) -> None:
                progress("packs", done, total)

            def fragments(done: int, total: int) -> None:
                progress("dropped", done, total)

            if text is not None:
                search = find_text(
                    build,
                    text,
                    limit=most,
                    workers=cores(),
                    dropped=dropped,
                    progress=packs,
                    fragments=fragments,
                )
            else:
                assert image is not None
                search = find_image(build, image, limit=most, workers=cores(), progress=packs)
        found, lines = search, tell.search_lines(search)
    if json:
        print_json(found)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)


def verify(
    build: BuildArgument,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="then build it again beside it, and compare every digest")
    ] = False,
    sources: Annotated[
        Path | None,
        typer.Option("--sources", metavar="DIR", help="with --rebuild: where the sources' relative paths start now"),
    ] = None,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="with --rebuild: this spec, instead of the lock's")
    ] = None,
    set: SetOption = [],  # noqa: B006
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Read every byte of a build and check it against its digests. Exits with 1 when something is wrong.

    With --rebuild also prove that the spec and the sources that its lock pins give this very build.
    """
    from mixc.cli.console import print_json, progress_bar, warn
    from mixc.errors import BuildError, MixcError
    from shards.counted import counted
    from shards.layout import MANIFEST
    from shards.recognise import recognise
    from shards.verify import verify as check

    if not rebuild and (sources or spec or set):
        raise MixcError("--sources, --spec and --set are for --rebuild", mend="add --rebuild")
    if sources and spec:
        raise MixcError("a spec's paths are relative to its own folder", mend="give --sources or --spec")
    known = recognise(build)
    if not build.is_dir() or (known and not (build / MANIFEST).exists()):
        raise BuildError("there is no build here", where=str(build), why=known)
    with progress_bar() as progress:
        problems = check(build, progress=lambda _, done, total: progress("verify", done, total))
    again = None
    if rebuild and not problems:  # what is damaged is known not to be what was built
        from mixc.rebuild import rebuild as build_again

        def room(folder: Path, size: int) -> None:
            print(f"building again in {folder}: {size / 1e6:,.1f} MB, removed at the end", file=sys.stderr)

        with progress_bar() as progress:
            again = build_again(
                build, spec=spec, sources=sources, overrides=set, workers=workers, progress=progress, room=room
            )
        warn(again.warnings)
    ok = not problems and (again is None or again.ok)
    if json:
        found = {"build": str(build), "ok": ok, "problems": [{"file": p.file, "what": p.what} for p in problems]}
        print_json({**found, "rebuild": again} if rebuild else found)
    else:
        for problem in problems:
            print(problem)
        print("ok: every byte is as it was written" if not problems else counted(len(problems), "problem"))
        if again:
            for line in again.words():
                print(line)
            if again.ok:
                print(f"ok: built again, the same root and the same {counted(again.shards, 'shard')}")
                print(f"root {again.root}")
    raise typer.Exit(0 if ok else 1)


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
