"""`mixc init`: what is in a folder is recognised, what is not is named, and the spec that comes out loads and checks."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mixc import reject_rate
from mixc.check import check_spec
from mixc.cli.init import _ignored
from mixc.errors import SourceError, SpecError
from mixc.init.guess import Guess, guess
from mixc.init.run import Init, init
from mixc.init.write import Named, can_be_said, source_names, write
from mixc.measure.family import FAMILIES
from mixc.measure.template import TEMPLATES
from mixc.sources.raw import RawRow
from mixc.spec.load import load


def picture(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (colour, 99, 9)).save(file, "PNG")
    return file.getvalue()


def rows(*values: dict[str, Any], unread: tuple[str, ...] = ()) -> list[RawRow]:
    return [RawRow(row=number, values=each, unread=unread) for number, each in enumerate(values)]


def found(made: Init) -> dict[str, tuple[str, str | list[str], dict[str, str]]]:
    return {source.name: (source.kind, source.path, source.keys) for source in made.sources}


@pytest.mark.parametrize(
    ("values", "kind", "keys"),
    [
        ({"text": "a long text"}, "text", {}),
        ({"content": "one two three", "title": "one two three four five"}, "text", {"text": "content"}),
        ({"story": "it was a dark night", "id": "a1"}, "text", {"text": "story"}),
        ({"image": picture(), "caption": "a dog"}, "caption", {"text": "caption"}),
        ({"jpg": {"bytes": picture(), "path": None}, "text": "a dog"}, "caption", {"image": "jpg"}),
        ({"photo": "a/b.JPG", "text": "a dog"}, "caption", {"image": "photo"}),
        ({"images": ["a.png", "b.png"], "text": "two dogs"}, "caption", {"image": "images"}),
        ({"image": picture(), "ocr_text": "total 12.30 euro"}, "ocr", {"text": "ocr_text"}),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "chat", {}),
        ({"messages": [{"role": "user", "content": "q"}], "image": "a.png"}, "chat", {}),
        ({"turns": [{"role": "user", "content": "q"}], "pics": ["a.png"]}, "chat", {"messages": "turns", "image": "pics"}),
    ],
)  # fmt: skip
def test_what_rows_are_is_told_by_their_values(values: dict[str, Any], kind: str, keys: dict[str, str]) -> None:
    told = guess(rows(values, values), tar=False, folder=False, hint="data/x.jsonl")
    assert isinstance(told, Guess)
    assert (told.kind, told.keys) == (kind, keys)


def test_what_cannot_be_told_is_said() -> None:
    assert guess([], tar=False, folder=False, hint="") == "it holds no row that can be read"
    told = guess(rows({"question": "why?", "id": 3}), tar=False, folder=False, hint="")
    assert told == "it has neither a text nor a conversation among its columns (id, question)"
    # a column that is a conversation in some rows alone is none
    mixed = rows({"messages": [{"role": "user", "content": "q"}]}, {"messages": "q"})
    assert isinstance(guess(mixed, tar=False, folder=False, hint=""), str)


def test_a_tar_is_told_by_its_members() -> None:
    values = {"txt": "a dog", "width": 3}
    told = guess(rows(values, unread=("jpg",)), tar=True, folder=False, hint="data/pages/0.tar")
    assert told == Guess(kind="ocr", columns=("width",))
    told = guess(rows(values), tar=True, folder=False, hint="data/0.tar")
    assert told == Guess(kind="text", columns=("width",))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder as people have them: pictures with texts, chats, shards, pages, and what is no data at all."""
    data = tmp_path / "my data [v1]"
    photos = data / "photos"
    photos.mkdir(parents=True)
    for number in range(4):
        (photos / f"{number}.png").write_bytes(picture(number))
        (photos / f"{number}.txt").write_text(f"picture number {number}")
    (data / "chats.jsonl").write_text(
        "".join(
            json.dumps({"image": f"photos/{n}.png", "messages": [
                {"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": "a colour"}]}) + "\n"
            for n in range(3)
        )
    )  # fmt: skip
    (data / "config.json").write_text('{"not": "rows"}')
    (data / ".hidden").mkdir()
    (data / ".hidden/rows.jsonl").write_text('{"text": "hidden"}\n')
    shards = data / "prose"
    shards.mkdir()
    for number in range(12):
        text = json.dumps({"text": f"a text of shard {number}", "score": number / 10}) + "\n"
        (shards / f"{number:03}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    pq.write_table(
        pa.table({"pic": [picture(7), picture(8)], "caption": ["a", "b"], "quality": [0.1, 0.2]}), data / "x.parquet"
    )
    with tarfile.open(data / "pages.tar", "w") as tar:
        for number in range(2):
            for name, content in ((f"{number}.png", picture(9 + number)), (f"{number}.txt", b"words of a page")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (data / "loose").mkdir()
    (data / "readme.md").write_text("hello")
    return data


def test_a_folder_becomes_a_spec_that_checks(world: Path, tmp_path: Path) -> None:
    made = init(world, tmp_path / "spec.yaml")
    assert found(made) == {
        "photos": ("caption", "my data [v1]/photos", {}),
        "chats": ("chat", "my data [v1]/chats.jsonl", {}),
        "prose": ("text", "my data [[]v1]/prose/*.jsonl.zst", {}),
        "x": ("caption", "my data [v1]/x.parquet", {"image": "pic", "text": "caption"}),
        "pages": ("ocr", "my data [v1]/pages.tar", {}),
    }
    assert [left.path for left in made.left] == ["my data [v1]/config.json"]
    assert all(source.usable == source.rows for source in made.sources)
    checked = check_spec(tmp_path / "spec.yaml")
    assert checked.ok and not any(source.rejects for source in checked.sources)
    assert {source.name: source.files for source in checked.sources}["prose"] == 12
    assert [stage.name for stage in load(tmp_path / "spec.yaml", ()).spec.stages] == ["align", "pretrain", "sft"]


def test_rows_that_cannot_be_used_and_files_that_are_no_data_are_named(world: Path, tmp_path: Path) -> None:
    (world / "photos/1.txt").unlink()
    (world / "photos/2.png").write_bytes(b"no image")
    (world / "photos/.DS_Store").write_bytes(b"hidden")
    (world / "photos/notes.txt").write_text("beside no image")
    for number in range(5):
        (world / f"{number}.DOCX").write_bytes(b"a letter")
    made = init(world, tmp_path / "spec.yaml")
    [photos] = [source for source in made.sources if source.name == "photos"]
    assert (photos.usable, photos.rows) == (2, 4)
    assert list(map(str, photos.rejects.examples)) == [
        "my data [v1]/photos/1.png: no caption: 1.txt is missing",
        "my data [v1]/photos/2.png: not an image that can be decoded: no known image format",
    ]
    assert [(each.suffix, each.count, each.first) for each in made.ignored] == [
        (".docx", 5, [f"my data [v1]/{number}.DOCX" for number in range(3)]),
        (".md", 1, ["my data [v1]/readme.md"]),
        (".txt", 1, ["my data [v1]/photos/notes.txt"]),
    ]
    assert list(_ignored(made.ignored)) == [
        "5 .docx (my data [v1]/0.DOCX, ...)",
        "1 .md (my data [v1]/readme.md)",
        "1 .txt (my data [v1]/photos/notes.txt)",
    ]
    assert list(_ignored(made.ignored[1:])) == ["my data [v1]/readme.md", "my data [v1]/photos/notes.txt"]


def test_the_specs_folder_need_not_be_there(world: Path, tmp_path: Path) -> None:
    made = init(world, tmp_path / "new/folder/spec.yaml")
    assert {source.name for source in made.sources} == {"photos", "chats", "prose", "x", "pages"}
    assert check_spec(tmp_path / "new/folder/spec.yaml").ok


def test_the_templates_system_message_is_said_with_how_to_leave_it_out(world: Path, tmp_path: Path) -> None:
    init(world, tmp_path / "spec.yaml")
    text = (tmp_path / "spec.yaml").read_text()
    system = TEMPLATES["univl-chat"].system
    assert f"#   {system}\n" in text and "`template: chatml` in a source leaves it out" in text
    (tmp_path / "spec.yaml").write_text(text.replace("kind: chat\n", "kind: chat\n    template: chatml\n"))
    assert check_spec(tmp_path / "spec.yaml").ok
    assert load(tmp_path / "spec.yaml", ()).spec.sources["chats"].template == "chatml"
    (tmp_path / "texts").mkdir()  # which have no turns, and no such message
    (tmp_path / "texts/a.jsonl").write_text('{"text": "a text"}\n')
    init(tmp_path / "texts", tmp_path / "texts.yaml")
    assert "chatml" not in (tmp_path / "texts.yaml").read_text()


def test_the_same_folder_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    init(world, tmp_path / "a.yaml")
    init(world, tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_files_of_one_folder_that_are_not_alike_are_several_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a text"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "another"}\n')
    (tmp_path / "c.jsonl").write_text(
        '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}\n'
    )
    made = init(tmp_path, tmp_path / "spec.yaml")
    assert found(made) == {tmp_path.name.lower(): ("text", ["a.jsonl", "b.jsonl"], {}), "c": ("chat", "c.jsonl", {})}
    assert check_spec(tmp_path / "spec.yaml").ok


def test_folders_by_class_are_one_source(tmp_path: Path) -> None:
    for label in ("cats", "dogs"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "1.png").write_bytes(picture())
        (tmp_path / "pets" / label / "1.txt").write_text(f"one of the {label}")
    made = init(tmp_path, tmp_path / "spec.yaml")
    assert found(made) == {"pets": ("caption", ["pets/cats", "pets/dogs"], {})}
    assert check_spec(tmp_path / "spec.yaml").ok


def test_metadata_makes_an_image_folder(tmp_path: Path) -> None:
    (tmp_path / "set/train").mkdir(parents=True)
    (tmp_path / "set/train/1.png").write_bytes(picture())
    with (tmp_path / "set/metadata.csv").open("w") as file:
        csv.writer(file).writerows([["file_name", "caption"], ["train/1.png", "a dog"]])
    made = init(tmp_path, tmp_path / "spec.yaml")
    assert found(made) == {"set": ("caption", "set", {"text": "caption"})}
    assert check_spec(tmp_path / "spec.yaml").ok


def test_images_without_a_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/1.png").write_bytes(picture())
    with pytest.raises(SourceError, match="nothing to train on") as error:
        init(tmp_path, tmp_path / "spec.yaml")
    assert "1 image without a text" in error.value.why
    assert not (tmp_path / "spec.yaml").exists()
    (tmp_path / "notes.jsonl").write_text('{"text": "something"}\n')  # a table, which might have named them
    assert init(tmp_path, tmp_path / "spec.yaml").left == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it holds no row"),
        (b"\x00\xff\n", "it holds no row that can be read"),
        (b'{"image": "gone.png", "text": "a dog"}\n', "none of its first 1 row can be used (image_missing"),
    ],
)
def test_files_that_cannot_be_used_are_left_out_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    (tmp_path / "good.json").write_text('[{"text": "something"}]')
    made = init(tmp_path, tmp_path / "spec.yaml")
    assert [source.name for source in made.sources] == ["good"]
    [left] = made.left
    assert left.path == "bad.jsonl" and why in left.why
    if content.startswith(b"\x00"):
        assert left.why.split("\n")[1:] == ["    1 | ��", "      |  ^"]  # one for each: neither may reach a terminal
    if b"gone" in content:
        assert left.why.split("\n")[1:] == [f"    1 | {content.decode().strip()}", "      |           ^^^^^^^^^^"]


