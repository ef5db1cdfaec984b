"""The launcher's own flags of `mixc train`, taken from among the trainer's: how the processes start, and what has to be made ready
before they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from mixc.errors import MixcError

LOCAL, TORCHRUN, HOSTFILE, SLURM = LAUNCHERS = ("local", "torchrun", "hostfile", "slurm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the user typed, with the defaults of what was left out."""

    launcher: str
    dry_run: bool
    nproc: int
    nodes: int
    node_rank: int
    master_addr: str | None
    master_port: int
    hostfile: str | None
    env: tuple[str, ...]
    time: str | None
    partition: str | None
    account: str | None
    qos: str | None
    job_name: str | None
    cpus_per_task: int
    gpus_per_node: int | None
    grace: int
    sbatch: tuple[str, ...]
    eval_questions: str | None
    eval_max_tokens: int | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise MixcError(message, where="mixc train", mend="see `mixc train --help`")


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"takes a whole number from {least} on, got {text!r}")
        return int(text)

    return number


def _line(text: str) -> str:
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"takes one line of text, got {text!r}")
    return text


_GIVEN_TO: dict[str, tuple[str, ...]] = {
    "nproc": (LOCAL, TORCHRUN, SLURM),
    "nodes": (TORCHRUN, SLURM),
    "node_rank": (TORCHRUN,),
    "master_addr": (TORCHRUN, HOSTFILE),
    "master_port": (TORCHRUN, HOSTFILE),
    "hostfile": (HOSTFILE,),
    "env": (HOSTFILE,),
    **dict.fromkeys(("time", "partition", "account", "qos", "job_name", "cpus_per_task"), (SLURM,)),
    **dict.fromkeys(("gpus_per_node", "grace", "sbatch"), (SLURM,)),
}
"""Flags that not every launcher has."""

_DEFAULTS = {
    "nproc": 1,
    "nodes": 1,
    "node_rank": 0,
    "master_port": 29500,
    "env": [],
    "cpus_per_task": 4,
    "grace": 300,
    "sbatch": [],
    "eval_questions": None,
    "eval_max_tokens": None,
}


def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="mixc train",
        usage="mixc train BUILD --out RUN [flags of the launcher] [flags of the trainer]",
        add_help=False,
        allow_abbrev=False,
        # what is not given stays away: a flag that another launcher has is refused, its default is not
        argument_default=argparse.SUPPRESS,
    )
    add = made.add_argument_group("the launcher's flags").add_argument
    add("--launcher", choices=LAUNCHERS, default=LOCAL, help="what starts the processes (local: this machine alone)")
    add("--dry-run", action="store_true", default=False, help="print what would be started, and start nothing")
    add("--nproc", type=_whole(1), metavar="N", help="processes on a machine, one a GPU (1)")
    add("--nodes", type=_whole(1), metavar="N", help="torchrun, slurm: machines (1)")
    add("--node-rank", type=_whole(0), metavar="R", help="torchrun: which of them this is, from 0 (0)")
    add("--master-addr", type=_line, metavar="HOST", help="torchrun, hostfile: where the processes meet")
    add("--master-port", type=_whole(1), metavar="PORT", help="torchrun, hostfile: and at which port (29500)")
    add("--hostfile", type=_line, metavar="FILE", help="hostfile: DeepSpeed's, a line `HOST slots=N` a machine")
    add("--env", type=_line, action="append", metavar="NAME", help="hostfile: a variable that goes along, too")
    add("--time", type=_line, metavar="T", help="slurm: time limit, as sbatch takes it")
    add("--partition", type=_line, metavar="P", help="slurm")
    add("--account", type=_line, metavar="A", help="slurm")
    add("--qos", type=_line, metavar="Q", help="slurm")
    add("--job-name", type=_line, metavar="NAME", help="slurm (the name of RUN)")
    add("--cpus-per-task", type=_whole(1), metavar="N", help="slurm: cores a process, with its loaders (4)")
    add("--gpus-per-node", type=_whole(0), metavar="N", help="slurm: 0 asks for none (nproc; 0 if DS_ACCELERATOR=cpu)")
    add("--grace", type=_whole(0), metavar="S", help="slurm: seconds before the time limit to stop and save (300)")
    add("--sbatch", type=_line, action="append", metavar="OPTION", help="slurm: a further option, as --sbatch=--mem=0")
    add = made.add_argument_group("questions, made ready before the start").add_argument
    add(
        "--eval-questions",
        type=_line,
        metavar="FILE",
        help="to ask when --eval would evaluate, as `mixc chat --batch` reads",
    )
    add("--eval-max-tokens", type=_whole(1), metavar="N", help="length of an answer at most (128)")
    return made


def take(arguments: list[str]) -> tuple[Launch, list[str]]:
    """The launcher's flags, and what is left for the trainer, in order. Raises MixcError for a flag that does
    not parse, or that the chosen launcher does not have."""
    given, left = parser().parse_known_args(arguments)
    found = vars(given)
    launcher = found["launcher"]
    for name, launchers in _GIVEN_TO.items():
        if name in found and launcher not in launchers:
            flag = "--" + name.replace("_", "-")
            raise MixcError(
                f"{flag} is not for the launcher {launcher}",
                where="mixc train",
                mend=f"leave it out, or say --launcher {' or '.join(launchers)}"
                + ("; the hostfile says how many processes a machine has" if name == "nproc" else ""),
            )
    if "eval_max_tokens" in found and "eval_questions" not in found:
        raise MixcError(
            "--eval-max-tokens is the length of answers, and there are no questions",
            where="mixc train",
            mend="--eval-questions FILE",
        )
    if launcher == HOSTFILE and "hostfile" not in found:
        raise MixcError("--launcher hostfile needs a hostfile", where="mixc train", mend="--hostfile FILE")
    values: dict[str, Any] = {**dict.fromkeys(_GIVEN_TO), **_DEFAULTS, **found}
    return Launch(**{**values, "env": tuple(values["env"]), "sbatch": tuple(values["sbatch"])}), left
