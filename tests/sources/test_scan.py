"""Fragments: a digest of content and nothing else; and a cache that is used, but not when it must not be."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from mixc.errors import SourceError
from mixc.sources import files, scan_cache
from mixc.sources.fragment import Fragment
from mixc.sources.read import read
from mixc.sources.sample import Sample
from mixc.sources.scan import scan, unchanged
from mixc.spec.schema import Source

CHAT = [
    {
        "image": f"images/{index % 3}.png",
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    }
    for index in range(6)
]
OLD = time.time() - 3600


def write(path: Path, content: bytes, mtime: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened, in order."""
    names: list[str] = []
    open_regular = files.open_regular

    def counted(path: str) -> Any:
        names.append(Path(path).name)
        return open_regular(path)

    monkeypatch.setattr(files, "open_regular", counted)
    return names


@pytest.fixture
def chat(tmp_path: Path) -> Callable[[], list[Fragment]]:
    write(tmp_path / "rows.json", json.dumps(CHAT).encode())
    for index in range(3):
        write(tmp_path / "images" / f"{index}.png", b"image %d" % index)
    return lambda: scan("s", Source(path="rows.json", kind="chat"), tmp_path, tmp_path / ".cache")


def test_without_images_the_digest_is_that_of_the_bytes(tmp_path: Path, fragments) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "a"}\n')
    [fragment] = fragments("a.jsonl")
    assert fragment == Fragment(
        source="s",
        path=str(tmp_path / "a.jsonl"),
        format="jsonl",
        digest=blake3(b'{"text": "a"}\n').hexdigest(),
        bytes=14,
        image_root=str(tmp_path),
    )


def test_the_digest_with_images_is_the_documented_one(tmp_path: Path, chat) -> None:
    """docs/sources.md, "Digests"."""
    expected = blake3(b"mixc fragment 1\0" + blake3((tmp_path / "rows.json").read_bytes()).digest())
    for index in range(3):
        for part in (b"images/%d.png" % index, blake3(b"image %d" % index).hexdigest().encode()):
            expected.update(len(part).to_bytes(4, "little") + part)
    [fragment] = chat()
    assert fragment.digest == expected.hexdigest()
    assert fragment.bytes == (tmp_path / "rows.json").stat().st_size + 3 * len(b"image 0")


def test_names_and_folders_do_not_matter(tmp_path: Path) -> None:
    contents = [b'{"text": "%d"}\n' % index for index in range(5)]
    sources = []
    for folder, names in (("one", "abcde"), ("two", "edcba"), ("three/deep", ["z", "\n", "é", "0", "-"])):
        for name, content in zip(names, contents, strict=True):
            write(tmp_path / folder / f"{name}.jsonl", content)
        sources.append(scan("s", Source(path=f"{folder}/*.jsonl", kind="text"), tmp_path, tmp_path / "cache"))
    digests = [[fragment.digest for fragment in fragments] for fragments in sources]
    assert digests[0] == digests[1] == digests[2] == sorted(blake3(content).hexdigest() for content in contents)


def test_equal_files_are_two_fragments_in_order_of_their_paths(tmp_path: Path, fragments) -> None:
    for name in "cab":
        write(tmp_path / f"{name}.jsonl", b'{"text": "same"}\n')
    assert [Path(fragment.path).name for fragment in fragments("*.jsonl")] == [
        "a.jsonl",
        "b.jsonl",
        "c.jsonl",
    ]


def test_the_same_rows_and_images_elsewhere_have_the_same_digest(tmp_path: Path, chat) -> None:
    [before] = chat()
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere" / "images")
    shutil.copy(tmp_path / "rows.json", tmp_path / "elsewhere" / "other name.json")
    [moved] = scan("s", Source(path="elsewhere/*.json", kind="chat"), tmp_path, tmp_path / ".cache")
    shutil.move(tmp_path / "images", tmp_path / "root" / "images")
    rooted = Source(path="rows.json", kind="chat", image_root="root")
    [apart] = scan("s", rooted, tmp_path, tmp_path / ".cache")
    assert before.digest == moved.digest == apart.digest
    assert all(isinstance(row, Sample) and row.images for row in read(apart, rooted))


