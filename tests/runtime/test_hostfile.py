"""Reading hostfiles, what a machine is told, and which process of a run this one is."""

from __future__ import annotations

import pytest

from runtime import over_ssh, processes
from runtime.errors import ArgumentError
from runtime.hostfile import Host, meeting_address, read_hostfile
from runtime.processes import Place


def read(tmp_path, text):
    path = tmp_path / "hosts"
    path.write_text(text)
    return read_hostfile(path)


def test_machines_in_order(tmp_path):
    text = "# all\n\nworker-2 slots=8   # the first\n  train@10.0.0.1\tslots=4\r\nworker-1 slots=16"
    assert read(tmp_path, text) == [Host("worker-2", 8), Host("train@10.0.0.1", 4), Host("worker-1", 16)]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("a slots=8\nb\n", ":2", "not a line of a hostfile: 'b'"),
        ("a slots = 8\n", ":1", "slots=8"),
        ("a slots=0\n", ":1", "not a line"),
        ("a slots=-1\n", ":1", "not a line"),
        ("a slots=8 max_slots=9\n", ":1", "not a line"),
        ("\na slots=8\n\na slots=8\n", ":4", "named twice"),
        ("-oProxyCommand=id slots=1\n", ":1", "not the name of a machine"),
        ("# nothing\n", "", "names no machine"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, text, place, said):
    with pytest.raises(ArgumentError) as caught:
        read(tmp_path, text)
    assert caught.value.where == f"{tmp_path / 'hosts'}{place}" and said in str(caught.value)


def test_a_hostfile_that_is_not_there(tmp_path):
    with pytest.raises(ArgumentError, match="cannot be read"):
        read_hostfile(tmp_path / "none")


def test_where_processes_meet(tmp_path):
    assert meeting_address([Host("me@a", 1), Host("localhost", 1)], tmp_path) == "a"
    assert meeting_address([Host("localhost", 1), Host("127.0.0.1", 1)], tmp_path) == "localhost"
    with pytest.raises(ArgumentError, match="b would look for it at home"):
        meeting_address([Host("localhost", 1), Host("b", 1)], tmp_path)


def test_ranks_go_on_from_machine_to_machine():
    plan = over_ssh.orders([Host("a", 2), Host("b", 3)], {}, ["B"])
    assert [(order.first_rank, order.processes, order.world) for order in plan] == [(0, 2, 5), (2, 3, 5)]


def test_a_dry_run_shows_no_value_of_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("TOKEN", "hushhush")
    monkeypatch.setenv("UNRELATED", "x")
    monkeypatch.setenv("MIXC_SSH", "ssh -p 2222")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "hosts").write_text("a slots=2\nb slots=1\n")
    assert over_ssh.main([str(tmp_path / "hosts"), "--env=TOKEN", "--dry-run", "--", "B", "--out", "a run"]) == 0
    said = capsys.readouterr().out
    assert "ssh -p 2222 a " in said and "processes 2 to 2 of 3" in said and "--out 'a run'" in said
    assert "AWS_SECRET_ACCESS_KEY" in said and "TOKEN" in said and "hush" not in said and "UNRELATED" not in said
    assert "MASTER_ADDR=a MASTER_PORT=29500" in said
    monkeypatch.delenv("TOKEN")
    assert over_ssh.main([str(tmp_path / "hosts"), "--env=TOKEN", "--dry-run", "--", "B"]) == 2
    assert "TOKEN is not set here" in capsys.readouterr().err


@pytest.fixture
def bare(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MIXC_PLACE"):
        monkeypatch.setenv(name, "")  # so that it is put back to what it was, whoever sets it
        monkeypatch.delenv(name)


SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "4"}


def test_slurms_variables_count_only_where_the_script_says_so(bare, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    processes.ask_scheduler()
    assert processes.place() == Place(rank=0, world=1, local_rank=0, local_world=1)
    monkeypatch.setenv("MIXC_PLACE", "slurm")
    processes.ask_scheduler()
    assert processes.place() == Place(rank=5, world=8, local_rank=1, local_world=4)


def test_a_place_that_cannot_be(bare, monkeypatch):
    monkeypatch.setenv("MIXC_PLACE", "slurm")
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ArgumentError, match="SLURM_PROCID and SLURM_NTASKS"):
        processes.ask_scheduler()
    monkeypatch.setenv("MIXC_PLACE", "pbs")
    with pytest.raises(ArgumentError, match="'pbs'"):
        processes.ask_scheduler()
    for values in (("2", "2", "0", "2"), ("0", "2", "2", "2"), ("0", "2", "0", "4"), ("x", "2", "0", "2")):
        for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), values, strict=True):
            monkeypatch.setenv(name, value)
        with pytest.raises(ArgumentError, match="not a place among processes"):
            processes.place()