def test_a_name_that_no_spec_can_hold_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m.jsonl").write_text('{"text": "a text"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "another"}\n')
    made = init(tmp_path, tmp_path / "spec.yaml")
    assert [(source.name, source.path) for source in made.sources] == [("b", "b.jsonl")]
    assert "no spec can" in made.left[0].why


def test_rows_that_cannot_be_used_are_let_pass_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a text"}\n' * 2 + "{broken\n" * 3)
    (tmp_path / "pics").mkdir()
    for number in range(10):  # one in ten is within the rate
        (tmp_path / f"pics/{number}.png").write_bytes(picture(number) if number else b"no picture")
        (tmp_path / f"pics/{number}.txt").write_text("a dog")
    made = init(tmp_path, tmp_path / "spec.yaml")
    assert {source.name: (source.usable, source.rows) for source in made.sources} == {"a": (2, 5), "pics": (9, 10)}
    assert made.max_reject_rate == 0.6
    assert made.warnings[0].startswith("3 of the first 5 rows of a cannot be used")
    assert "max_reject_rate: 0.6" in made.warnings[1] and len(made.warnings) == 2
    assert load(tmp_path / "spec.yaml", ()).spec.max_reject_rate == 0.6
    assert check_spec(tmp_path / "spec.yaml").ok

    with (tmp_path / "a.jsonl").open("a") as file:  # more than are looked at: room for those
        file.write('{"text": "a text"}\n' * 200)
    made = init(tmp_path, tmp_path / "spec.yaml", force=True)
    assert made.max_reject_rate is None and "max_reject_rate" not in (tmp_path / "spec.yaml").read_text()


@given(rows=st.integers(1, 3000), part=st.floats(0, 1))
def test_a_rate_that_is_suggested_lets_the_rows_pass(rows: int, part: float) -> None:
    bad = int(part * rows)
    assert not bad > reject_rate.rate_for(bad, rows) * rows  # as a compile compares
    assert 0.1 <= reject_rate.rate_for(bad, rows) <= 1 or bad == rows
    assert bad <= reject_rate.likely_rate(bad, rows) * rows <= rows
    assert f"{reject_rate.rate_for(bad, rows):g}" in reject_rate.mend(bad, rows) or bad == rows


def test_what_stands_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a text"}\n')
    spec = tmp_path / "spec.yaml"
    spec.write_text("mine")
    with pytest.raises(SpecError, match="there already"):
        init(tmp_path, spec)
    assert spec.read_text() == "mine"
    init(tmp_path, spec, force=True)
    assert check_spec(spec).ok


def test_a_wrong_model_or_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="sail-vl2-2c"):
        init(tmp_path, tmp_path / "spec.yaml", model="sail-vl2-2c")
    (tmp_path / "nine").mkdir()
    with pytest.raises(SourceError, match="not there") as caught:
        init(tmp_path / "none", tmp_path / "spec.yaml")
    assert f"in {tmp_path} there is nine" in caught.value.why
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="this is no folder"):
        init(tmp_path / "file", tmp_path / "spec.yaml")


