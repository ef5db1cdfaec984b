"""A Slurm of one machine, this one, for as long as a test needs it: munged, slurmctld and slurmd of Debian's packages."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.runtime.launching import free_port

_PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"


@contextmanager
def one_machine(folder: Path) -> Iterator[dict[str, str]]:
    """The variable that leads Slurm's programs to it. Skips the test where Slurm is not installed or does not run."""
    programs = {name: shutil.which(name, path=_PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no Slurm here: {', '.join(missing)} not found")
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser={user}\nSlurmdUser={user}\n"
        f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket\nCredType=cred/munge\n"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n"
        f"SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.pid\n"
        f"SlurmctldLogFile={folder}/slurmctld.log\nSlurmdLogFile={folder}/slurmd.log\n"
        f"SlurmctldPort={free_port()}\nSlurmdPort={free_port()}\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\n"
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nReturnToService=2\nKillWait=10\n"
        "SlurmdParameters=config_overrides\n"  # two tasks, be there two cores or not
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\nPartitionName=all Nodes={host} Default=YES State=UP\n"
    )
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        _run([programs["munged"], "--force", f"--socket={folder}/munge.socket", *munge], environment)
        _run([programs["slurmctld"]], environment)
        _run([programs["slurmd"], "-N", host], environment)
        _run(["srun", "-n2", "-t1", "true"], environment)
        yield environment
    finally:
        for pid in (folder / name for name in ("slurmd.pid", "slurmctld.pid", "munge.pid")):
            with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)


def _run(command: list[str | None], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            [part for part in command if part], env={**os.environ, **environment}, capture_output=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Slurm does not run here: {error}")
    if done.returncode:
        pytest.skip(f"Slurm does not run here: {command[0]}: {done.stderr.decode().strip()}")


def wait_for(job: str, states: set[str], environment: dict[str, str], seconds: float) -> dict[str, str]:
    """What Slurm says of the job, once it is in one of the states."""
    until = time.monotonic() + seconds
    while True:
        said = ask(["scontrol", "--oneliner", "show", "job", job], environment)
        found = dict(word.split("=", 1) for word in said.split() if "=" in word)
        if found["JobState"] in states:
            return found
        assert time.monotonic() < until, said
        time.sleep(0.2)


def ask(command: list[str], environment: dict[str, str]) -> str:
    """What one of Slurm's programs prints, which must succeed."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
