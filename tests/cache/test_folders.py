"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mixc.cache import folders as cache


def whole(folder: Path) -> bool:
    return (folder / "f").is_file() and (folder / "f").read_text() == "whole"


def make(root: Path, text: str = "whole") -> None:
    with cache.partial(root, "thing") as folder:
        (folder / "f").write_text(text)
        cache.publish(folder, root / "things" / "x", whole)


def partials(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "partial").iterdir())


def test_published_whole(tmp_path: Path) -> None:
    make(tmp_path)
    assert whole(tmp_path / "things" / "x")
    assert partials(tmp_path) == []


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), cache.partial(tmp_path, "thing") as folder:
        (folder / "f").write_text("half")
        raise KeyError
    assert partials(tmp_path) == []


def test_the_second_of_two_writers_gives_way(tmp_path: Path) -> None:
    with cache.partial(tmp_path, "thing") as folder:
        (folder / "f").write_text("whole")
        make(tmp_path)
        inode = (tmp_path / "things" / "x").stat().st_ino
        cache.publish(folder, tmp_path / "things" / "x", whole)
    assert (tmp_path / "things" / "x").stat().st_ino == inode
    assert partials(tmp_path) == []


def test_what_is_damaged_gives_way(tmp_path: Path) -> None:
    make(tmp_path, "half")
    make(tmp_path)
    assert whole(tmp_path / "things" / "x")
    assert partials(tmp_path) == []


def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    leave = f"""
from pathlib import Path
from mixc.cache import folders as cache
import os
with cache.partial(Path({str(tmp_path)!r}), "dead") as folder:
    (folder / "f").write_text("half")
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", leave], check=True)
    others = tmp_path / "partial" / f"other.another-host.{os.getpid()}.0"
    others.mkdir()
    assert [name.split(".")[0] for name in partials(tmp_path)] == ["dead", "other"]
    with cache.partial(tmp_path, "alive") as mine:
        assert cache.sweep(tmp_path) == 1
        assert sorted(name.split(".")[0] for name in partials(tmp_path)) == ["alive", "other"]
        assert mine.is_dir()
    assert cache.sweep(tmp_path / "none") == 0


def test_a_host_name_with_dots_is_one_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a.b.example.org")
    with cache.partial(tmp_path, "x"):
        assert cache.sweep(tmp_path) == 0
        monkeypatch.setattr(cache, "alive", lambda pid: pid != os.getpid())
        assert cache.sweep(tmp_path) == 1


def test_a_dead_process_that_nobody_has_buried_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie until `wait`
    host = socket.gethostname().replace(".", "-")
    (tmp_path / "partial" / f"x.{host}.{process.pid}.0").mkdir(parents=True)
    assert cache.sweep(tmp_path) == 1
    process.wait()
