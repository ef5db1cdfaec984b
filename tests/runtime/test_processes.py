"""Runs in several processes, and runs that are killed. Each costs about 15 s, most of it imports."""

from __future__ import annotations

import random
import shutil
import signal
import time

import pytest

from shards.layout import token_shard_name
from tests.runtime.launching import kill, lines, start, train, wait_for_steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def alone(build, tmp_path_factory):
    """One process, ZeRO 0."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(build, "--out", run, "--zero", 0, "--workers", 1)
    return run


@pytest.fixture(scope="module")
def together(build, tmp_path_factory):
    """Two processes, by ZeRO stage, made when first asked for. In even steps one of them has an image where
    the other has text alone. ZeRO 1 runs under torchrun, the others under our own launcher."""
    made = {}

    def run(zero: int):
        if zero not in made:
            made[zero] = tmp_path_factory.mktemp(f"zero{zero}") / "run"
            torchrun = ["--launcher", "torchrun", "--nproc", 2] if zero == 1 else []
            train(build, "--out", made[zero], "--zero", zero, "--workers", 0, processes=2, launcher=torchrun)
        return made[zero]

    return run


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_processes_train_the_same_packs_to_the_same_losses(alone, together, zero):
    """Also the test that a process without an image beside one with neither hangs nor crashes."""
    found = lines(together(zero))
    assert any(row["skew"]["tiles"] == 2 for row in found)
    for one, two in zip(lines(alone), found, strict=True):
        assert two["packs"] == one["packs"] and two["flops"] == one["flops"]
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert two["loss_by_source"] == pytest.approx(one["loss_by_source"], abs=1e-5)


@pytest.mark.parametrize(("zero", "processes"), [(0, 1), (2, 2)])
def test_killed_and_resumed_is_never_killed(build, alone, together, tmp_path, zero, processes):
    """kill -9 at random moments, while checkpoints are written after every step: same packs, bit-equal
    weights."""
    expected = alone if zero == 0 else together(zero)
    arguments = [build, "--out", tmp_path, "--zero", zero, "--workers", processes - 1, "--save-every", 1, "--resume"]
    moments = random.Random(zero)
    for steps in (1, 4):
        process = start(*arguments, processes=processes)
        wait_for_steps(process, tmp_path, steps)
        time.sleep(moments.uniform(0, 0.3))
        kill(process)
    train(*arguments, processes=processes)
    assert weights(tmp_path) == weights(expected)
    rows = lines(tmp_path)
    assert [row["packs"] for row in rows] == [row["packs"] for row in lines(expected)]
    assert [row["loss"] for row in rows] == [row["loss"] for row in lines(expected)]
    assert not list(tmp_path.rglob("*.partial"))


def test_asked_to_stop_it_saves_and_goes_on_in_another_number_of_processes(build, alone, tmp_path):
    process = start(build, "--out", tmp_path, "--zero", 0, "--workers", 1, processes=2)
    wait_for_steps(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "which is saved" in printed and "--resume" in printed and "Traceback" not in printed
    train(build, "--out", tmp_path, "--resume", "--workers", 0)
    for one, two in zip(lines(alone), lines(tmp_path), strict=True):
        assert two["packs"] == one["packs"] and two["flops"] == one["flops"]
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_a_process_that_fails_ends_the_others(build, tmp_path):
    """And a launcher that is killed leaves none behind."""
    damaged = shutil.copytree(build, tmp_path / "build")
    shard = damaged / token_shard_name("tune", 0)
    data = bytearray(shard.read_bytes())
    data[-200] ^= 1
    shard.write_bytes(data)
    printed = train(damaged, "--out", tmp_path / "run", "--workers", 0, processes=2, status=2)
    assert str(shard) in printed and "Traceback" not in printed
    assert (tmp_path / "run" / "align" / "model.safetensors").exists()

    process = start(build, "--out", tmp_path / "other", "--workers", 0, "--stages", "align", processes=2)
    wait_for_steps(process, tmp_path / "other", 1)
    process.kill()  # the launcher alone
    process.communicate(timeout=10)  # ends when the last that holds its output has ended
    train(build, "--out", tmp_path / "other", "--resume", "--workers", 0, processes=2)
