"""`mixc train`: starts the trainer, which is another program, and gets out of its way."""

from __future__ import annotations

import os
import shlex
import sys

import typer


def train(context: typer.Context) -> None:
    """Train from a build."""
    from mixc.launch import commands, slurm
    from mixc.launch.flags import HOSTFILE, LOCAL, SLURM, parser, take

    arguments = list(context.args)
    if "-h" in arguments or "--help" in arguments:
        print(parser().format_help() + "\nThe trainer's own help:\n", flush=True)
        _become(commands.trainer(["--help"]))
    launch, arguments = take(arguments)
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


def export(context: typer.Context) -> None:
    """Write trained weights as the SAIL-VL models are published, or as transformers opens them."""
    _become([sys.executable, "-m", "runtime.export", *context.args])


def soup(context: typer.Context) -> None:
    """Average the weights of models that were trained from the same one."""
    _become([sys.executable, "-m", "runtime.soup", *context.args])


def _become(program: list[str]) -> None:
    os.execv(program[0], program)
