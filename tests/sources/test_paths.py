"""From `path:` to files: globs, what is refused, and what a message says."""

from __future__ import annotations

import fnmatch
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.errors import SourceError
from mixc.sources.paths import expand
from mixc.spec.schema import Source


def found(base: Path, *patterns: str) -> list[str]:
    paths = expand("s", Source(path=list(patterns), kind="text"), base)
    assert paths == sorted(paths)
    return [str(Path(path).relative_to(base)) for path in paths]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in [
        "a.jsonl",
        "b.jsonl",
        "x/a.jsonl",
        "x/y/a.jsonl",
        "x/y/b.tar",
        ".hidden.jsonl",
        ".git/a.jsonl",
        "w[1].jsonl",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("./a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl", "w[1].jsonl"]),
        ("?.jsonl", ["a.jsonl", "b.jsonl"]),
        ("[b-z].jsonl", ["b.jsonl"]),
        ("[!a].jsonl", ["b.jsonl"]),
        ("w[1].jsonl", ["w[1].jsonl"]),
        (".h*.jsonl", [".hidden.jsonl"]),
        ("**/a.jsonl", ["a.jsonl", "x/a.jsonl", "x/y/a.jsonl"]),
        ("**/**/a.jsonl", ["a.jsonl", "x/a.jsonl", "x/y/a.jsonl"]),
        ("x/**/*.jsonl", ["x/a.jsonl", "x/y/a.jsonl"]),
        ("x/**", ["x/a.jsonl", "x/y/a.jsonl", "x/y/b.tar"]),
        ("*/y/*", ["x/y/a.jsonl", "x/y/b.tar"]),
        ("x/y/../a.jsonl", ["x/y/../a.jsonl"]),
    ],
)
def test_globs(tree: Path, pattern: str, names: list[str]) -> None:
    assert found(tree, pattern) == names


def test_absolute_paths_and_file_urls(tree: Path) -> None:
    assert found(tree, str(tree / "*.jsonl")) == found(tree, f"file://{tree}/*.jsonl") == found(tree, "*.jsonl")


def test_one_file_counts_once(tree: Path) -> None:
    (tree / "soft.jsonl").symlink_to("a.jsonl")
    (tree / "hard.jsonl").hardlink_to(tree / "a.jsonl")
    assert found(tree, "*.jsonl", "a.jsonl", "[ab].jsonl") == ["a.jsonl", "b.jsonl", "w[1].jsonl"]
    (tree / "copy.jsonl").write_text("a.jsonl")
    assert "copy.jsonl" in found(tree, "*.jsonl")


def test_loops_of_links_end(tree: Path) -> None:
    (tree / "x" / "loop").symlink_to("..")
    (tree / "x" / "y" / "loop").symlink_to(tree)
    assert found(tree, "**/a.jsonl") == ["a.jsonl", "x/a.jsonl", "x/y/a.jsonl"]
    assert found(tree, "x/loop/a.jsonl") == ["x/loop/a.jsonl"]
    (tree / "self.jsonl").symlink_to("self.jsonl")
    with pytest.raises(SourceError, match="cannot be read"):
        found(tree, "self.jsonl")
    (tree / "gone.jsonl").symlink_to("nowhere")
    with pytest.raises(SourceError, match="a symbolic link to nothing"):
        found(tree, "g*.jsonl")


