"""`python -m runtime.over_ssh HOSTFILE [flags] -- BUILD --out RUN ...`: train on the machines of a hostfile.

On each machine ssh starts `runtime.node` with the Python and in the folder of this one, and gives it its order on
stdin. Why not DeepSpeed's own launcher: it needs pdsh, hands the environment over on the command line, where `ps`
shows it to everybody, adds `--local_rank` to the trainer's flags, and its exit status is not the trainer's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from runtime.arguments import PROGRAM
from runtime.children import follow_parent, let_leave, oversee
from runtime.errors import ArgumentError, TrainError
from runtime.hostfile import Host, meeting_address, read_hostfile
from runtime.node import Order

SSH = "MIXC_SSH"
"""Variable with the command to use in place of `ssh` and its options, as GIT_SSH_COMMAND is git's."""

_SSH = (
    # no terminal, and no question that nobody would answer; a machine that has gone is noticed within a minute
    "ssh -T -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
)

TRAVELS = ("MIXC_CACHE", "OMP_NUM_THREADS", "DS_ACCELERATOR", "CUBLAS_WORKSPACE_CONFIG")
TRAVELS_BY_PREFIX = ("NCCL_", "TORCH_NCCL_", "GLOO_", "AWS_")
"""What the processes get of this environment, unless told more by `--env`. PYTHONPATH travels too, with the command."""

_ENDING = 5.0
"""Seconds that ssh has to end by itself once the other side was told to."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message, where=PROGRAM, mend=f"see `{PROGRAM} --help`")


def _parser() -> _Parser:
    made = _Parser(prog="python -m runtime.over_ssh", allow_abbrev=False)
    made.add_argument("hostfile", type=Path)
    made.add_argument("--master-addr")
    made.add_argument("--master-port", type=int, default=29500)
    made.add_argument("--env", action="append", default=[])
    made.add_argument("--dry-run", action="store_true")
    return made


def travelling(more: Sequence[str]) -> dict[str, str]:
    """What of this environment goes along. Raises ArgumentError when a variable asked for is not set."""
    for name in more:
        if name not in os.environ:
            raise ArgumentError(f"--env {name}, but {name} is not set here", where=PROGRAM)
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in (*TRAVELS, *more) or name.startswith(TRAVELS_BY_PREFIX)
    }


def orders(hosts: Sequence[Host], environment: dict[str, str], arguments: Sequence[str]) -> list[Order]:
    """One a machine: ranks go on from machine to machine, in the hostfile's order."""
    made, first, world = [], 0, sum(host.slots for host in hosts)
    for host in hosts:
        made.append(
            Order(
                environment=environment,
                first_rank=first,
                processes=host.slots,
                world=world,
                arguments=list(arguments),
            )
        )
        first += host.slots
    return made


def command(host: Host) -> list[str]:
    """What starts the node on a machine: nothing in it depends on the build, and nothing is secret."""
    path = os.environ.get("PYTHONPATH")
    python = ["env", f"PYTHONPATH={path}", sys.executable] if path else [sys.executable]
    remote = f"cd {shlex.quote(str(Path.cwd()))} || exit 2; exec {shlex.join([*python, '-m', 'runtime.node'])}"
    return [*shlex.split(os.environ.get(SSH) or _SSH), host.name, remote]


def launch(hosts: Sequence[Host], plan: Sequence[Order]) -> int:
    """Start every machine's part and wait, as runtime.launch does for one. Raises TrainError when ssh cannot
    start, or cannot keep, a machine's part."""
    children = []
    for host in hosts:
        start = command(host)
        try:
            children.append(
                # in a group of its own: ctrl-C is ours to pass on, and would only cut the connection
                subprocess.Popen(start, stdin=subprocess.PIPE, process_group=0, preexec_fn=follow_parent())
            )
        except OSError as error:
            for child in children:
                child.kill()
            raise ArgumentError(
                f"{start[0]} cannot be started",
                where=SSH,
                why=str(error),
                mend="install an ssh client, or set MIXC_SSH",
            ) from None
    pipes: list[IO[bytes]] = [child.stdin for child in children if child.stdin is not None]

    def write(pipe: IO[bytes], line: bytes) -> None:
        with suppress(OSError, ValueError):  # it has left, which is seen where it is waited for
            pipe.write(line + b"\n")
            pipe.flush()

    def pass_on(number: int) -> None:
        for pipe in pipes:
            write(pipe, b"%d" % number)

    def end() -> None:
        for pipe in pipes:
            with suppress(OSError):
                pipe.close()
        let_leave(children, _ENDING)
        for child in children:
            child.kill()

    for pipe, order in zip(pipes, plan, strict=True):
        write(pipe, msgspec.json.encode(order))
    status, failed = oversee(children, pass_on=pass_on, end=end)
    if failed is not None and status in (126, 127, 255):
        raise TrainError(
            f"its part of the run could not be started, or was lost: status {status}",
            where=f"machine {hosts[failed].name}",
            why="ssh failed" if status == 255 else f"there is no {sys.executable} there, or it cannot be run",
            mend="this must work without a question: " + shlex.join([*command(hosts[failed])[:-1], "true"])
            if status == 255
            else "every machine needs the same environment at the same place",
        )
    return status


def _show(hosts: Sequence[Host], plan: Sequence[Order]) -> None:
    """What would be started. Of the environment only names: values may be secret."""
    for host, order in zip(hosts, plan, strict=True):
        last = order.first_rank + order.processes - 1
        print(f"# processes {order.first_rank} to {last} of {order.world}")
        print(shlex.join(command(host)))
    meeting = " ".join(f"{name}={plan[0].environment[name]}" for name in ("MASTER_ADDR", "MASTER_PORT"))
    print(f"# each then starts: {shlex.join([sys.executable, '-m', 'runtime', *plan[0].arguments])}")
    print(f"# which meet at {meeting}")
    print(f"# and are given {', '.join(sorted(plan[0].environment.keys()))}")


def main(argv: Sequence[str]) -> int:
    """The program, but for leaving. Returns its exit status."""
    split = list(argv).index("--") if "--" in argv else len(argv)
    own, arguments = list(argv[:split]), list(argv[split + 1 :])
    try:
        asked = _parser().parse_args(own)
        hosts = read_hostfile(asked.hostfile)
        address = asked.master_addr or meeting_address(hosts, asked.hostfile)
        meeting = {"MASTER_ADDR": address, "MASTER_PORT": str(asked.master_port)}
        plan = orders(hosts, travelling(asked.env) | meeting, arguments)
        if asked.dry_run:
            _show(hosts, plan)
            return 0
        return launch(hosts, plan)
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
