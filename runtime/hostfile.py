"""DeepSpeed's hostfile: one machine a line, and how many processes (GPUs) it has.

    worker-1 slots=8      # a comment
    train@10.0.0.2 slots=8

Stricter than DeepSpeed's own reader, which takes any words after `slots=N`: what is not understood is not left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ArgumentError

_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>[0-9]+)")
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    """As ssh takes it: a name, an address or an alias, perhaps with `user@` before it."""
    slots: int

    @property
    def address(self) -> str:
        return self.name.rpartition("@")[2]

    @property
    def is_loopback(self) -> bool:
        return _LOOPBACK.fullmatch(self.address) is not None


def read_hostfile(path: Path) -> list[Host]:
    """The machines, in the file's order, at least one. Raises ArgumentError, with file and line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError("the hostfile cannot be read", where=str(path), why=str(error)) from None
    hosts: list[Host] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        where = f"{path}:{number}"
        found = _LINE.fullmatch(line)
        if found is None or int(found["slots"]) < 1:
            raise ArgumentError(
                f"not a line of a hostfile: {line!r}",
                where=where,
                mend="write a machine and its number of processes, as in: worker-1 slots=8",
            )
        host = Host(found["name"], int(found["slots"]))
        if host.name.startswith("-"):  # ssh would take it for an option
            raise ArgumentError(f"not the name of a machine: {host.name!r}", where=where)
        if host.name in lines:
            raise ArgumentError(
                f"{host.name} is named twice",
                where=where,
                why=f"first in line {lines[host.name]}",
                mend="add its slots up",
            )
        hosts.append(host)
        lines[host.name] = number
    if not hosts:
        raise ArgumentError("the hostfile names no machine", where=str(path))
    return hosts


def meeting_address(hosts: list[Host], path: Path) -> str:
    """Where the first process is to be found by all: the first machine's name. Raises ArgumentError when that
    would be another machine for each."""
    first = hosts[0]
    elsewhere = [host.name for host in hosts if not host.is_loopback]
    if first.is_loopback and elsewhere:
        raise ArgumentError(
            f"{first.name} is the first machine, and {elsewhere[0]} would look for it at home",
            where=str(path),
            mend="name it as the others see it, or give --master-addr",
        )
    return first.address
