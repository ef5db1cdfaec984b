"""Commands about the cache: ls, prune."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mixc.cli.build import JsonOption

if TYPE_CHECKING:
    from mixc.cache.summary import Summary

app = typer.Typer(help="Say what lies in the cache, and make room in it.", no_args_is_help=True)


@app.command()
def ls(json: JsonOption = False) -> None:
    """Say where the cache is and what lies there: objects by source, signals, tokenizers, scan entries, blocks, leftovers."""
    from mixc.cache.summary import summarise
    from mixc.cache.use import cache_limit
    from mixc.cli.console import print_json
    from shards.cache_folder import cache_folder

    summary = summarise(cache_folder(), cache_limit())
    if json:
        print_json(summary)
    else:
        _show(summary)


@app.command()
def prune(
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="SIZE", help="until no more than this is left: 200GB (MIXC_CACHE_LIMIT)"),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="all that was last used before: 12h, 30d, 8w")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="all that no compile is using")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and remove nothing")] = False,
    json: JsonOption = False,
) -> None:
    """Remove leftovers of dead processes, then what was used least recently. Never what a running compile uses."""
    import time

    from mixc.cache.prune import prune as remove
    from mixc.cache.sizes import parse_age, parse_size, show_size
    from mixc.cache.use import cache_limit
    from mixc.cli.console import print_json
    from shards.cache_folder import cache_folder

    limit = parse_size(to, "--to") if to is not None else cache_limit() if older_than is None else None
    before_ns = None if older_than is None else time.time_ns() - parse_age(older_than, "--older-than") * 10**9
    pruned = remove(cache_folder(), to=limit, before_ns=before_ns, everything=everything, dry_run=dry_run)
    if json:
        print_json(pruned)
    else:
        for kind, removed in pruned.removed.items():
            print(f"{_PLURALS[kind]}: {removed.things:,}, {show_size(removed.bytes)}")
        done = "would be free" if dry_run else "made free"
        print(f"{show_size(pruned.freed)} {done}, {show_size(pruned.left)} left")
        if pruned.in_use:
            print(f"{show_size(pruned.in_use)} stay because a compile is using them")
        for path in pruned.not_ours:
            print(f"left: {path} holds something that mixc did not put there")
    for line in pruned.failed:
        print(f"warning: {line}", file=sys.stderr)
    raise typer.Exit(0 if pruned.enough and not pruned.failed else 1)


_PLURALS = {
    "object": "objects",
    "signal": "signals",
    "tokenizer": "tokenizers",
    "scan": "scan entries",
    "block": "blocks of builds in stores",
    "unfinished": "unfinished",
}


def _show(summary: Summary) -> None:
    import time

    from rich.console import Console
    from rich.table import Table

    from mixc.cache.sizes import show_age, show_size

    now = time.time()
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("things", "samples", "tokens", "size", "last used"):
        table.add_column(name, justify="right")
    groups = [
        *((f"objects of {group.name or '(damaged)'}", group) for group in summary.sources),
        *((f"signal {group.name or '(damaged)'}", group) for group in summary.signals),
        *((_PLURALS[name], group) for name, group in summary.others.items()),
        ("in all", summary.total),
    ]
    for name, group in groups:
        table.add_row(
            name,
            f"{group.things:,}",
            f"{group.samples:,}" if group.samples else "",
            f"{group.tokens:,}" if group.tokens else "",
            show_size(group.bytes),
            show_age(now - group.last_used.timestamp()) if group.last_used else "",
        )
    console.print(table)
    limit = "no limit (MIXC_CACHE_LIMIT)" if summary.limit is None else f"limit {show_size(summary.limit)}"
    in_use = f", in use by {summary.processes} running" if summary.processes else ""
    console.print(f"{summary.cache}: {limit}{in_use}", soft_wrap=True, markup=False, highlight=False)
