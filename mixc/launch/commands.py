"""The programs that `mixc train` becomes: command lines, nothing else."""

from __future__ import annotations

import sys

from mixc.errors import MixcError
from mixc.launch.flags import Launch


def trainer(arguments: list[str]) -> list[str]:
    """One process."""
    return [sys.executable, "-m", "runtime", *arguments]


def local(launch: Launch, arguments: list[str]) -> list[str]:
    if launch.nproc == 1:
        return trainer(arguments)
    return [sys.executable, "-m", "runtime.launch", str(launch.nproc), *arguments]


def torchrun(launch: Launch, arguments: list[str]) -> list[str]:
    """Torch's launcher, for this machine: to be started on every one."""
    if launch.nodes == 1:
        place = ["--standalone"]
    elif launch.master_addr is None or launch.node_rank >= launch.nodes:
        raise MixcError(
            f"torchrun on {launch.nodes} machines needs to know where they meet and which one this is",
            where="mixc train",
            mend="--master-addr HOST, and on each machine another --node-rank, from 0 on",
        )
    else:
        place = [
            f"--nnodes={launch.nodes}",
            f"--node-rank={launch.node_rank}",
            f"--master-addr={launch.master_addr}",
            f"--master-port={launch.master_port}",
        ]
    torch = [sys.executable, "-m", "torch.distributed.run"]
    return [*torch, f"--nproc-per-node={launch.nproc}", *place, "-m", "runtime", *arguments]


def hostfile(launch: Launch, arguments: list[str]) -> list[str]:
    """Our launcher over ssh, which itself knows what a dry run is."""
    assert launch.hostfile is not None
    own = [launch.hostfile, f"--master-port={launch.master_port}"]
    own += [f"--master-addr={launch.master_addr}"] if launch.master_addr else []
    own += [f"--env={name}" for name in launch.env]
    own += ["--dry-run"] if launch.dry_run else []
    return [sys.executable, "-m", "runtime.over_ssh", *own, "--", *arguments]
