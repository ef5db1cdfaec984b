"""`mixc verify --rebuild`: a build proves that its lock and its sources give it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mixc.emit.lock import Lock, encode_lock, read_lock
from shards.digest import digest_file
from shards.manifest import FileEntry, read_manifest, write_manifest
from tests.compile.conftest import copy_demo, root

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def warm(make_mixc):
    return make_mixc()


@pytest.fixture
def built(warm, tmp_path: Path) -> tuple[Path, Path]:
    """A spec with sources of its own, and its build."""
    spec = copy_demo(tmp_path / "here")
    build = tmp_path / "build"
    warm("compile", spec, "-o", build)
    return spec, build


def rewrite_lock(build: Path, change: Callable[[Lock], Lock]) -> None:
    """Another lock in a build whose manifest names it, so that every byte is as it was written."""
    path = build / "mixture.lock"
    path.write_bytes(encode_lock(change(read_lock(path))))
    manifest = read_manifest(build)
    entry = FileEntry(bytes=path.stat().st_size, file=digest_file(path))
    write_manifest(build, msgspec.structs.replace(manifest, files={**manifest.files, path.name: entry}))


def test_a_build_is_built_again_from_its_own_lock_and_leaves_nothing_behind(warm, built, tmp_path: Path) -> None:
    _, build = built
    before = sorted(path for path in tmp_path.rglob("*"))
    done = warm("verify", build, "--rebuild")
    shards = len(list(build.glob("tokens/*/*.zst"))) + len(list(build.glob("media/*.tar")))
    assert f"the same root and the same {shards} shards\nroot {root(build)}" in done.stdout
    assert "removed at the end" in done.stderr
    assert sorted(path for path in tmp_path.rglob("*")) == before
    found = warm.json("verify", build, "--rebuild", "--workers", "2")
    assert found["ok"] and found["rebuild"]["rebuilt_root"] == root(build)
    assert "rebuild" not in warm.json("verify", build)


def test_sources_that_lie_elsewhere_are_named(warm, built, tmp_path: Path) -> None:
    spec, build = built
    away = tmp_path / "away"
    shutil.move(spec.parent, away)
    told = warm("verify", build, "--rebuild", check=2).stderr
    assert str(spec.parent) in told and "--sources" in told and "Traceback" not in told
    told = warm("verify", build, "--rebuild", "--sources", tmp_path, check=2).stderr
    assert "--set sources.NAME.path" in told and "Traceback" not in told

    assert warm.json("verify", build, "--rebuild", "--sources", away)["ok"]
    assert warm.json("verify", build, "--rebuild", "--spec", away / spec.name)["ok"]
    (away / "demo/data/chat/knowledge.json").rename(away / "demo/data/chat/other.json")
    moved = ("--set", "sources.knowledge.path=demo/data/chat/other.json")
    assert warm.json("verify", build, "--rebuild", "--sources", away, *moved)["ok"]
    assert warm.json("verify", build, "--rebuild", "--spec", away / spec.name, *moved)["ok"]


def test_other_inputs_are_told_file_by_file_and_nothing_is_built(warm, built, tmp_path: Path) -> None:
    spec, build = built
    with (spec.parent / "demo/data/chat/reasoning.jsonl").open("ab") as file:
        file.write(b"\n")
    done = warm("verify", build, "--rebuild", check=1)
    assert "ok: every byte is as it was written" in done.stdout
    assert "source reasoning: changed demo/data/chat/reasoning.jsonl" in done.stdout
    assert "not those that the build was made from" in done.stdout
    found = warm.json("verify", build, "--rebuild", "--spec", spec, "--set", "seed=3", check=1)
    assert not found["ok"] and found["problems"] == [] and found["rebuild"]["rebuilt_root"] is None
    assert [each["path"] for each in found["rebuild"]["moved"]["spec"]] == ["seed"]
    assert [each["change"] for each in found["rebuild"]["moved"]["files"]] == ["changed"]
    assert {path.name for path in tmp_path.iterdir()} == {"here", "build"}


def test_another_result_from_equal_inputs_is_the_libraries_or_ours(warm, built) -> None:
    """The lock is changed so that it tells of another build than the one that it lies in."""
    _, build = built
    rewrite_lock(build, lambda lock: msgspec.structs.replace(lock, spec={**lock.spec, "seed": 3}))
    assert warm.json("verify", build)["ok"]
    done = warm("verify", build, "--rebuild", check=1).stdout
    assert f"root: {root(build)[:16]} -> " in done and "packs of align: " in done
    assert "this is a bug of mixc" in done
    rewrite_lock(build, lambda lock: msgspec.structs.replace(lock, versions={**lock.versions, "duckdb": "0.1"}))
    done = warm("verify", build, "--rebuild", check=1).stdout
    assert "equal inputs, other libraries: duckdb: 0.1 -> " in done and "bug of mixc" not in done
    rewrite_lock(build, lambda lock: msgspec.structs.replace(lock, root="0" * 64))
    assert "another build's" in warm("verify", build, "--rebuild", check=2).stderr


def test_what_is_damaged_is_not_built_again(warm, built) -> None:
    _, build = built
    shard = next(build.glob("tokens/*/*.zst"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    found = warm.json("verify", build, "--rebuild", check=1)
    assert found["problems"] and found["rebuild"] is None and not found["ok"]


def test_options_of_a_rebuild_are_for_a_rebuild(warm, demo: Path) -> None:
    assert "add --rebuild" in warm("verify", demo, "--sources", demo, check=2).stderr
    both = ("--rebuild", "--sources", demo, "--spec", "x.yaml")
    assert "--sources or --spec" in warm("verify", demo, *both, check=2).stderr
