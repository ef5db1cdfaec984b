"""The launcher: starts the trainer, which is another program, and gets out of its way."""

from __future__ import annotations

import os
import sys

import typer

from mixc.errors import MixcError

USAGE = """\
mixc train BUILD --out RUN [--nproc N] [flags of the trainer]

  --nproc N   processes on this machine, one a GPU (1). For several machines start `python -m runtime` with the same
              flags under torchrun.

The trainer's own help:
"""


def train(context: typer.Context) -> None:
    """Train from a build."""
    arguments = list(context.args)
    program = [sys.executable, "-m", "runtime"]
    if "-h" in arguments or "--help" in arguments:
        print(USAGE, flush=True)
        os.execv(sys.executable, [*program, "--help"])
    processes = _take_nproc(arguments)
    if processes > 1:
        program = [sys.executable, "-m", "runtime.launch", str(processes)]
    os.execv(sys.executable, [*program, *arguments])


def export(context: typer.Context) -> None:
    """Write trained weights as the SAIL-VL models are published, or as transformers opens them."""
    os.execv(sys.executable, [sys.executable, "-m", "runtime.export", *context.args])


def _take_nproc(arguments: list[str]) -> int:
    """Remove `--nproc N` or `--nproc=N` from `arguments` and give N."""
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name != "--nproc":
            continue
        taken = arguments[i : i + 1] if value else arguments[i : i + 2]
        value = value or (taken[1] if len(taken) == 2 else "")
        del arguments[i : i + len(taken)]
        if not value.isdigit() or int(value) < 1:
            raise MixcError(f"--nproc takes a whole number of processes, got {value!r}", mend="as in --nproc 2")
        return int(value)
    return 1
