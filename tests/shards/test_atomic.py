from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shards.atomic import atomic_write
from shards.digest import digest


def test_writes_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        assert file.write(b"one ") == 4
        assert file.bytes == 4
        file.write(memoryview(b"two"))
        assert not path.exists()
    assert path.read_bytes() == b"one two"
    assert (file.bytes, file.digest) == (7, digest(b"one two"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"as it was"])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException], before: bytes | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("file", before)] if before else [])


def test_replaces_at_once_and_keeps_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    mask = os.umask(0o027)
    try:
        with atomic_write(path) as file:
            file.write(b"new")
            assert path.read_bytes() == b"old"
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as one, atomic_write(path) as two:
        one.write(b"one")
        two.write(b"two")
    assert path.read_bytes() == b"one"  # the last to end
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "nowhere" / "file"):
        pass