@pytest.mark.parametrize("format", ["json", "jsonl", "parquet path", "parquet struct", "parquet list"])
def test_a_changed_image_changes_the_digest(tmp_path: Path, format: str) -> None:
    kind, _, shape = format.partition(" ")
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        value: Any = {"path": "i.png", "struct": {"bytes": None, "path": "i.png"}, "list": ["i.png"]}[shape]
        pq.write_table(pa.table({"text": ["t"], "image": [value]}), path)
    else:
        rows = [{"text": "t", "image": "i.png"}]
        path.write_text(json.dumps(rows if kind == "json" else rows[0]))
    source = Source(path=path.name, kind="caption")
    digests = []
    for content in (b"first", b"of another size", None, b"first"):
        (tmp_path / "i.png").unlink(missing_ok=True)
        if content is not None:
            write(tmp_path / "i.png", content)
        digests.append(scan("s", source, tmp_path, tmp_path / "cache")[0].digest)
    assert digests[0] == digests[3] and len(set(digests)) == 3


def test_an_image_inside_parquet_is_not_looked_up(tmp_path: Path, opened: list[str]) -> None:
    write(tmp_path / "i.png", b"on disk")
    pq.write_table(pa.table({"text": ["t"], "image": [{"bytes": b"inside", "path": "i.png"}]}), tmp_path / "a.parquet")
    [fragment] = scan("s", Source(path="a.parquet", kind="caption"), tmp_path, tmp_path / "cache")
    assert fragment.digest == blake3((tmp_path / "a.parquet").read_bytes()).hexdigest()
    assert "i.png" not in opened


def test_what_a_text_source_does_not_read_is_not_in_its_digest(tmp_path: Path, fragments) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "a", "image": "i.png"}')
    [before] = fragments("a.jsonl")
    write(tmp_path / "i.png", b"image")
    assert fragments("a.jsonl") == [before]


def test_a_path_that_escapes_is_recorded_but_never_opened(tmp_path: Path, opened: list[str]) -> None:
    write(tmp_path / "secret.png", b"secret")
    os.mkfifo(tmp_path / "pipe.png")
    base = tmp_path / "base"
    write(base / "in.png", b"in")
    (base / "link.png").symlink_to("../secret.png")
    os.mkfifo(base / "pipe.png")
    paths = [
        "../secret.png",
        "/etc/passwd",
        "link.png",
        "../pipe.png",
        "pipe.png",
        "gone.png",
        "in.png",
        "https://x/y.png",
        "\ud800",
        "n\0",
    ]
    write(base / "a.jsonl", "".join(json.dumps({"text": "t", "image": path}) + "\n" for path in paths).encode())
    source = Source(path="a.jsonl", kind="caption")
    [fragment] = scan("s", source, base, tmp_path / "cache")
    assert set(opened) == {"a.jsonl", "in.png"}
    reasons = [getattr(row, "reason", "ok") for row in read(fragment, source)]
    assert reasons == ["path_escape"] * 4 + ["image_missing"] * 2 + [
        "ok",
        "path_escape",
        "not_utf8",
        "image_missing",
    ]
    write(tmp_path / "secret.png", b"another secret")
    assert scan("s", source, base, tmp_path / "cache") == [fragment]


# the cache


def test_an_unchanged_source_is_not_read_again(tmp_path: Path, chat, opened: list[str]) -> None:
    first = chat()
    assert sorted(set(opened)) == ["0.png", "1.png", "2.png", "rows.json"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / ".cache").rglob("*")}
    opened.clear()
    assert chat() == first
    assert opened == []
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / ".cache").rglob("*")}


def test_only_the_image_that_changed_is_read_again(tmp_path: Path, chat, opened: list[str]) -> None:
    [first] = chat()
    write(tmp_path / "images" / "1.png", b"image x", OLD + 1)
    opened.clear()
    [second] = chat()
    assert opened == ["1.png"] and second.digest != first.digest
    opened.clear()
    assert chat() == [second] and opened == []


def test_changed_rows_do_not_make_their_images_be_read_again(tmp_path: Path, chat, opened: list[str]) -> None:
    [first] = chat()
    write(tmp_path / "rows.json", json.dumps(CHAT[:2]).encode(), OLD + 1)
    opened.clear()
    [second] = chat()
    assert set(opened) == {"rows.json"} and second.digest != first.digest


def test_an_old_mtime_put_back_is_seen_through(tmp_path: Path, fragments) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}')
    [first] = fragments("a.jsonl")
    time.sleep(0.02)  # a tick of the file system's clock, which ctime is in
    write(path, b'{"text": "b"}')  # same size, same mtime, same inode
    [second] = fragments("a.jsonl")
    assert second.digest == blake3(b'{"text": "b"}').hexdigest() != first.digest


def test_a_replaced_file_is_another(tmp_path: Path, fragments) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "a"}')
    fragments("a.jsonl")
    write(tmp_path / "new", b'{"text": "b"}').replace(tmp_path / "a.jsonl")
    [fragment] = fragments("a.jsonl")
    assert fragment.digest == blake3(b'{"text": "b"}').hexdigest()


