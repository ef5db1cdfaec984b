"""A folder of pictures with texts is one fragment; whoever asks for a picture names its own file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mixc.compile import compile_spec
from mixc.emit.pictures import PICTURES, PICTURES_SCHEMA, name_column
from mixc.errors import BuildError
from mixc.report.explain import Row, SampleStory, explain_file, explain_row
from mixc.report.pictures import find_picture
from mixc.report.search import find_image
from mixc.report.tell import picture_lines
from mixc.sources.rename import rename
from shards.manifest import read_manifest
from shards.verify import verify
from tests.report.conftest import picture

pytestmark = pytest.mark.slow

SPEC = """
mixture: album
seed: 3
model: sail-vl-tiny
tiles: {max: 4}
max_reject_rate: 0.9
dedup: {exact: true}
sources:
  pics: {path: [pics/2024, pics/2025], kind: caption, format: imagefolder, where: file_name != 'out.png'}
stages:
  - {name: align, budget: 1 epoch, mix: [pics], sequence_length: 4096, train: {lr: {projector: 1e-3}, batch: 1}}
"""
NAMES = {"2024": ["a.png", "both.png", "out.png", "no_text.png", "broken.jpg"], "2025": ["b.png", "both.png"]}


def write(folder: Path, rename: dict[str, str]) -> Path:
    """The album, some of its pictures under other names."""
    for year, names in NAMES.items():
        (folder / "pics" / year).mkdir(parents=True)
        for number, name in enumerate(names):
            place = folder / "pics" / year / rename.get(name, name)
            place.write_bytes(
                b"no image" if name == "broken.jpg" else picture(30 + number, 20, f"rgb({number},9,{year[-1]})")
            )
            if name != "no_text.png":
                place.with_suffix(".txt").write_text(f"{name} of {year}")
    (folder / "album.yaml").write_text(SPEC)
    return folder / "album.yaml"


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXC_CACHE", str(folder / "cache"))
        compile_spec(write(folder / "data", {}), folder / "build")
        compile_spec(write(folder / "renamed", {"a.png": "z.png", "b.png": "0.png"}), folder / "again")
    shutil.rmtree(folder / "cache/objects")  # a build tells by itself
    return folder


def test_names_are_in_the_build_and_not_in_its_root(album: Path) -> None:
    table = pq.read_table(album / "build" / PICTURES)
    assert table.schema.equals(PICTURES_SCHEMA)
    fragments = {
        row["fragment"]: row["path"] for row in pq.read_table(album / "build/plan/fragments.parquet").to_pylist()
    }
    assert sorted(f"{fragments[row['fragment']]}/{row['file']}" for row in table.to_pylist()) == sorted(
        str(album / "data/pics" / year / name) for year, names in NAMES.items() for name in names
    )
    assert list(verify(album / "build")) == []
    assert read_manifest(album / "build").root == read_manifest(album / "again").root
    assert (album / "build" / PICTURES).read_bytes() != (album / "again" / PICTURES).read_bytes()


@pytest.mark.parametrize("path", ["a.png", "2024/a.png", "../data/pics/2024/a.png", "./pics/2024/a.png", "{whole}"])
def test_a_picture_is_found_by_its_path_or_the_end_of_it(
    album: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album / "data")
    whole = str(album / "data/pics/2024/a.png")
    found = find_picture(album / "build", path.format(whole=whole))
    assert found == (whole, str(album / "data/pics/2024"), 0)
    story = explain_row(album / "build", found.folder, found.row)
    assert isinstance(story, SampleStory) and len(story.uses) == 1


def test_a_rejected_picture_is_told_with_the_reason(album: Path) -> None:
    found = find_picture(album / "build", "2024/no_text.png")
    assert found
    row = explain_row(album / "build", found.folder, found.row)
    assert isinstance(row, Row) and row.detail == "missing_value: no caption: no_text.txt is missing"
    assert next(str(line) for line in picture_lines(found.path, row)) == found.path


def test_one_of_several_must_be_told_apart(album: Path) -> None:
    with pytest.raises(BuildError, match=r"several files end with both\.png") as error:
        find_picture(album / "build", "both.png")
    assert "2024/both.png" in error.value.why and "2025/both.png" in error.value.why
    assert find_picture(album / "build", "2025/both.png")
    for unknown in ("none.png", "a.txt", "2026/both.png", "pics/2024"):
        assert find_picture(album / "build", unknown) is None


def test_an_image_that_is_no_file_of_the_build_is_to_be_looked_for_by_its_bytes(album: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"anything")
    with pytest.raises(BuildError) as error:
        explain_file(album / "build", str(tmp_path / "x.png"), limit=None)
    assert f"--image {tmp_path / 'x.png'}" in error.value.mend


def test_why_an_image_is_not_trained_on(album: Path, tmp_path: Path) -> None:
    def why(image: Path) -> BuildError:
        with pytest.raises(BuildError) as error:
            find_image(album / "build", image, limit=None, workers=1)
        return error.value

    rejected = why(album / "data/pics/2024/broken.jpg")
    assert "was rejected" in rejected.what and rejected.why == "image_undecodable: no known image format"
    (tmp_path / "copy.jpg").write_bytes((album / "data/pics/2024/broken.jpg").read_bytes())
    copy = why(tmp_path / "copy.jpg")
    assert (copy.what, copy.where) == (rejected.what, str(album / "data/pics/2024/broken.jpg"))
    dropped = why(album / "data/pics/2024/out.png")
    assert "no stage uses the sample" in dropped.what and "file_name" in dropped.why
    (tmp_path / "new.png").write_bytes(picture(5, 5, "red"))
    assert "nothing that is trained on" in why(tmp_path / "new.png").what
    assert find_image(album / "build", album / "data/pics/2025/b.png", limit=None, workers=1).places == 1


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        (None, "file_name"),
        ({"label": "text"}, "file_name"),
        ({"name": "file_name"}, "name"),
        ({"file_name": "label"}, None),
        ({"file_name": "label", "x": "file_name"}, "x"),
    ],
)
def test_the_name_is_found_under_whatever_column_it_has(columns: dict[str, str] | None, column: str | None) -> None:
    assert name_column(columns) == column
    row = rename({"image": "a.png", "file_name": "a.png", "label": "2024", "text": "t"}, columns)
    assert column is None or row[column] == "a.png"
