"""Runs in several processes, and runs that are killed. Each costs about 10 s, most of it imports."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from runtime.checkpoint import files
from runtime.processes import STORE, Place, variables
from shards.digest import digest_file
from shards.layout import token_shard_name
from tests.runtime.launching import kill, lines, start, train, wait_for, wait_for_steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("one")


@pytest.fixture
def by_zero(request, build, kept):
    """One process, by ZeRO stage, made when first asked for."""

    def run(zero: int):
        if not (kept / str(zero)).exists():
            request.getfixturevalue("train")(build, "--out", kept / str(zero), "--zero", zero)
        return kept / str(zero)

    return run


@pytest.fixture
def one(by_zero):
    """One process, ZeRO 0."""
    return by_zero(0)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_processes_train_the_same_packs_to_the_same_losses(one, together, zero):
    """Also the test that a process without an image beside one with neither hangs nor crashes."""
    found = lines(together(zero))
    assert any(row["skew"]["tiles"] == 2 for row in found)
    for alone, two in zip(lines(one), found, strict=True):
        assert two["packs"] == alone["packs"] and two["flops"] == alone["flops"]
        assert two["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert two["loss_by_source"] == pytest.approx(alone["loss_by_source"], abs=1e-5)


@pytest.mark.parametrize(("zero", "processes"), [(0, 1), (3, 1), (1, 2), (2, 2)])
def test_killed_and_resumed_is_never_killed(build, by_zero, together, tmp_path, zero, processes):
    """kill -9 at random moments, while checkpoints are written after every step, and once for certain while one is: same
    packs, bit-equal weights."""
    expected = by_zero(zero) if processes == 1 else together(zero)
    arguments = [build, "--out", tmp_path, "--zero", zero, "--workers", processes - 1, "--save-every", 1, "--resume"]
    moments = random.Random(f"{zero} {processes}")
    process = start(*arguments, processes=processes)
    wait_for_steps(process, tmp_path, 1)
    time.sleep(moments.uniform(0, 0.3))
    kill(process)
    under_way = tmp_path / "checkpoints" / ".tune-00000002.partial"
    for _ in range(4):
        process = start(*arguments, processes=processes)
        wait_for(process, under_way)
        time.sleep(moments.uniform(0, 0.2))
        kill(process)
        if under_way.exists():  # it was not done yet
            break
        shutil.rmtree(tmp_path / "checkpoints" / "tune-00000002")
        (tmp_path / "checkpoints" / "latest").write_text("tune-00000001")
    assert under_way.exists()
    assert files.latest(tmp_path)[1].step == 1
    train(*arguments, processes=processes)
    assert weights(tmp_path) == weights(expected)
    rows = lines(tmp_path)
    assert [row["packs"] for row in rows] == [row["packs"] for row in lines(expected)]
    assert [row["loss"] for row in rows] == [row["loss"] for row in lines(expected)]
    assert not list(tmp_path.rglob("*.partial"))


def test_where_one_process_cannot_write_all_say_so_and_none_waits_for_it(build, together, tmp_path):
    """Two that no launcher would end. The limit is on the second one's files, which soon are larger."""
    run, arguments = tmp_path / "run", [build, "--zero", 1, "--workers", 0, "--save-every", 1, "--keep", 9]
    places = [Place(rank=rank, world=2, local_rank=rank, local_world=2) for rank in (0, 1)]
    both = [
        start(*arguments, "--out", run, environment=variables(place) | {STORE: str(tmp_path / "store")})
        for place in places
    ]
    try:
        wait_for_steps(both[0], run, 2)
        resource.prlimit(both[1].pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        said = [process.communicate(timeout=60)[0] for process in both]
    finally:
        for process in both:
            kill(process)
    assert [process.returncode for process in both] == [2, 2], said
    assert all("cannot write" in each and "File too large" in each and "Traceback" not in each for each in said)
    _, state = files.latest(run)
    assert state.stage == "align"  # whose files are small
    train(*arguments, "--out", run, "--resume", processes=2)
    assert weights(run) == weights(together(1))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 MB: room for one checkpoint of the second stage, and not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "mixc-test", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be made by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_costs_nothing_that_was_saved(build, together, small_disk):
    run = small_disk / "run"
    arguments = [build, "--out", run, "--zero", 1, "--workers", 0, "--save-every", 1]
    said = train(*arguments, processes=2, status=2)
    assert "No space left on device" in said and "--resume" in said and "Traceback" not in said
    path, state = files.latest(run)
    assert (state.stage, state.step) == ("tune", 1)
    assert all(digest_file(path / name) == entry.digest for name, entry in state.files.items())
    subprocess.run(["mount", "-o", "remount,size=2g", str(small_disk)], check=True)
    train(*arguments, "--resume", processes=2)
    assert weights(run) == weights(together(1))


def test_asked_to_stop_it_saves_and_goes_on_in_another_number_of_processes(build, one, tmp_path):
    process = start(build, "--out", tmp_path, "--zero", 0, "--workers", 1, processes=2)
    wait_for_steps(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "what is done is saved" in printed and "--resume" in printed and "Traceback" not in printed
    train(build, "--out", tmp_path, "--resume", "--workers", 0)
    for alone, two in zip(lines(one), lines(tmp_path), strict=True):
        assert two["packs"] == alone["packs"] and two["flops"] == alone["flops"]
        assert two["loss"] == pytest.approx(alone["loss"], abs=1e-5)


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