@pytest.mark.parametrize("age", [-3600.0, 0.0, 1.5])
def test_a_file_that_was_young_when_recorded_is_read_again(
    tmp_path: Path, fragments, opened: list[str], monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """Racy git: the same stamp, and yet another content, when a file is written twice within a tick."""
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}', time.time() - age)
    fragments("a.jsonl")
    real = files.stamp(str(path))
    path.write_bytes(b'{"text": "b"}')
    monkeypatch.setattr(files, "stamp", lambda _: real)
    opened.clear()
    [fragment] = fragments("a.jsonl")
    assert fragment.digest == blake3(b'{"text": "b"}').hexdigest()
    assert "a.jsonl" in opened


def test_a_young_file_is_trusted_once_it_was_recorded_old(tmp_path: Path, fragments, opened, monkeypatch) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "a"}', time.time())
    fragments("a.jsonl")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3_000_000_000)
    fragments("a.jsonl")
    opened.clear()
    fragments("a.jsonl")
    assert opened == []


def test_what_the_source_asks_is_part_of_the_key(tmp_path: Path, jsonl) -> None:
    path = jsonl([{"text": "t", "image": "a.png", "picture": "b.png"}])
    os.utime(path, (OLD, OLD))
    write(tmp_path / "a.png", b"a")
    write(tmp_path / "b.png", b"b")
    sources = [
        Source(path="rows.jsonl", kind="text"),
        Source(path="rows.jsonl", kind="caption"),
        Source(path="rows.jsonl", kind="caption", image="picture"),
    ]
    digests = [scan("s", source, tmp_path, tmp_path / "cache")[0].digest for source in sources * 2]
    assert digests[:3] == digests[3:] and len(set(digests)) == 3


@pytest.mark.parametrize("damage", [b"", b"rubbish", None, "flip", "cut", "folder"])
def test_damaged_entries_are_ignored(tmp_path: Path, chat, opened: list[str], damage: Any) -> None:
    first = chat()
    [entry] = [path for path in (tmp_path / ".cache").rglob("*") if path.is_file()]
    data = entry.read_bytes()
    entry.unlink()
    if isinstance(damage, bytes):
        entry.write_bytes(damage)
    elif damage == "flip":
        entry.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    elif damage == "cut":
        entry.write_bytes(data[:-5])
    elif damage == "folder":
        entry.mkdir()
    opened.clear()
    assert chat() == first
    assert "rows.json" in opened


def test_an_entry_of_another_shape_is_ignored(tmp_path: Path) -> None:
    import msgspec

    place = tmp_path / "entry"
    body = msgspec.msgpack.encode(["identity", "not a number"])
    place.write_bytes(blake3(body).digest() + body)
    assert scan_cache.load(place) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "a"}')
    write(tmp_path / "cache", b"a file where the folder should be")
    assert len(scan("s", Source(path="a.jsonl", kind="text"), tmp_path, tmp_path / "cache")) == 1


