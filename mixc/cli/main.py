"""The command line. Every command imports what it needs when it runs, so that `mixc --help` is instant.

Exit codes: 0 done; 1 a difference was found or a check failed; 2 the user's mistake; 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer

from mixc.cli import ask, build, cache, doctor, init, lock, look, run
from mixc.errors import MixcError

INTERRUPTED = 130
FEW_COLLECTIONS = 100_000
"""New objects before Python looks for unreachable cycles, of which there are hardly any here. At its usual 700 it spends 4 % of
a small command on looking through what was just imported."""

app = typer.Typer(
    name="mixc",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"mixc {version('mixc')}")
        raise typer.Exit


@app.callback()
def _begin(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Compile data mixtures for vision-language models, train from them, and say what changed between two."""


app.command(rich_help_panel="Compile")(init.init)
app.command(rich_help_panel="Compile")(build.check)
app.command(rich_help_panel="Compile")(build.plan)
app.command(rich_help_panel="Compile")(build.compile)
app.command(rich_help_panel="Compile")(lock.lock)
app.command(rich_help_panel="Compile")(build.schema)
app.command(
    rich_help_panel="Train",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(run.train)
app.command(
    rich_help_panel="Train",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(run.soup)
app.command(rich_help_panel="Train")(run.export)
app.command(rich_help_panel="Train", context_settings={"allow_extra_args": True})(ask.chat)
app.command(rich_help_panel="Train")(doctor.doctor)
app.command(rich_help_panel="Look")(look.diff)
app.command(rich_help_panel="Look")(look.inspect)
app.command(rich_help_panel="Look")(look.explain)
app.command(rich_help_panel="Look")(look.verify)
app.command(rich_help_panel="Look")(look.report)
app.command(rich_help_panel="Look")(lock.sql)
app.add_typer(cache.app, name="cache", rich_help_panel="Look")


def main() -> None:
    """The `mixc` program: a user's mistake is a message and exit code 2, never a traceback."""
    gc.set_threshold(FEW_COLLECTIONS)
    try:
        _run()
    finally:
        gc.freeze()  # or Python looks through all that was imported once more, and again, before it ends: a tenth of a second


def _run() -> None:
    try:
        app(standalone_mode=True)
    except MixcError as error:
        _fail(f"{error.prefix}{error}")
    except SystemExit as leaving:  # what typer makes of a command's end, and of ctrl-C
        if leaving.code == INTERRUPTED:
            print("interrupted: what a compile or a run has finished is kept, start it again to go on", file=sys.stderr)
        raise
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a full disk, a folder without permission: the system's words, with the place
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"error: {where}{error.strerror or error}")
    except Exception as error:
        # A ShardError names its file and is the user's to act on; importing its type here would cost start-up time.
        if type(error).__module__ != "shards.errors":
            raise
        _fail(f"error: {error}")


def _fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)
