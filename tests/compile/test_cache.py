"""Several commands on one cache at once, as processes of their own: each ends right, and nothing is torn."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mixc.cache.inventory import inventory
from mixc.measure.object import read_info
from tests.compile.conftest import litter, root, trained_files

pytestmark = [pytest.mark.slow, pytest.mark.dist]

SPEC = """\
mixture: small
seed: 1
model: sail-vl-tiny
signals: [repetition]
sources:
  prose: {path: "prose/*.jsonl", kind: text}
stages:
  - name: only
    budget: 1 epoch
    mix: [prose]
    sequence_length: 1024
    train: {lr: {projector: 1e-3}, batch: 2}
"""


def small(folder: Path, word: str = "Number", files: int = 8) -> Path:
    (folder / "prose").mkdir(parents=True)
    for file in range(files):
        lines = [json.dumps({"text": f"{word} {file}, {line}. " * 30}) for line in range(50)]
        (folder / f"prose/{file}.jsonl").write_text("\n".join(lines))
    (folder / "spec.yaml").write_text(SPEC)
    return folder / "spec.yaml"


def start(mixc, *arguments: str | Path, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mixc", *map(str, arguments)],
        env=mixc.environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"


PRUNING = """
import sys, time
from pathlib import Path
from mixc.cache.prune import prune
went = 0
Path(sys.argv[2]).touch()
while Path(sys.argv[2]).exists():
    pruned = prune(Path(sys.argv[1]), everything=True)
    assert not pruned.failed and not pruned.not_ours, pruned
    went += sum(removed.things for removed in pruned.removed.values())
    time.sleep(0.001)
print(went)
"""


@contextmanager
def pruning(cache: Path, flag: Path) -> Iterator[list[int]]:
    """`prune --all`, over and over, beside the block. Gives how many things went, once it has ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRUNING, str(cache), str(flag)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not flag.exists():
        assert process.poll() is None
        time.sleep(0.01)
    went: list[int] = []
    try:
        yield went
    finally:
        flag.unlink()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    went.append(int(out))


def test_two_compiles_of_one_spec_at_once_with_an_empty_cache(make_mixc, tmp_path: Path) -> None:
    spec, mixc = small(tmp_path / "in"), make_mixc()
    shutil.rmtree(mixc.cache)
    processes = [start(mixc, "compile", spec, "-o", tmp_path / f"b{n}", "-j", n) for n in "12"]
    for process in processes:
        ended(process)
    alone = make_mixc()
    alone("compile", spec, "-o", tmp_path / "alone")
    assert root(tmp_path / "b1") == root(tmp_path / "b2") == root(tmp_path / "alone")
    assert trained_files(tmp_path / "b1") == trained_files(tmp_path / "b2") == trained_files(tmp_path / "alone")
    assert litter(mixc.cache) == [] and list((mixc.cache / "leases").iterdir()) == []
    objects = sorted((mixc.cache / "objects").glob("*/*"))
    assert [path.name for path in objects] == [path.name for path in sorted((alone.cache / "objects").glob("*/*"))]
    assert all(read_info(path) for path in objects)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_compiles_plans_and_diffs_beside_prune_all_end_right(mixc, tmp_path: Path, workers: str) -> None:
    spec = small(tmp_path / "in")
    mixc("compile", spec, "-o", tmp_path / "before")
    with pruning(mixc.cache, tmp_path / "flag") as went:
        for round in range(2):
            build = tmp_path / f"b{round}"
            mixc("compile", spec, "-o", build, "-j", workers)
            assert root(build) == root(tmp_path / "before")
            assert trained_files(build) == trained_files(tmp_path / "before")
        mixc("plan", spec)
        assert mixc.json("diff", tmp_path / "before", spec)["equal"]
    assert went[0] >= 2 * 8  # it did remove what they had made, between them
    mixc("cache", "prune", "--all")
    assert list(inventory(mixc.cache)) == [] and litter(mixc.cache) == []