def test_concurrent_scans_agree_and_leave_no_litter(tmp_path: Path, chat) -> None:
    results: list[list[Fragment]] = []
    threads = [threading.Thread(target=lambda: results.append(chat())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(result == results[0] for result in results)
    assert [path.name for path in (tmp_path / ".cache").rglob(".new-*")] == []


def test_unchanged(tmp_path: Path, chat) -> None:
    [fragment] = chat()
    source, cache = Source(path="rows.json", kind="chat"), tmp_path / ".cache"
    assert unchanged(fragment, source, cache)
    write(tmp_path / "images" / "2.png", b"another")
    assert not unchanged(fragment, source, cache)
    write(tmp_path / "images" / "2.png", b"image 2")
    assert unchanged(fragment, source, cache)
    (tmp_path / "rows.json").unlink()
    with pytest.raises(SourceError):
        unchanged(fragment, source, cache)


# what is refused


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", b"text", "does not tell its format"),
        ("a.xls", b"a,b", "does not tell its format"),
        ("a", b"{}", "does not tell its format"),
        ("a.tar.gz", b"\x1f\x8b", "does not tell its format"),
        ("a.parquet", b"", "not Parquet"),
        ("a.parquet", b"<html>404</html>", "not Parquet"),
        ("a.jsonl.gz", b'{"text": "plain"}', "not gzip"),
        ("a.jsonl.zst", b"\x1f\x8b\x08\x00", "not zstd"),
        ("a.jsonl", b"\x1f\x8b\x08\x00", "not JSON lines"),
        ("a.jsonl", "{}".encode("utf-16"), "not JSON lines"),
        ("a.json", b"", "not JSON"),
        ("a.tar", b"", "not a tar"),
        ("a.tar", b"\x1f\x8b\x08\x00", "not a tar"),
    ],
)
def test_files_that_are_not_what_their_names_say(
    tmp_path: Path, fragments, name: str, content: bytes, what: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(SourceError, match=what) as error:
        fragments(name)
    assert error.value.where == str(path) and error.value.why and error.value.mend


def test_format_overrides_the_name(tmp_path: Path, rows_of, outcome) -> None:
    import gzip

    write(tmp_path / "plain.data", b'{"text": "plain"}')
    write(tmp_path / "packed.data", gzip.compress(b'{"text": "packed"}'))
    write(tmp_path / "lines.json", b'{"text": "1"}\n{"text": "2"}')
    assert outcome(rows_of("plain.data", format="jsonl")) == ["plain"]
    assert outcome(rows_of("packed.data", format="jsonl")) == ["packed"]
    assert outcome(rows_of("lines.json", format="jsonl")) == ["1", "2"]
    with pytest.raises(SourceError, match="not Parquet"):
        rows_of("plain.data", format="parquet")
    write(tmp_path / "lie.jsonl.gz", b'{"text": "plain"}')
    with pytest.raises(SourceError, match="not gzip"):
        rows_of("lie.jsonl.gz", format="jsonl")


def test_of_several_bad_files_the_first_is_named(tmp_path: Path, fragments) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.parquet", b"x")
    for _ in range(5):
        with pytest.raises(SourceError) as error:
            fragments("*.parquet")
        assert error.value.where == str(tmp_path / "a.parquet")


def test_an_unreadable_file(tmp_path: Path, fragments, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", b"{}")

    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open_regular", refuse)
    with pytest.raises(SourceError, match="cannot be read") as error:
        fragments("a.jsonl")
    assert error.value.why == "Permission denied"


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, fragments, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}')
    open_regular = files.open_regular

    def grow(name: str) -> Any:
        with path.open("ab") as file:
            file.write(b"\n{}")
        return open_regular(name)

    monkeypatch.setattr(files, "open_regular", grow)
    with pytest.raises(SourceError, match="changed while it was read"):
        fragments("a.jsonl")


def test_a_missing_image_root_and_a_missing_image_column(tmp_path: Path, fragments, jsonl) -> None:
    jsonl(CHAT)
    with pytest.raises(SourceError) as error:
        fragments("rows.jsonl", "chat", image_root="nowhere")
    assert error.value.where == "sources.s.image_root"
    with pytest.raises(SourceError) as error:
        fragments("rows.jsonl", "chat", image="imgae")
    assert "conversations, image" in error.value.why and error.value.mend == "set `image: image`"
    # one file with images is enough: the others may be text alone
    jsonl([{"conversations": []}], "text.jsonl")
    assert len(fragments("*.jsonl", "chat", image="image")) == 2


def test_urls(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    caption = {"text": "t", "image": "images/a.png"}
    memory.pipe(
        {
            "/mixc/a.jsonl": json.dumps(caption).encode(),
            "/mixc/images/a.png": b"image",
            "/mixc/b.jsonl": b'{"text": "t", "image": "../secret.png"}',
            "/secret.png": b"secret",
        }
    )
    try:
        source = Source(path="memory://mixc/*.jsonl", kind="caption")
        got = scan("s", source, tmp_path, tmp_path / "cache")
        rows = {Path(fragment.path).name: list(read(fragment, source)) for fragment in got}
        assert rows["a.jsonl"][0].images == (b"image",)  # type: ignore[union-attr]
        assert rows["b.jsonl"][0].reason == "path_escape"  # type: ignore[union-attr]
        # the same content has the same digest on disk
        write(tmp_path / "a.jsonl", json.dumps(caption).encode())
        write(tmp_path / "images" / "a.png", b"image")
        [here] = scan("s", Source(path="a.jsonl", kind="caption"), tmp_path, tmp_path / "cache")
        assert here.digest in {fragment.digest for fragment in got}
        pq.write_table(pa.table({"text": ["remote"]}), tmp_path / "p.parquet")
        memory.pipe("/mixc/p.parquet", (tmp_path / "p.parquet").read_bytes())
        remote = Source(path="memory://mixc/p.parquet", kind="text")
        [fragment] = scan("s", remote, tmp_path, tmp_path / "cache")
        assert [row.text for row in read(fragment, remote) if isinstance(row, Sample)] == ["remote"]
    finally:
        memory.rm("/mixc", recursive=True)
        memory.rm("/secret.png")