texts = st.text(min_size=1, max_size=20).filter(can_be_said)


@given(st.lists(texts, min_size=1, max_size=8))
def test_names_are_unique_and_allowed(hints: list[str]) -> None:
    names = source_names(hints)
    assert len(set(names)) == len(hints)
    guessed = Guess(kind="text")
    sources = [Named(name=name, path="x.jsonl", format=None, guess=guessed, about="") for name in names]
    assert list(loaded(write("m", "sail-vl-tiny", 1, sources, bytes=1, system="be good: # {")).sources) == names


@given(
    path=st.one_of(texts, st.lists(texts, min_size=1, max_size=3)),
    keys=st.dictionaries(st.sampled_from(["text", "image"]), texts),
    columns=st.lists(st.text(max_size=10)),
    kind=st.sampled_from(["caption", "ocr", "chat", "text"]),
    model=st.sampled_from(sorted(FAMILIES)),
)
@example(path=".NAN", keys={"text": ".inf"}, columns=[], kind="text", model="sail-vl-tiny")
def test_whatever_a_path_is_called_the_spec_says_it(path, keys, columns, kind, model) -> None:
    guessed = Guess(kind=kind, keys=keys, columns=tuple(columns))
    source = Named(name="one", path=path, format=None, guess=guessed, about="2 files")
    spec = loaded(write("m", model, 7, [source], bytes=1 << 40))
    [(name, read)] = spec.sources.items()
    assert (name, read.path, read.kind, spec.model, spec.seed) == ("one", path, kind, model, 7)
    assert {key: getattr(read, key) for key in keys} == keys


def loaded(text: str):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return load(path, ()).spec
