"""A folder is there whole or not at all, however its writer ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ArgumentError
from runtime.new_folder import appearing
from tests.runtime.launching import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_at_the_end(folder: Path) -> None:
    with appearing(folder, size=1) as partial:
        (partial / "file").write_text("x")
        assert not folder.exists() and names(folder.parent) == [".out.partial"]
    assert names(folder.parent) == ["out"] and names(folder) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_there_is_nothing(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), appearing(folder, size=1) as partial:
        (partial / "file").write_text("x")
        raise error
    assert names(folder.parent) == []


def test_an_empty_folder_is_replaced_and_another_is_not(folder: Path) -> None:
    folder.mkdir()
    with appearing(folder, size=1) as partial:
        (partial / "file").write_text("x")
    with pytest.raises(OSError, match="not empty"), appearing(folder, size=1) as partial:
        (partial / "other").write_text("y")
    assert names(folder.parent) == ["out"] and names(folder) == ["file"]
    with appearing(folder, size=1, replacing=True) as partial:
        (partial / "other").write_text("y")
    assert names(folder.parent) == ["out"] and names(folder) == ["other"]


def test_where_a_link_leads_and_where_one_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    link = folder.with_name("link")
    link.symlink_to("out")
    with appearing(link, size=1) as partial:
        (partial / "file").write_text("x")
    assert link.is_symlink() and names(folder) == ["file"]
    (folder.parent / "here").mkdir()
    monkeypatch.chdir(folder.parent / "here")
    with appearing(Path(), size=1) as partial:
        (partial / "file").write_text("x")
    assert names(folder.parent) == ["here", "link", "out"] and names(folder.parent / "here") == ["file"]


def killed(folder: Path) -> None:
    """A process writes there and is killed."""
    code = (
        "import os, sys; from pathlib import Path; from runtime.new_folder import appearing\n"
        "with appearing(Path(sys.argv[1]), size=1) as partial:\n"
        "    (partial / 'half').write_text('x'); (partial / 'deep').mkdir(); (partial / 'deep' / 'y').touch()\n"
        "    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT).returncode == -9


def test_what_a_killed_process_leaves_is_not_taken_for_it_and_goes_with_the_next(folder: Path) -> None:
    killed(folder)
    assert names(folder.parent) == [".out.partial"]
    with appearing(folder, size=1) as partial:
        (partial / "file").write_text("x")
    assert names(folder.parent) == ["out"] and names(folder) == ["file"]


def test_two_processes_do_not_mix(folder: Path) -> None:
    with appearing(folder, size=1) as partial:
        (partial / "file").write_text("x")
        with pytest.raises(ArgumentError, match="another process is writing it"), appearing(folder, size=1):
            pass
        assert "file" in names(partial)
    assert names(folder) == ["file"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "mixc-test", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be made by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_little_room_is_said_before_anything_is_written(small_disk: Path) -> None:
    with (
        pytest.raises(OSError, match="it takes 1,048,577 bytes, and 1,0"),
        appearing(small_disk / "out", size=(1 << 20) + 1),
    ):
        raise AssertionError
    assert names(small_disk) == []


def test_a_disk_that_fills_up_under_way_keeps_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), appearing(small_disk / "out", size=1) as partial:
        (partial / "file").write_bytes(bytes(2 << 20))
    assert names(small_disk) == []
