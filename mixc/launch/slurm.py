"""A training run as a batch job of Slurm's: the script, and its submission.

One task a process. Each learns its place from Slurm's variables (runtime/processes.py), because the script says so.
Before the time limit Slurm signals the script, which asks the trainer to stop; it saves and leaves with 143, and the
script puts the job into the queue again, where it goes on with `--resume`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from mixc.errors import MixcError
from mixc.launch.commands import trainer
from mixc.launch.flags import Launch

_SPECIAL = re.compile(r"[^A-Za-z0-9_./:=@%+,-]")

_EARLY = 60
"""Seconds by which Slurm's signal may come before its time: `man sbatch`."""


def script(launch: Launch, arguments: list[str]) -> str:
    """A bash script for sbatch. Raises MixcError when RUN cannot be named to Slurm."""
    run = out(arguments)
    limit = None if launch.time is None else seconds(launch.time)
    if limit is not None and limit <= launch.grace + _EARLY:
        raise MixcError(
            f"the run would be asked to stop as it begins: it has {limit} s, less {launch.grace} s for its end",
            where="mixc train",
            why=f"Slurm may signal {_EARLY} s before it is told to",
            mend="a longer --time, or a shorter --grace",
        )
    gpus = launch.gpus_per_node
    if gpus is None:
        gpus = 0 if os.environ.get("DS_ACCELERATOR") == "cpu" else launch.nproc
    options = [
        f"--job-name={launch.job_name or run.name or 'mixc'}",
        f"--nodes={launch.nodes}",
        f"--ntasks-per-node={launch.nproc}",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        f"--cpus-per-task={launch.cpus_per_task}",
        *(
            f"--{name}={value}"
            for name in ("time", "partition", "account", "qos")
            if (value := getattr(launch, name)) is not None
        ),
        f"--signal=B:USR1@{launch.grace}",
        "--requeue",
        "--open-mode=append",
        "--export=ALL",
        f"--output={_pattern(run)}/slurm-%j.out",
        *launch.sbatch,
    ]
    resume = "" if "--resume" in arguments else " ${SLURM_RESTART_COUNT:+--resume}"
    directives = "\n".join(f"#SBATCH {_option(option)}" for option in options)
    return f"""\
#!/bin/bash
{directives}

cd {shlex.quote(str(Path.cwd()))} || exit 2
run={shlex.quote(str(run))}
touch "$run/.slurm-started" || exit 2

unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MIXC_STORE
export MIXC_PLACE=slurm  # each process learns from Slurm which of them it is
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{launch.cpus_per_task}}}"

# USR1 comes {launch.grace} s before the time limit; TERM lets the trainer end its step, save, and leave with 143.
out_of_time=
trap 'out_of_time=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# --wait: when one has left, the others have a minute to do so
srun --ntasks-per-node={launch.nproc} --cpus-per-task={launch.cpus_per_task} --kill-on-bad-exit=0 --wait=60 \\
    {shlex.join(trainer(arguments))}{resume} &
step=$!
wait "$step"
status=$?
if [ "$status" -eq 138 ]; then  # 128 + USR1: the trap has cut the waiting short
    wait "$step"
    status=$?
fi

# Again, from what was saved; if nothing was, it would go on like this for ever.
if [ -n "$out_of_time" ] && [ "$status" -eq 143 ]; then
    saved=$(find "$run" -maxdepth 2 \\( -name latest -o -name model.safetensors \\) -newer "$run/.slurm-started")
    [ -z "$saved" ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def submit(launch: Launch, arguments: list[str]) -> str:
    """Hand the script to sbatch. Returns the job's id. Raises MixcError when sbatch does not take it."""
    text, run = script(launch, arguments), out(arguments)
    run.mkdir(parents=True, exist_ok=True)  # else Slurm cannot open the job's output, and says so to nobody
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except OSError as error:
        raise MixcError(
            "sbatch cannot be started",
            why=error.strerror or str(error),
            mend="submit where Slurm is, or print the script: --dry-run",
        ) from None
    if done.returncode:
        raise MixcError("sbatch does not take the job", why=done.stderr.strip(), mend="see the script: --dry-run")
    return done.stdout.strip().partition(";")[0]  # "id;cluster" where there are several clusters


def out(arguments: list[str]) -> Path:
    """The trainer's `--out`, absolute. Raises MixcError without one."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--out" and (equals or place + 1 < len(arguments)):
            return Path.cwd() / (value if equals else arguments[place + 1])
    raise MixcError("the run has no folder", where="mixc train", mend="--out RUN")


def seconds(text: str) -> int:
    """A time limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises MixcError for another form."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text, re.ASCII)
    if found is None:
        raise MixcError(f"not a time limit: {text!r}", where="--time", mend="write days-hours:minutes:seconds")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)  # without hours
    hours, minutes, rest = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def _pattern(run: Path) -> str:
    """A folder in a pattern for sbatch's output files."""
    text = str(run)
    if "\\" in text or not text.isprintable():  # a backslash would switch the pattern off
        raise MixcError("Slurm cannot write into a folder of that name", where=f"--out {text!r}")
    return text.replace("%", "%%")


def _option(option: str) -> str:
    """An option in a line `#SBATCH ...`. sbatch does not read it as a shell would: a backslash means the next
    character within quotes too, but does not save a space outside them, and `#` starts a comment anywhere else."""
    if not _SPECIAL.search(option):
        return option
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'
