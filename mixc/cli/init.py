"""`mixc init`: from a folder of data to a spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixc.cli.build import JsonOption

if TYPE_CHECKING:
    from mixc.init.run import Passed

MOST_NAMES = 6
"""Of ignored files that are told by name; more are counted by suffix."""


def init(
    folder: Annotated[Path, typer.Argument(help="a folder of data", metavar="FOLDER", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="the spec to write", metavar="SPEC")] = Path("spec.yaml"),
    model: Annotated[str, typer.Option("--model", help="the model to train")] = "sail-vl-tiny",
    seed: Annotated[int, typer.Option("--seed", min=0, help="of every random choice")] = 1,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    json: JsonOption = False,
) -> None:
    """Write a spec over what a folder holds: images with captions, pages, conversations, texts. Says what it found, and what not."""
    from mixc.cli.console import print_json, warn
    from mixc.init.run import init as write
    from mixc.rejects import lines
    from mixc.sources.files import printable
    from shards.counted import counted

    made = write(folder, out, model=model, seed=seed, force=force)
    if json:
        print_json(made)
        return
    for source in made.sources:
        keys = "".join(f", {key}: {value}" for key, value in source.keys.items())
        path = source.path if isinstance(source.path, str) else f"{source.path[0]} and {len(source.path) - 1} more"
        print(
            f"{source.name}: {source.kind}, {path}{keys}; {source.usable} of the first {counted(source.rows, 'row')}"
            " can be used"
        )
        for line in lines(source.rejects, "`mixc plan` reads all rows"):
            print(line)
    for each in made.left:
        print(f"left out {printable(each.path)}: {each.why}")
    if made.ignored:
        print(f"ignored, as no kind of data that mixc reads: {', '.join(_ignored(made.ignored))}")
    warn(made.warnings)
    print(f"wrote {made.spec}")
    print("next:")
    print(f"  mixc plan {made.spec}")
    print(f"  mixc compile {made.spec} -o build")
    print("  mixc train build --out run")
    print("  mixc report build")


def _ignored(groups: list[Passed]) -> Iterator[str]:
    """Names where they are few, else counts by suffix."""
    from mixc.sources.files import printable

    named = all(group.count == len(group.first) for group in groups) and sum(g.count for g in groups) <= MOST_NAMES
    for group in groups:
        if named:
            yield from map(printable, group.first)
        else:
            kind = printable(group.suffix) or "without a suffix"
            yield f"{group.count:,} {kind} ({', '.join(map(printable, group.first[:1]))}{', ...' * (group.count > 1)})"
