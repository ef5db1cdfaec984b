"""Runs over the machines of a hostfile: two names of this one, through a program that stands for ssh, and through a real sshd
where there is one."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import record
from runtime.errors import ArgumentError
from tests.runtime.launching import free_port, kill, lines, start, train, wait_for_steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(400)]

SECRET = "a-key-that-nobody-else-may-see"


@pytest.fixture(scope="module")
def whole(build, tmp_path_factory):
    """Two processes of the local launcher."""
    run = tmp_path_factory.mktemp("local") / "run"
    train(build, "--out", run, "--zero", 2, "--workers", 0, processes=2)
    return run


@pytest.fixture
def hosts(tmp_path):
    path = tmp_path / "host file"
    path.write_text("localhost slots=1\n127.0.0.1 slots=1  # the same, by another name\n")
    return path


def over(hosts: Path) -> list[object]:
    return ["--launcher", "hostfile", "--hostfile", hosts, "--master-port", free_port()]


@pytest.fixture
def stand_in(tmp_path):
    """Runs the command here, as sshd would: by a shell, elsewhere, and with hardly an environment."""
    program = tmp_path / "stand-in"
    program.write_text('#!/bin/sh\nshift\ncd /\nexec env -i HOME="$HOME" PATH="$PATH" sh -c "$*"\n')
    program.chmod(0o755)
    return {"MIXC_SSH": shlex.quote(str(program)), "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.fixture
def sshd(tmp_path):
    server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if server is None:
        pytest.skip("no sshd here")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True, timeout=20)
    port = free_port()
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
    )
    process = subprocess.Popen([server, "-D", "-e", "-f", config], stderr=subprocess.PIPE, text=True)
    own = f"-F none -p {port} -i {tmp_path}/user -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    ssh = f"ssh -T {own} -o StrictHostKeyChecking=no -o BatchMode=yes"
    try:
        for _ in range(50):
            asked = subprocess.run([*shlex.split(ssh), "localhost", "true"], capture_output=True, text=True, timeout=20)
            if asked.returncode == 0 or process.poll() is not None:
                break
            time.sleep(0.1)
        if asked.returncode:
            process.kill()
            pytest.skip(f"sshd does not let us in here: {asked.stderr}{process.communicate()[1]}")
        yield {"MIXC_SSH": ssh}
    finally:
        process.kill()
        process.wait()


def said_by_processes(run: Path) -> tuple[str, str]:
    """The command lines of all processes that can be seen, and the environments of the trainers of this run."""
    commands, environments = "", ""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            commands += command + "\n"
            if "-m runtime " in command and str(run) in command:
                environments += (folder / "environ").read_bytes().replace(b"\0", b"\n").decode() + "\n"
        except (FileNotFoundError, ProcessLookupError):  # it has left meanwhile
            continue
    return commands, environments


def test_stopped_and_resumed_on_two_machines_is_the_run_on_one(build, whole, hosts, stand_in, tmp_path):
    run = tmp_path / "the run"
    arguments = [build, "--out", run, "--zero", 2, "--workers", 0, "--resume"]
    process = start(*arguments, launcher=over(hosts), environment=stand_in)
    wait_for_steps(process, run, 1)
    commands, environments = said_by_processes(run)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    assert "what is done is saved" in printed and "Traceback" not in printed
    assert "-m runtime.node" in commands and SECRET not in commands
    assert environments.count(f"AWS_SECRET_ACCESS_KEY={SECRET}") == 2
    assert {"RANK=0", "RANK=1", "LOCAL_RANK=0", "WORLD_SIZE=2", "LOCAL_WORLD_SIZE=1"} <= set(environments.split("\n"))
    assert len(lines(run)) < 8
    train(*arguments, launcher=over(hosts), environment=stand_in)
    assert weights(run) == weights(whole)
    assert [row["loss"] for row in lines(run)] == [row["loss"] for row in lines(whole)]


def test_through_a_real_sshd_and_with_the_launcher_killed(build, whole, hosts, sshd, tmp_path):
    """kill -9 of the launcher takes along what it has started on the machines."""
    run = tmp_path / "run"
    arguments = [build, "--out", run, "--zero", 2, "--workers", 0, "--resume", "--save-every", 1]
    process = start(*arguments, launcher=over(hosts), environment=sshd)
    wait_for_steps(process, run, 2)
    process.kill()
    process.communicate(timeout=20)
    until = time.monotonic() + 20
    while True:
        try:
            with record.lock(run):
                break
        except ArgumentError:
            assert time.monotonic() < until, "the trainers run on"
            time.sleep(0.1)
    train(*arguments, launcher=over(hosts), environment=sshd)
    assert weights(run) == weights(whole)


def test_a_machine_that_fails_ends_the_others(build, hosts, tmp_path):
    """The second one's ssh fails; the first one's process, which waits for it, is ended, and nothing hangs."""
    program = tmp_path / "stand-in"
    pids = tmp_path / "pids"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = localhost ] || {{ sleep 2; exit 255; }}\necho $$ > {pids}\nshift\nexec sh -c "$*"\n'
    )
    program.chmod(0o755)
    printed = train(
        build, "--out", tmp_path / "run", launcher=over(hosts), environment={"MIXC_SSH": str(program)}, status=2
    )
    assert "machine 127.0.0.1" in printed and "ssh failed" in printed and "without a question" in printed
    assert "Traceback" not in printed
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_a_mistake_on_a_machine_is_the_status(hosts, stand_in, tmp_path):
    printed = train(tmp_path / "none", "--out", tmp_path / "run", launcher=over(hosts), environment=stand_in, status=2)
    assert "none" in printed and "Traceback" not in printed


def test_processes_that_do_not_meet_say_so(build, tmp_path):
    """The first one's port is another program's."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        process = start(build, "--out", tmp_path / "run", environment=meeting | place)
        try:
            printed, _ = process.communicate(timeout=60)
        finally:
            kill(process)
    assert process.returncode == 2 and "the processes do not meet" in printed and "Traceback" not in printed
    assert meeting["MASTER_PORT"] in printed and sys.executable not in printed
