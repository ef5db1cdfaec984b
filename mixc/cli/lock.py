"""Commands about what a build can be trusted with: `mixc lock` and `mixc sql`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixc.cli.build import JsonOption, SetOption, WorkersOption
from mixc.cli.look import BuildArgument

if TYPE_CHECKING:
    from mixc.lock import LockCheck, Locked


def lock(
    path: Annotated[Path, typer.Argument(help="a mixture spec, or a build", metavar="SPEC|BUILD", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="the lock (of a spec, its name with .lock)")
    ] = None,
    set: SetOption = [],  # noqa: B006
    update: Annotated[
        str | None, typer.Option("--update", metavar="NAME", help="pin this source anew, and no other thing")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="say what moved since; exits with 1 when anything did")
    ] = False,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Pin what a spec is built from, or a build: the file that `mixc compile --locked` builds from, or else refuses."""
    from mixc.cli.console import progress_bar
    from mixc.emit.lock import lock_of
    from mixc.errors import MixcError
    from mixc.lock import check_lock, lock_build, lock_spec

    if check and update is not None:
        raise MixcError("--check changes nothing, --update does", mend="give one of them")
    if path.is_dir():
        if set or update is not None or check:
            raise MixcError("--set, --update and --check are for a spec", where=str(path), mend="name a spec")
        if out is None:
            raise MixcError("a build's lock needs a place", where=str(path), mend="name it: -o SPEC.lock")
        _tell(out, lock_build(path, out), json)
        return
    place = out or lock_of(path)
    if check:
        _tell_check(place, check_lock(path, place, set), json)
        return
    with progress_bar() as progress:
        locked = lock_spec(path, place, set, update=update, workers=workers, progress=progress)
    _tell(place, locked, json)


def _tell(place: Path, locked: Locked, json: bool) -> None:
    from mixc.cli.console import print_json, warn

    warn(locked.warnings)
    lock, moved = locked.lock, locked.moved
    if json:
        print_json(
            {
                "lock": str(place),
                "written": locked.written,
                "root": lock.root,
                "sources": {
                    name: {"fragments": len(own), "samples": sum(each.samples for each in own)}
                    for name, own in sorted(lock.sources.items())
                },
                "moved": moved,
            }
        )
        return
    for line in moved.words() if moved else []:
        print(line)
    print(f"{'wrote' if locked.written else 'unchanged'} {place}")
    print(f"root {lock.root}" if lock.root else "no root: it pins the inputs, until a build is locked")


def _tell_check(place: Path, checked: LockCheck, json: bool) -> None:
    from mixc.cli.console import print_json, warn

    warn(checked.warnings)
    if json:
        print_json(
            {
                "lock": str(place),
                "ok": not checked.moved,
                "root": checked.lock.root,
                "moved": checked.moved,
                "versions": checked.versions,
            }
        )
    else:
        for line in checked.moved.words():
            print(line)
        if checked.versions:
            print(f"other versions, which may change results and need not: {', '.join(checked.versions)}")
        print(
            f"{len(checked.moved.words())} moved since {place}" if checked.moved else f"ok: nothing moved since {place}"
        )
    raise typer.Exit(1 if checked.moved else 0)


def sql(
    build: BuildArgument,
    query: Annotated[
        str | None, typer.Argument(help="one SELECT; left out, the tables and their columns", show_default=False)
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="every row as CSV on stdout")] = False,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="memory of a query, before it spills")
    ] = "4GB",
    json: JsonOption = False,
) -> None:
    """Query a build's plan, drops, rejects and manifest as tables, with DuckDB. Nothing is written, no other file read."""
    import io
    import sys
    import tempfile

    from rich.console import Console

    from mixc.cli.console import print_json, warn
    from mixc.errors import MixcError
    from mixc.query.ask import Answer
    from mixc.query.show import show, table_lines, write_csv, write_json
    from mixc.query.tables import list_tables, open_tables

    if csv and json:
        raise MixcError("--csv and --json are two ways to write one answer", mend="give one of them")
    with (
        tempfile.TemporaryDirectory(prefix="mixc-sql-") as folder,
        open_tables(build, Path(folder) / "spill", memory_limit=memory) as connection,
    ):
        if query is None:
            tables = list_tables(connection)
            if json:
                print_json({"build": str(build), "tables": tables})
            else:
                for line in table_lines(tables):
                    print(line)
            return
        answer = Answer(connection, query)
        if csv or json:
            out = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="\n")  # whatever the locale is
            (write_csv if csv else write_json)(answer, out)
            out.flush()
            out.detach()  # leaves stdout open
        else:
            console = Console()
            shown = show(answer, console if console.is_terminal else Console(width=10_000))
            if shown is not None:
                warn([f"these are the first {shown:,} rows: --csv and --json give all of them"])