def test_the_limit_removes_what_another_spec_used(mixc, tmp_path: Path) -> None:
    one, two = small(tmp_path / "one", "One"), small(tmp_path / "two", "Two")
    assert mixc.json("compile", one, "-o", tmp_path / "b1")["objects"] == {"measured": 8, "reused": 0}
    limit = str(sum(thing.bytes for thing in inventory(mixc.cache)) + 20_000) + "B"  # there is no room for both
    assert mixc.json("compile", two, "-o", tmp_path / "b2", MIXC_CACHE_LIMIT=limit)["warnings"] == []
    assert sum(thing.bytes for thing in inventory(mixc.cache)) <= int(limit[:-1])
    assert mixc.json("compile", two, "-o", tmp_path / "b3")["objects"] == {"measured": 0, "reused": 8}
    assert mixc.json("compile", one, "-o", tmp_path / "b4")["objects"]["measured"] > 0
    assert root(tmp_path / "b2") == root(tmp_path / "b3") and root(tmp_path / "b1") == root(tmp_path / "b4")
    [warning] = mixc.json("compile", two, "-o", tmp_path / "b5", MIXC_CACHE_LIMIT="1kB")["warnings"]
    assert "MIXC_CACHE_LIMIT" in warning and root(tmp_path / "b5") == root(tmp_path / "b2")
    refused = mixc("compile", two, "-o", tmp_path / "b6", check=2, MIXC_CACHE_LIMIT="200")
    assert "not a size" in refused.stderr and not (tmp_path / "b6").exists()


def test_a_prune_that_is_killed_leaves_a_cache_that_works(mixc, tmp_path: Path) -> None:
    spec = small(tmp_path / "in")
    mixc("compile", spec, "-o", tmp_path / "before")
    for round in range(4):
        process = start(mixc, "cache", "prune", "--all")
        time.sleep(0.08 + 0.03 * round)  # it begins to remove after some 0.12 s
        process.send_signal(signal.SIGKILL)
        process.communicate()
        mixc("compile", spec, "-o", tmp_path / f"b{round}")
        assert root(tmp_path / f"b{round}") == root(tmp_path / "before")
    assert litter(mixc.cache) == []


def test_a_cache_that_is_deleted_under_a_compile_is_never_a_wrong_build(mixc, tmp_path: Path) -> None:
    """What no lease can hold: `rm -rf`. It goes on, or says what is gone."""
    spec = small(tmp_path / "in", files=30)
    mixc("compile", spec, "-o", tmp_path / "before")
    for round in range(5):
        shutil.rmtree(mixc.cache / "objects", ignore_errors=True)
        process = start(mixc, "compile", spec, "-o", tmp_path / f"b{round}", "-j", "1")
        while process.poll() is None and len(list((mixc.cache / "objects").glob("*/*"))) < 5 * (round + 1):
            time.sleep(0.002)
        shutil.rmtree(mixc.cache / "objects", ignore_errors=True)
        _, err = process.communicate(timeout=300)
        assert "Traceback" not in err
        if process.returncode:
            assert process.returncode == 2 and err.startswith("error: "), err
            assert not (tmp_path / f"b{round}").exists()
        else:
            assert root(tmp_path / f"b{round}") == root(tmp_path / "before")
    mixc("compile", spec, "-o", tmp_path / "after")
    assert root(tmp_path / "after") == root(tmp_path / "before")


def test_ls_says_what_is_there(mixc, tmp_path: Path) -> None:
    spec = small(tmp_path / "in")
    mixc("compile", spec, "-o", tmp_path / "b")
    told = mixc.json("cache", "ls", MIXC_CACHE_LIMIT="2 GB")
    assert told["cache"] == str(mixc.cache) and told["limit"] == 2 * 10**9 and told["processes"] == 0
    [prose], [repetition] = told["sources"], told["signals"]
    assert (prose["name"], prose["things"], prose["samples"]) == ("prose", 8, 400)
    assert (repetition["name"], repetition["things"]) == ("repetition", 8)
    assert {name: group["things"] for name, group in told["others"].items()} == {
        "tokenizer": 1,
        "scan": 8,
        "block": 0,
        "unfinished": 0,
    }
    own = ("objects", "signals", "tokenizers", "scan")
    on_disk = sum(path.stat().st_size for name in own for path in (mixc.cache / name).rglob("*") if path.is_file())
    assert told["total"]["bytes"] == on_disk
    shown = mixc("cache", "ls").stdout
    assert "objects of prose" in shown and "no limit" in shown and str(mixc.cache) in shown
    would = mixc.json("cache", "prune", "--older-than", "1h", "--dry-run")
    assert would["freed"] == 0
    assert mixc.json("cache", "prune", "--to", "0")["left"] == 0
    assert "is not a size" in mixc("cache", "prune", "--to", "ten", check=2).stderr
    assert "is not an age" in mixc("cache", "prune", "--older-than", "10", check=2).stderr
    assert mixc.json("cache", "ls")["total"]["things"] == 0
