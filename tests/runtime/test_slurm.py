"""A run as a job of a real Slurm of one machine, where Slurm is installed: asked to stop as it would be before its time limit,
and put into the queue again."""

from __future__ import annotations

import time

import pytest

from tests.runtime.launching import TIMEOUT, lines, train, weights
from tests.runtime.slurm import ask, one_machine, wait_for
from tests.runtime.small import SETTINGS, steps_of, write_build

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(400)]


STEPS = 30
"""Enough that Slurm, which takes its time, stops a run before its end."""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    stages = {"tune": (SETTINGS, steps_of(STEPS, seed=2))}
    return write_build(tmp_path_factory.mktemp("builds") / "long", stages)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with one_machine(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def wait_for_lines(run, least, job, slurm):
    """Until metrics.jsonl has so many, as the job is not ours to wait for."""
    until = time.monotonic() + TIMEOUT
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < least:
        state = ask(["scontrol", "--oneliner", "show", "job", job], slurm)
        printed = "".join(path.read_text() for path in run.glob("slurm-*.out"))
        assert "JobState=RUNNING" in state or "JobState=PENDING" in state, printed
        assert time.monotonic() < until, printed
        time.sleep(0.02)


def test_a_job_is_stopped_before_its_time_limit_and_goes_on_in_the_queue(build, slurm, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / 'it\'s "a" run #1 50%'
    train(build, "--out", whole, "--zero", 1, "--workers", 0, processes=2)
    flags = ["--launcher", "slurm", "--nproc", 2, "--cpus-per-task", 1, "--time", 10, "--sbatch=--mem=0"]
    printed = train(build, "--out", run, "--zero", 1, "--workers", 0, launcher=flags, environment=slurm)
    job = printed.splitlines()[0]
    wait_for_lines(run, 1, job, slurm)
    # what Slurm does when the time is nearly over
    ask(["scancel", "--batch", "--signal=USR1", job], slurm)
    found = wait_for(job, {"PENDING"}, slurm, TIMEOUT)
    assert found["Restarts"] == "1"
    assert 1 <= len(lines(run)) < STEPS
    ask(["scontrol", "update", f"JobId={job}", "StartTime=now"], slurm)  # else in two minutes
    found = wait_for(job, {"COMPLETED", "FAILED", "CANCELLED"}, slurm, TIMEOUT)
    printed = (run / f"slurm-{job}.out").read_text()
    assert (found["JobState"], found["ExitCode"]) == ("COMPLETED", "0:0"), printed
    assert "what is done is saved" in printed and "2 on cpu" in printed and "Traceback" not in printed
    assert weights(run) == weights(whole)
    assert [row["packs"] for row in lines(run)] == [row["packs"] for row in lines(whole)]


def test_a_job_that_is_asked_to_stop_by_hand_stays_away(build, slurm, tmp_path):
    """TERM saves and ends it, and nothing puts it back; `--resume` in another job goes on."""
    run = tmp_path / "run"
    flags = ["--launcher", "slurm", "--nproc", 2, "--cpus-per-task", 1, "--sbatch=--mem=0"]
    arguments = [build, "--out", run, "--workers", 0]
    job = train(*arguments, launcher=flags, environment=slurm).splitlines()[0]
    wait_for_lines(run, 1, job, slurm)
    ask(["scancel", "--signal=TERM", job], slurm)
    found = wait_for(job, {"PENDING", "COMPLETED", "FAILED", "CANCELLED"}, slurm, TIMEOUT)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("FAILED", "143:0", "0")
    stopped = len(lines(run))
    assert 1 <= stopped < STEPS and (run / "checkpoints" / "latest").exists()
    more = ["--resume", "--max-steps", stopped + 1]
    job = train(*arguments, *more, launcher=flags, environment=slurm).splitlines()[0]
    assert wait_for(job, {"COMPLETED", "FAILED", "CANCELLED"}, slurm, TIMEOUT)["JobState"] == "COMPLETED"
    assert [row["step"] for row in lines(run)] == list(range(stopped + 1))
