"""What a run says when it ends: how far it has come, where the weights are, and the command that comes next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from runtime.arguments import PROGRAM
from runtime.processes import Place as Processes
from shards.counted import counted
from shards.store import Place


def trained(out: Path, stages: Sequence[str], *, left: Sequence[str], images: bool) -> list[str]:
    """Of a run whose `stages` have all ended. `left`: the build's that it was not asked for; `images`: whether it has seen any."""
    without = f"; not asked for: {', '.join(left)}" if left else ""
    shown = "--image x.jpg " if images else ""
    return [
        f"{out}: all stages are trained ({', '.join(stages)}{without}); the weights are in {out / stages[-1]}",
        f'next: mixc chat {shlex.quote(str(out))} {shown}"..."',
    ]


def stopped(stage: str, step: int, steps: int) -> str:
    """Of a run that has made `step` of the stage's `steps`."""
    return f"stopped after {step:,} of {counted(steps, 'step')} of stage {stage}; what is done is saved"


def not_begun(stage: str) -> str:
    """Of a run that has stopped between two stages."""
    return f"stopped before stage {stage}; what comes before it is saved"


def go_on(build: Place, out: Path, processes: Processes) -> str:
    """The command by which a stopped run goes on."""
    if processes.local_world < processes.world:
        return "the command that started it, with --resume"  # how its machines were found is not known here
    many = f" --nproc {processes.world}" if processes.world > 1 else ""
    return f"{PROGRAM} {shlex.quote(str(build))} --out {shlex.quote(str(out))}{many} --resume"
