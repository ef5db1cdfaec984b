"""`mixc train`, `soup` and `export`: start another program, and get out of its way."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mixc.launch.flags import Launch


def train(context: typer.Context) -> None:
    """Train from a build."""
    from mixc.launch import commands, slurm
    from mixc.launch.flags import HOSTFILE, LOCAL, SLURM, parser, take

    arguments = list(context.args)
    if "-h" in arguments or "--help" in arguments:
        print(parser().format_help() + "\nThe trainer's own help:\n", flush=True)
        _become(commands.trainer(["--help"]))
    launch, arguments = take(arguments)
    if launch.eval_questions is not None:
        arguments = _with_questions(launch, launch.eval_questions, arguments)
    if launch.launcher == SLURM:
        if launch.dry_run:
            print(slurm.script(launch, arguments), end="")
        else:
            job = slurm.submit(launch, arguments)
            print(job)
            print(f"its output: {slurm.out(arguments)}/slurm-{job}.out", file=sys.stderr)
        return
    make = {LOCAL: commands.local, HOSTFILE: commands.hostfile}.get(launch.launcher, commands.torchrun)
    program = make(launch, arguments)
    if launch.dry_run and launch.launcher != HOSTFILE:
        print(shlex.join(program))
        return
    _become(program)


def _with_questions(launch: Launch, path: str, arguments: list[str]) -> list[str]:
    """The trainer's arguments, with the questions that were made ready for it, which are written into the run's folder."""
    from mixc.ask.model import of_build
    from mixc.ask.prepare import MAX_NEW_TOKENS, prepare
    from mixc.errors import MixcError
    from mixc.launch.slurm import out
    from shards.build import Build
    from shards.cache_folder import cache_folder
    from shards.questions import FOLDER, write
    from shards.store import place

    run = out(arguments)
    if arguments[0].startswith("-"):
        raise MixcError(
            "with --eval-questions the build comes first",
            where="mixc train",
            mend="mixc train BUILD --out RUN --eval-questions FILE ...",
        )
    model = of_build(Build.open(place(arguments[0])).manifest, arguments[0], cache=cache_folder())
    asked = prepare(Path(path), model, max_new_tokens=launch.eval_max_tokens or MAX_NEW_TOKENS)
    return [*arguments, "--eval-questions", str(write(run / FOLDER, asked))]


def export(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="a run, or a folder that a stage was saved in")],
    out: Annotated[Path, typer.Option("--out", "-o", help="a new folder")],
    form: Annotated[
        str, typer.Option("--format", help="released, or transformers for plain transformers")
    ] = "released",
    tokenizer: Annotated[
        str | None, typer.Option(help="a name, a folder or a tokenizer.json (the model's own)")
    ] = None,
    template: Annotated[str | None, typer.Option(help="chat template (the model's own)")] = None,
) -> None:
    """Write trained weights as the SAIL-VL models are published, or as transformers opens them, with their tokenizer."""
    from mixc.ask import beside
    from mixc.ask.model import find
    from mixc.errors import MixcError
    from shards.cache_folder import cache_folder

    if form not in beside.FORMS:
        raise MixcError(f"--format is {' or '.join(beside.FORMS)}, not {form!r}")
    model = find(weights, tokenizer=tokenizer, template=template, cache=cache_folder())
    with tempfile.TemporaryDirectory(prefix="mixc-export-") as folder:
        beside.write(Path(folder), model, form)
        program = [sys.executable, "-m", "runtime.export", str(model.folder), "--out", str(out), "--format", form]
        program += ["--template", model.template.name, "--beside", folder]
        raise typer.Exit(subprocess.run(program, check=False).returncode)


def soup(context: typer.Context) -> None:
    """Average the weights of models that were trained from the same one."""
    _become([sys.executable, "-m", "runtime.soup", *context.args])


def _become(program: list[str]) -> None:
    os.execv(program[0], program)