def test_what_is_no_file_is_refused_and_never_opened(tree: Path) -> None:
    os.mkfifo(tree / "pipe.jsonl")
    for pattern in ("pipe.jsonl", "p*.jsonl"):
        with pytest.raises(SourceError, match="a named pipe"):
            found(tree, pattern)
    (tree / "pipe.jsonl").unlink()
    (tree / "device.jsonl").symlink_to("/dev/zero")
    with pytest.raises(SourceError, match="a character device"):
        found(tree, "d*.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tree)  # a socket's path may have 107 bytes at most
        try:
            server.bind("s.jsonl")
        finally:
            os.chdir(here)
        with pytest.raises(SourceError, match="a socket"):
            found(tree, "s.jsonl")


def test_folders(tree: Path) -> None:
    with pytest.raises(SourceError) as error:
        found(tree, "x/y")
    assert "is a folder" in error.value.what and "x/y/*" in error.value.mend
    (tree / "named.jsonl").mkdir()
    assert "named.jsonl" not in found(tree, "*.jsonl")
    with pytest.raises(SourceError, match="no file matches"):
        found(tree, "n*.jsonl")


@pytest.mark.parametrize(
    ("pattern", "why", "mend"),
    [
        ("c.jsonl", "b.jsonl, a.jsonl, w[1].jsonl, and 1 more", "relative to the spec"),
        ("x/*.jsnl", "a.jsonl", ""),
        ("z/a.jsonl", "there is", ""),
        ("x/yy/*.tar", "there is y", ""),
        ("a.jsonl/b", "a.jsonl", ""),
        ("{a,b}.jsonl", "a.jsonl", "a list of paths"),
        ("", "", ""),
    ],
)
def test_no_match_says_what_is_there(tree: Path, pattern: str, why: str, mend: str) -> None:
    with pytest.raises(SourceError) as error:
        found(tree, pattern)
    assert error.value.where == "sources.s.path"
    assert why in error.value.why and mend in error.value.mend


def test_hostile_names(tmp_path: Path) -> None:
    names = ["a\nb.jsonl", "ünï 名.jsonl", "-rf.jsonl", "x" * 249 + ".jsonl", "a'b\".jsonl", "$(id).jsonl"]
    for name in names:
        (tmp_path / name).write_text("")
    assert sorted(found(tmp_path, "*.jsonl")) == sorted(names)
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text("")
    with pytest.raises(SourceError, match="not UTF-8") as error:
        found(tmp_path, "*.jsonl")
    str(error.value).encode()
    with pytest.raises(SourceError, match="NUL"):
        found(tmp_path, "a\0.jsonl")
    with pytest.raises(SourceError):
        found(tmp_path, "x" * 5000)
    with pytest.raises(SourceError, match="no path"):
        found(tmp_path)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/y"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="x/y cannot be read"):
        found(tree, "**/*.jsonl")


def test_urls(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/x/a.jsonl": b"1", "/bucket/b.jsonl": b"2", "/bucket/c.txt": b"3"})
    try:
        everything = Source(path="memory://bucket/**/*.jsonl", kind="text")
        assert expand("s", everything, tmp_path) == ["memory:///bucket/b.jsonl", "memory:///bucket/x/a.jsonl"]
        for path in ("memory://bucket/*.tar", "memory://bucket/gone.jsonl"):
            with pytest.raises(SourceError, match="no file matches"):
                expand("s", Source(path=path, kind="text"), tmp_path)
        with pytest.raises(SourceError, match="folder"):
            expand("s", Source(path="memory://bucket/x", kind="text"), tmp_path)
        with pytest.raises(SourceError, match="cannot be opened") as error:
            expand("s", Source(path="nosuch://bucket/*", kind="text"), tmp_path)
        assert "fsspec" in error.value.mend
    finally:
        memory.rm("/bucket", recursive=True)


@given(
    names=st.sets(
        st.text("ab.*[]!-", min_size=1, max_size=4).filter(lambda name: name not in (".", "..")),
        min_size=1,
        max_size=8,
    ),
    pattern=st.text("ab.*?[]!-", min_size=1, max_size=4),
)
def test_a_star_is_fnmatch(tmp_path_factory: pytest.TempPathFactory, names: set[str], pattern: str) -> None:
    if pattern in ("**", ".", ".."):
        return
    base = tmp_path_factory.mktemp("glob")
    for name in names:
        (base / name).write_text("")
    expected = {name for name in names if fnmatch.fnmatchcase(name, pattern) and (pattern[0] == "." or name[0] != ".")}
    if pattern in names:
        expected = {pattern}
    try:
        assert set(found(base, pattern)) == expected
    except SourceError:
        assert not expected
