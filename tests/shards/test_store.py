"""Builds in a store: the same bytes as here, each block fetched once, whatever dies, fills up or goes away."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import blocks, store
from shards.blocks import StoredFile
from shards.build import Build
from shards.errors import ShardError
from shards.manifest import MediaEntry
from shards.media import MEDIA_DTYPE, MediaReader, write_media_index
from shards.store import StoreUrl, place

DATA = random.Random(7).randbytes(10_500)


@pytest.fixture(autouse=True)
def small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 1,000 bytes, and a cache of the test's own."""
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    monkeypatch.setattr(store, "WAITS", (0.01, 0.01))
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "cache"))
    yield
    settled()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line for every range that any process fetches."""
    path = tmp_path / "fetched"
    path.touch()

    def fetch(at: StoreUrl, start: int, end: int, what: str) -> bytes:
        with path.open("a") as file:
            file.write(f"{at.name} {start}\n")
        return store.fetch(at, start, end, what)

    monkeypatch.setattr(blocks, "fetch", fetch)
    return path


def stored(tmp_path: Path, data: bytes = DATA, name: str = "file") -> StoreUrl:
    path = tmp_path / "bucket" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return StoreUrl(path.as_uri())


def settled() -> None:
    """Wait for what is done in the background."""
    if blocks._own is not None and blocks._own[0] == os.getpid():
        pool = ThreadPoolExecutor(1)
        before, blocks._own = blocks._own, (os.getpid(), pool)
        before[1].shutdown(wait=True)


@given(reads=st.lists(st.tuples(st.integers(0, 10_500), st.integers(0, 4000)), max_size=12))
def test_any_reads_give_the_files_bytes(tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int]]) -> None:
    file = StoredFile(stored(tmp_path_factory.mktemp("store")))
    for start, size in reads:
        if start + size > len(DATA):
            with pytest.raises(ShardError, match="it: truncated: 10500 bytes"):
                file.read_at(start, size, "it")
        else:
            assert file.read_at(start, size, "it") == DATA[start : start + size]


def test_who_reads_on_finds_the_next_blocks_there(tmp_path: Path, log: Path) -> None:
    file = StoredFile(stored(tmp_path))
    file.read_at(3000, 10, "")
    assert log.read_text().split("\n")[:-1] == ["file 3000"]  # at random, so far
    file.read_at(4000, 10, "")
    settled()
    assert sorted(log.read_text().split("\n")[1:-1]) == [f"file {n}000" for n in (4, 5, 6, 7, 8)]
    for at in range(4010, 9000, 10):
        assert file.read_at(at, 10, "") == DATA[at : at + 10]
    file.read_at(9990, 500, "")
    settled()
    fetched = log.read_text().split("\n")[:-1]
    assert sorted(fetched) == sorted(f"file {n}000" for n in range(3, 11))


@given(size=st.integers(50, 900), offset=st.integers(0, 999))
def test_reads_that_cross_from_block_to_block_are_read_on_too(
    tmp_path_factory: pytest.TempPathFactory, size: int, offset: int
) -> None:
    file = StoredFile(stored(tmp_path_factory.mktemp("store")))
    for at in range(offset, 8000, size):
        file.read_at(at, size, "")
        reached = (at + size - 1) // 1000
        if reached > offset // 1000 + 1:
            assert file._asked >= min(reached + 1 + blocks.AHEAD, 11)


def _read_all(url: StoreUrl) -> None:
    file = StoredFile(url)
    order = list(range(0, len(DATA), 100))
    random.shuffle(order)
    for at in order:
        assert file.read_at(at, 100, "") == DATA[at : at + 100]


def test_processes_and_threads_fetch_a_block_once(tmp_path: Path, log: Path) -> None:
    url = stored(tmp_path)
    _read_all(stored(tmp_path, name="other"))  # this process has used the store, and has threads, when it forks
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(url,)) for _ in range(4)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_read_all, [url] * 4))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    settled()
    fetched = [line for line in log.read_text().splitlines() if line.startswith("file ")]
    assert sorted(fetched) == sorted(f"file {at}" for at in range(0, len(DATA), 1000))
    assert [path for path in (tmp_path / "cache").rglob("*") if ".new-" in path.name] == []


def test_a_second_run_fetches_nothing_and_another_version_everything(tmp_path: Path, log: Path) -> None:
    url = stored(tmp_path)
    assert StoredFile(url).read_at(0, 10_500, "") == DATA
    settled()
    log.write_text("")
    assert StoredFile(url).read_at(0, 10_500, "") == DATA
    assert log.read_text() == ""
    other = bytes(10_500)
    time.sleep(0.01)
    stored(tmp_path, other)
    assert StoredFile(url).read_at(0, 10_500, "") == other


def _hold(url: StoreUrl, fetching: object) -> None:
    def fetch(*_: object) -> bytes:
        fetching.set()  # type: ignore[attr-defined]
        time.sleep(60)
        raise AssertionError

    blocks.fetch = fetch  # type: ignore[assignment]
    StoredFile(url).read_at(0, 1, "")


def test_a_killed_fetch_leaves_its_turn_to_the_next(tmp_path: Path) -> None:
    url = stored(tmp_path)
    context = multiprocessing.get_context("fork")
    fetching = context.Event()
    process = context.Process(target=_hold, args=(url, fetching))
    process.start()
    assert fetching.wait(30)
    [partial] = (tmp_path / "cache").rglob(".new-*")
    partial.write_bytes(b"half")
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(StoredFile(url).read_at(0, 10, "")))
    waiting.start()
    time.sleep(0.2)
    assert got == []  # it is the other's turn
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    waiting.join(30)
    assert got == [DATA[:10]]
    assert not partial.exists()
    process.join()


@pytest.mark.parametrize("damage", [b"", b"short", bytes(2000)])
def test_a_block_of_the_wrong_size_is_fetched_again(tmp_path: Path, damage: bytes) -> None:
    url = stored(tmp_path)
    StoredFile(url).read_at(0, 10, "")
    [block] = (tmp_path / "cache").rglob("*.0")
    block.write_bytes(damage)
    assert StoredFile(url).read_at(0, 10, "") == DATA[:10]
    assert block.read_bytes() == DATA[:1000]


def _full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_a_block_is_held_in_memory(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StoredFile(stored(tmp_path))
    monkeypatch.setattr(os, "pwrite", _full)
    for at in range(0, 10_500, 50):
        assert file.read_at(at, 50, "") == DATA[at : at + 50]
    settled()
    assert sorted(log.read_text().splitlines()) == sorted(f"file {at}" for at in range(0, 10_500, 1000))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_without_a_cache_too(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file-in-the-way").touch()
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "file-in-the-way"))
    file = StoredFile(stored(tmp_path))
    for at in range(0, 10_500, 50):
        assert file.read_at(at, 50, "") == DATA[at : at + 50]
    settled()
    assert len(log.read_text().splitlines()) == 11


def test_a_block_that_is_there_and_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = stored(tmp_path)
    StoredFile(url).read_at(0, 10, "")

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    assert StoredFile(url).read_at(0, 10, "") == DATA[:10]


def test_what_was_used_least_recently_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = stored(tmp_path)
    monkeypatch.setattr(blocks, "_LOOK_EVERY", 1)
    file = StoredFile(url)
    for block in range(5):
        file.read_at(block * 1000, 10, "")
        settled()
    kept = {int(path.name.split(".")[1]): path for path in (tmp_path / "cache").rglob("*.?")}
    for age, block in ((500, 2), (400, 0), (300, 4), (200, 1)):
        then = time.time() - age
        os.utime(kept[block], (then, then))
    file.read_at(2000, 10, "")  # used again
    room = 1500
    monkeypatch.setattr(blocks, "_missing", lambda _: room)
    file.read_at(9000, 10, "")
    settled()
    left = {block for block, path in kept.items() if path.exists()}
    assert {0, 4} & left == set() and {1, 2, 3} <= left
    assert file.read_at(0, 10_500, "") == DATA


def test_an_outage_is_waited_for_and_a_long_one_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = stored(tmp_path)
    system, _ = store._system(url)
    real, failures = system.cat_file, 2

    def cat_file(*arguments: object, **options: object) -> bytes:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionResetError("the store went away")
        return real(*arguments, **options)

    monkeypatch.setattr(system, "cat_file", cat_file)
    assert StoredFile(url).read_at(0, 10, "pack 3") == DATA[:10]
    failures = 100
    with pytest.raises(ShardError, match=r"file: pack 4: cannot be read: the store went away"):
        StoredFile(url).read_at(5000, 10, "pack 4")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"none: missing"):
        StoredFile(StoreUrl((tmp_path / "none").as_uri()))
    with pytest.raises(ShardError, match="not a file"):
        StoredFile(StoreUrl(tmp_path.as_uri()))
    with pytest.raises(ShardError, match=r"cannot be opened: .*teapot"):
        StoredFile(StoreUrl("teapot://a/b"))
    with pytest.raises(ShardError, match=r"manifest\.json: missing"):
        Build.open(tmp_path.as_uri())


def test_a_url_is_told_from_a_path() -> None:
    assert place("s3://bucket/a build") == StoreUrl("s3://bucket/a build")
    assert place("a/b") == Path("a/b")
    assert str(StoreUrl("s3://b/x/") / "y/z") == "s3://b/x/y/z"
    assert StoreUrl("s3://b/x").name == "x"


def same(here: Build, there: Build, images: list[bytes]) -> None:
    assert there.manifest == here.manifest
    for entry in here.manifest.stages:
        one, other = here.stage(entry.name), there.stage(entry.name)
        assert [one.pack_bytes(i) for i in range(len(one))] == [other.pack_bytes(i) for i in range(len(other))]
        assert one.steps.tobytes() == other.steps.tobytes()
    for digest in here.media.records["digest"]:
        assert there.image(digest.tobytes()) == here.image(digest.tobytes())
    assert there.media.records.tobytes() == here.media.records.tobytes()
    assert {here.image(d.tobytes()) for d in here.media.records["digest"]} <= set(images)


def test_a_build_in_s3_is_the_build(
    tiny_build: Path, tiny_images: list[bytes], s3_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.s3 import point_to, s3fs

    point_to(s3_server, monkeypatch)
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.mkdir("builds")
    system.put(str(tiny_build), "builds/one", recursive=True)
    same(Build.open(tiny_build), Build.open("s3://builds/one"), tiny_images)
    with pytest.raises(ShardError, match=r"s3://builds/two/manifest\.json: missing"):
        Build.open("s3://builds/two")


def test_damage_in_a_store_is_told(build_copy: Path, tiny_packs: dict[str, list[object]]) -> None:
    there = Build.open(build_copy.as_uri())
    entry = there.manifest.stages[0]
    shard = build_copy / entry.shards[0].name
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=entry.shards[0].name):
        for number in range(entry.packs):
            there.stage(entry.name).pack(number)


digests = st.binary(min_size=32, max_size=32)


@given(
    made=st.sets(digests | st.integers(0, 300).map(lambda n: n.to_bytes(32, "big")), max_size=60),
    asked=st.lists(digests | st.integers(0, 300).map(lambda n: n.to_bytes(32, "big")), max_size=20),
)
def test_an_index_is_searched_as_if_bisected(
    tmp_path_factory: pytest.TempPathFactory, made: set[bytes], asked: list[bytes]
) -> None:
    build = tmp_path_factory.mktemp("index")
    records = np.zeros(len(made), MEDIA_DTYPE)
    for record, digest in zip(records, made, strict=True):
        record["digest"] = digest
    entry = MediaEntry(
        images=len(made),
        bytes=0,
        index="index",
        index_file=write_media_index(build / "index", records),
        shards=[],
    )
    reader = MediaReader(build, entry)
    inside = sorted(made)
    for digest in [*asked, *inside]:
        at = bisect_left(inside, digest)
        assert reader.position(digest) == (at if digest in made else None)


def test_an_image_is_found_by_a_read_or_two_of_a_large_index(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    records = np.zeros(20_000, MEDIA_DTYPE)
    records["digest"] = np.frombuffer(rng.bytes(32 * len(records)), "V32")
    bucket = tmp_path / "bucket"
    digest = write_media_index(bucket / "index", records)
    monkeypatch.setattr(blocks, "BLOCK", 64 * 1000)
    reader = MediaReader(
        StoreUrl(bucket.as_uri()), MediaEntry(images=len(records), bytes=0, index="index", index_file=digest, shards=[])
    )
    for record in records[:3]:
        assert reader.position(record["digest"].tobytes()) is not None
    settled()
    assert len(log.read_text().splitlines()) <= 6  # of 20 blocks
