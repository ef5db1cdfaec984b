"""A build as the runtime reads it: lazily, from any process, in bounded handles."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec.structs import replace

from shards import build as build_module
from shards.build import Build, StageReader
from shards.errors import ShardError
from shards.handles import HandleCache, PositionalFile
from shards.manifest import Manifest, read_manifest, with_root, write_manifest
from shards.pack import Pack, encode_pack, pack_digest
from shards.steps import step_record


def open_files() -> int:
    gc.collect()  # what earlier tests left to be closed would be closed in between
    return len(list(Path("/dev/fd").iterdir()))


def test_reads_everything(tiny_build: Path, tiny_packs: dict[str, list[Pack]], tiny_images: list[bytes]) -> None:
    build = Build.open(str(tiny_build))
    assert build.manifest == read_manifest(tiny_build)
    for name, packs in tiny_packs.items():
        stage = build.stage(name)
        assert stage is build.stage(name)
        assert len(stage) == len(packs) == stage.entry.packs
        for i in (*range(len(packs)), *reversed(range(len(packs)))):
            assert stage.pack_bytes(i) == encode_pack(stage.pack(i)) == encode_pack(packs[i])
        batch = stage.entry.batch
        for s, record in enumerate(stage.steps):
            assert record.tobytes() == step_record(packs[s * batch : (s + 1) * batch]).tobytes()
        assert len(stage.steps) == stage.entry.steps
        for i in (-1, len(packs)):
            with pytest.raises(IndexError):
                stage.pack(i)
    for data in tiny_images:
        assert build.image(blake3(data).digest()) == data


def test_unknown_names(tiny_build: Path) -> None:
    build = Build.open(tiny_build)
    with pytest.raises(ShardError, match="no stage 'pretrain'; it has align, sft"):
        build.stage("pretrain")
    with pytest.raises(ShardError, match=f"index: image {'00' * 32}: not in the index"):
        build.image(bytes(32))


def test_opening_touches_only_the_manifest(build_copy: Path) -> None:
    """O(1) in packs and images: with every shard gone, the build still opens, and says what is missing when
    asked.
    """
    shutil.rmtree(build_copy / "tokens")
    shutil.rmtree(build_copy / "media")
    before = open_files()
    build = Build.open(build_copy)
    stage = build.stage("align")
    assert len(stage) == 4 and open_files() == before
    for read in (lambda: stage.pack(0), lambda: stage.steps, lambda: build.image(bytes(32))):
        with pytest.raises(ShardError, match=": missing"):
            read()


def test_few_shards_stay_open(tiny_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "OPEN_SHARDS", 1)
    stage = Build.open(tiny_build).stage("align")
    before = open_files()
    for i in (0, 2, 1, 3) * 3:
        stage.pack(i)
        assert open_files() <= before + 1


def digests(stage: StageReader) -> list[bytes]:
    """In another process: every pack's digest, and every image read."""
    for i in range(len(stage)):
        for image in stage.pack(i).images:
            stage.build.image(image["digest"].tobytes())
    assert len(stage.steps) == stage.entry.steps
    return [pack_digest(stage.pack_bytes(i)) for i in range(len(stage))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(tiny_build: Path, method: str) -> None:
    stage = Build.open(tiny_build).stage("align")
    expected = digests(stage)  # so that a forked child inherits open handles
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        for found in pool.map(digests, [stage] * 4):
            assert found == expected


def test_forked_while_another_thread_reads(tiny_build: Path) -> None:
    """A child must not inherit a lock that a thread of its parent held."""
    stage = Build.open(tiny_build).stage("align")
    expected = digests(stage)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            stage._shards.get(0)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # so that a child that waits for ever fails the test
                os._exit(0 if digests(stage) == expected else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_threads(tiny_build: Path) -> None:
    stage = Build.open(tiny_build).stage("align")
    expected = digests(stage)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(digests, [stage] * 16))


def test_a_build_that_became_another_is_refused(build_copy: Path) -> None:
    build = Build.open(build_copy)
    pickled = pickle.dumps(build)
    assert pickle.loads(pickled).manifest == build.manifest
    write_manifest(build_copy, with_root(replace(build.manifest, seed=1)))
    with pytest.raises(ShardError, match="has become another build"):
        pickle.loads(pickled)


def test_two_writes_give_equal_bytes(tiny_build: Path, tmp_path: Path, tiny_writer: Callable[[Path], Manifest]) -> None:
    tiny_writer(tmp_path / "deep" / "other")
    files = {path.relative_to(tiny_build): path.read_bytes() for path in tiny_build.rglob("*") if path.is_file()}
    again = tmp_path / "deep" / "other"
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}


def test_cache_keeps_the_most_recently_used() -> None:
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return str(key)

    cache = HandleCache(make, 2)
    assert [cache.get(key) for key in (1, 2, 1, 3, 1, 2)] == ["1", "2", "1", "3", "1", "2"]
    assert made == [1, 2, 3, 2] and len(cache) == 2


def test_a_file_is_closed_with_its_last_reference(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    before = open_files()
    file = PositionalFile(tmp_path / "file")
    assert (file.read_at(2, 3, "part"), file.read_at(0, 0, "part"), file.size) == (b"234", b"", 10)
    with pytest.raises(ShardError, match="file: part: truncated: 10 bytes, 11 needed"):
        file.read_at(5, 6, "part")
    assert open_files() == before + 1
    del file
    assert open_files() == before
