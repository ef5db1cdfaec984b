"""`mixc export` and `mixc soup` that end badly: nothing half-written is where weights are looked for, and what is said is enough."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runtime import export, safetensor, soup, weights
from tests.runtime.launching import ROOT
from tests.runtime.test_soup import saved


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weights")
    return [saved(folder / f"run{seed}", seed, root=str(seed) * 64) for seed in (1, 2)]


@pytest.fixture(params=["export", "soup"])
def program(request, two) -> tuple[str, list[str]]:
    """Its module, and what it is given but for --out."""
    return request.param, [str(folder) for folder in (two[:1] if request.param == "export" else two)]


@pytest.fixture
def expected(program, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "out"
    assert call(program, out) == 0
    return files(out)


def call(program: tuple[str, list[str]], out: Path) -> int:
    return {"export": export, "soup": soup}[program[0]].main([*program[1], "--out", str(out)])


def run(
    program: tuple[str, list[str]], out: Path, *, first: str = "", shell: str = ""
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, after the Python code `first` and under the shell's `shell`."""
    code = (
        f"import sys, os, signal; from runtime import {program[0]}, safetensor\n{first}\nsys.exit({program[0]}.main())"
    )
    command = ["bash", "-c", f'{shell} exec "$@"', "bash", sys.executable, "-c", code, *program[1], "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert all(each in done.stderr for each in says), done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, less than a model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "mixc-test", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be made by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_small_a_disk_is_said_at_once(program, small_disk) -> None:
    done = run(program, small_disk / "out", first="safetensor.Writer.write = None")
    refused(done, f"{small_disk / 'out'}: No space left on device: it takes ", " are free")
    assert names(small_disk) == []


def test_a_disk_that_fills_up_under_way(program, small_disk) -> None:
    """As when another program fills it: the room was there."""
    done = run(
        program, small_disk / "out", first="from runtime import new_folder; new_folder._has_room = lambda *_: None"
    )
    refused(done, "/.out.partial/model.safetensors: No space left on device")
    assert names(small_disk) == []


def test_a_limit_of_files(program, tmp_path) -> None:
    """The smallest disk of all, for whoever may make no file system."""
    done = run(program, tmp_path / "out", shell='ulimit -f 2000; trap "" XFSZ;')
    refused(done, "model.safetensors: File too large")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_killed_in_the_middle_and_done_again(program, tmp_path, expected, number, status) -> None:
    out = tmp_path / "out"
    kill = (
        "write, seen = safetensor.Writer.write, []\n"
        "def some(self, *piece):\n"
        f"    seen.append(piece) if len(seen) < 5 else os.kill(os.getpid(), {int(number)})\n"
        "    write(self, *piece)\n"
        "safetensor.Writer.write = some"
    )
    done = run(program, out, first=kill)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert names(tmp_path) == ([] if number == signal.SIGINT else [".out.partial"])
    assert call(program, out) == 0
    assert names(tmp_path) == ["out"] and files(out) == expected


def test_weights_that_are_not_whole(program, two, tmp_path, capsys) -> None:
    broken = shutil.copytree(two[0], tmp_path / "broken")
    file = broken / weights.FILE
    os.truncate(file, file.stat().st_size - 4096)
    module, given = program
    assert call((module, [str(broken), *given[1:]]), tmp_path / "out") == 2
    assert f"{file}: its bytes are not those that config.json was written for" in capsys.readouterr().err
    assert names(tmp_path) == ["broken"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: os.truncate(file, file.stat().st_size // 2), "the file ends before it does"),
        (lambda file: os.utime(file, ns=(0, 0)), "it was changed while it was read"),
    ],
    ids=["cut short", "written to"],
)
def test_weights_that_change_under_way(program, two, tmp_path, capsys, monkeypatch, change, says) -> None:
    moving = shutil.copytree(two[0], tmp_path / "moving")
    module, given = program
    write, seen = safetensor.Writer.write, []

    def some(self, name, piece) -> None:
        if not seen:
            change(moving / weights.FILE)
        seen.append(name)
        write(self, name, piece)

    monkeypatch.setattr(safetensor.Writer, "write", some)
    assert call((module, [str(moving), *given[1:]]), tmp_path / "out") == 2
    assert str(moving / weights.FILE) in (said := capsys.readouterr().err) and says in said
    assert names(tmp_path) == ["moving"] and seen


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda out: (out.mkdir(), (out / "x").touch()), "something is in this folder already"),
        (lambda out: out.touch(), "Not a directory"),
        (lambda out: out.symlink_to("nowhere"), ""),
    ],
    ids=["a folder", "a file", "a link to nothing"],
)
def test_something_stands_there(program, tmp_path, capsys, make, says) -> None:
    out = tmp_path / "out"
    make(out)
    status = call(program, out)
    assert says in capsys.readouterr().err
    assert status == (2 if says else 0) and names(tmp_path) == (["out"] if says else ["nowhere", "out"])


def test_the_target_appears_while_it_is_written(program, tmp_path, capsys, monkeypatch) -> None:
    out, write = tmp_path / "out", safetensor.Writer.write

    def some(self, name, piece) -> None:
        out.mkdir(exist_ok=True)
        (out / "theirs").touch()
        write(self, name, piece)

    monkeypatch.setattr(safetensor.Writer, "write", some)
    assert call(program, out) == 2
    assert "Directory not empty" in capsys.readouterr().err
    assert names(tmp_path) == ["out"] and names(out) == ["theirs"]


def test_config_json_of_another_model(two, tmp_path, capsys) -> None:
    """Names that the weights lack are said, and not looked up."""
    odd = saved(
        tmp_path / "odd", 3, model="sail-vl-tiny-v1.5", geometry={**_geometry(two[0]), "name": "sail-vl-tiny-v1.5"}
    )
    assert call(("export", [str(odd)]), tmp_path / "out") == 2
    assert "not the weights of this model" in (said := capsys.readouterr().err) and "k_proj.bias" in said
    assert names(tmp_path) == ["odd"]


def _geometry(folder: Path) -> dict[str, object]:
    config = weights.read_config(folder)
    assert config is not None
    return config.geometry


def test_what_was_read_is_let_go_before_more_is_read(program, tmp_path, monkeypatch) -> None:
    """Of an export one tensor, and what it is made into, is in memory; of an average a piece of each model, and one of the sum."""
    part, alive, most = safetensor.Reader.part, weakref.WeakSet[torch.Tensor](), []

    def watched(self, *asked):
        found = part(self, *asked)
        alive.add(found)
        most.append(sum(each.nbytes for each in alive))
        return found

    monkeypatch.setattr(safetensor.Reader, "part", watched)
    monkeypatch.setattr(soup, "_BLOCK", 1000)
    assert call(program, tmp_path / "out") == 0
    table = 151936 * 32 * 4
    assert max(most) == (table if program[0] == "export" else 4000)
