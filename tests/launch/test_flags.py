"""Whose flag is whose."""

from __future__ import annotations

import shlex

import pytest

from mixc.errors import MixcError
from mixc.launch import commands
from mixc.launch.flags import take


@pytest.mark.parametrize(
    ("arguments", "processes", "left"),
    [
        (["B", "--nproc", "4", "--out", "R"], 4, ["B", "--out", "R"]),
        (["B", "--nproc=2"], 2, ["B"]),
        (["B"], 1, ["B"]),
        (
            ["--zero", "2", "B", "--resume", "--nproc", "3", "--out=a b"],
            3,
            ["--zero", "2", "B", "--resume", "--out=a b"],
        ),
    ],
)
def test_the_launcher_takes_only_its_own_flags(arguments: list[str], processes: int, left: list[str]) -> None:
    launch, rest = take(arguments)
    assert (launch.nproc, launch.launcher, rest) == (processes, "local", left)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--nproc"], "--nproc"),
        (["--nproc", "0"], "from 1 on, got '0'"),
        (["--nproc", "two"], "got 'two'"),
        (["--nproc="], "--nproc"),
        (["--launcher", "mpi"], "invalid choice: 'mpi'"),
        (["--launcher", "hostfile"], "needs a hostfile"),
        (["--launcher", "hostfile", "--hostfile", "h", "--nproc", "2"], "--nproc is not for the launcher hostfile"),
        (["--hostfile", "h"], "--hostfile is not for the launcher local"),
        (["--launcher", "torchrun", "--qos", "q"], "--qos is not for the launcher torchrun"),
        (["--eval-max-tokens", "8"], "--eval-max-tokens is the length of answers, and there are no questions"),
        (["--eval-questions", "q", "--eval-max-tokens", "0"], "from 1 on, got '0'"),
        (["--launcher", "slurm", "--time", "1\n#SBATCH --uid=0"], "one line of text"),
    ],
)
def test_a_mistake_is_said(wrong: list[str], said: str) -> None:
    with pytest.raises(MixcError) as caught:
        take(["B", *wrong])
    assert said in str(caught.value)


def test_torchrun_on_one_machine_and_on_two() -> None:
    launch, left = take(["B", "--out", "R", "--launcher", "torchrun", "--nproc", "2"])
    assert shlex.join(commands.torchrun(launch, left)).endswith(
        "-m torch.distributed.run --nproc-per-node=2 --standalone -m runtime B --out R"
    )
    two = ["B", "--launcher", "torchrun", "--nproc", "8", "--nodes", "2", "--node-rank", "1"]
    launch, left = take([*two, "--master-addr", "a"])
    assert commands.torchrun(launch, left)[3:] == [
        *("--nproc-per-node=8", "--nnodes=2", "--node-rank=1", "--master-addr=a", "--master-port=29500"),
        *("-m", "runtime", "B"),
    ]
    for missing in (two, [*two, "--master-addr", "a", "--node-rank", "2"]):
        with pytest.raises(MixcError, match="needs to know where they meet"):
            commands.torchrun(*take(missing))
