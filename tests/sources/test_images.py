"""Image paths: none leaves its folder, and nothing about one can stop or hang a compile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.sources import files, images
from mixc.sources.images import ImageFolder, Problem, load, references


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "a.png").write_bytes(b"A")
    (root / "in" / "b.png").write_bytes(b"B")
    (root / "empty.png").write_bytes(b"")
    (root / "Ünï 名\n.png").write_bytes(b"U")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "rootless").mkdir()
    (tmp_path / "rootless" / "c.png").write_bytes(b"secret")
    (root / "out.png").symlink_to("../secret.png")
    (root / "up").symlink_to("..")
    (root / "absolute").symlink_to(tmp_path)
    (root / "within.png").symlink_to("in/b.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "nothing.png").symlink_to("gone.png")
    os.mkfifo(root / "pipe.png")
    return ImageFolder(str(root))


@pytest.mark.parametrize(
    ("reference", "content"),
    [
        ("a.png", b"A"),
        ("./a.png", b"A"),
        ("in/../a.png", b"A"),
        ("in//b.png", b"B"),
        ("within.png", b"B"),
        ("Ünï 名\n.png", b"U"),
    ],
)
def test_paths_inside(folder: ImageFolder, reference: str, content: bytes) -> None:
    assert folder.read(reference) == content


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("../secret.png", "path_escape"),
        ("in/../../secret.png", "path_escape"),
        ("../root/a.png", "path_escape"),
        ("../rootless/c.png", "path_escape"),
        ("/etc/passwd", "path_escape"),
        ("//etc/passwd", "path_escape"),
        ("file:///etc/passwd", "path_escape"),
        ("https://example.org/a.png", "path_escape"),
        ("s3://bucket/a.png", "path_escape"),
        ("data:image/png;base64,AAAA", "path_escape"),
        ("out.png", "path_escape"),
        ("up/secret.png", "path_escape"),
        ("up/rootless/c.png", "path_escape"),
        ("absolute/secret.png", "path_escape"),
        (".", "path_escape"),
        ("in", "image_missing"),
        ("gone.png", "image_missing"),
        ("a.png/x", "image_missing"),
        ("a.png\0", "image_missing"),
        ("loop.png", "image_missing"),
        ("nothing.png", "image_missing"),
        ("pipe.png", "image_missing"),
        ("x" * 300, "image_missing"),
        ("x/" * 3000, "image_missing"),
        ("C:\\windows\\a.png", "image_missing"),
        ("\ud800.png", "not_utf8"),
        ("empty.png", "image_empty"),
    ],
)
def test_paths_that_are_refused(folder: ImageFolder, reference: str, reason: str) -> None:
    problem = folder.read(reference)
    assert isinstance(problem, Problem) and problem.reason == reason
    assert load(reference, folder) == problem


@given(
    st.lists(
        st.sampled_from(["..", ".", "in", "up", "absolute", "a.png", "secret.png", "", "/", "root"]),
        max_size=6,
    )
)
def test_no_path_reads_outside(folder_of_module: ImageFolder, parts: list[str]) -> None:
    found = folder_of_module.read("/".join(parts))
    assert isinstance(found, Problem) or found in (b"A", b"B")


@pytest.fixture(scope="module")
def folder_of_module(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return folder.__wrapped__(tmp_path_factory.mktemp("images"))  # type: ignore[attr-defined]


@pytest.mark.timeout(20)
def test_a_pipe_that_takes_a_files_place_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    regular = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda _: regular)
    with pytest.raises(files.NotRegularError, match="a named pipe"):
        files.open_regular(str(tmp_path / "pipe"))


def test_the_folder_may_itself_be_a_link(tmp_path: Path, folder: ImageFolder) -> None:
    (tmp_path / "link").symlink_to("root")
    assert ImageFolder(str(tmp_path / "link")).read("a.png") == b"A"
    assert ImageFolder(str(tmp_path / "root") + "/").read("in/b.png") == b"B"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ({"bytes": None, "path": None}, ()),
        (b"x", (b"x",)),
        ("a.png", (b"A",)),
        ({"bytes": b"x", "path": "a.png"}, (b"x",)),
        ({"bytes": None, "path": "a.png"}, (b"A",)),
        ({"path": "a.png"}, (b"A",)),
        ([b"x", "a.png", {"path": "in/b.png"}], (b"x", b"A", b"B")),
        ([b"x", None], "missing_value"),
        (["a.png", ""], "missing_value"),
        (b"", "image_empty"),
        ({"bytes": b"", "path": "a.png"}, "image_empty"),
        ({"bytes": "aGk=", "path": None}, "image_missing"),
        ({"url": "a.png"}, "wrong_type"),
        (3, "wrong_type"),
        ([["a.png"]], "wrong_type"),
        (True, "wrong_type"),
    ],
)
def test_image_values(folder: ImageFolder, value: object, expected: object) -> None:
    got = load(value, folder)
    assert (got.reason if isinstance(got, Problem) else got) == expected


def test_limits(folder: ImageFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "root" / "large.png").write_bytes(b"x" * 11)
    monkeypatch.setattr(images, "IMAGE_BYTES_LIMIT", 10)
    monkeypatch.setattr(images, "SAMPLE_BYTES_LIMIT", 25)
    monkeypatch.setattr(images, "IMAGES_LIMIT", 4)
    for value in ("large.png", b"x" * 11, [b"x" * 9] * 3, [b"x"] * 5):
        got = load(value, folder)
        assert isinstance(got, Problem) and got.reason == "image_bomb"
    assert load([b"x"] * 4, folder) == (b"x",) * 4


def test_references_are_the_paths_that_load_looks_for() -> None:
    assert list(references(["a", b"x", {"bytes": b"x", "path": "b"}, {"path": "c"}, None, 3, "", "\ud800"])) == [
        "a",
        "c",
    ]
    assert list(references("d")) == ["d"]
    assert list(references("x" * 5000)) == []
    assert list(references({"bytes": None, "path": "e"})) == ["e"]
