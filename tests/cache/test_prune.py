"""What goes, in which order, and what never does."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.cache import prune as prune_module
from mixc.cache.folders import host, partial, sweep
from mixc.cache.inventory import inventory
from mixc.cache.leases import FOREIGN_NS
from mixc.cache.prune import prune
from mixc.cache.summary import summarise
from mixc.cache.use import using
from mixc.errors import BuildError, MixcError

from .conftest import dead_pid, digest_of, put_block, put_object, put_scan, put_signal, put_tokenizer

SIZE = 1000 + 30
"""Bytes of an object of `put_object` without its info."""


def names(cache: Path) -> set[str]:
    return {Path(thing.path).name for thing in inventory(cache)}


def objects(cache: Path, among: str = "abcdefgh") -> str:
    return "".join(sorted(name for name in among if digest_of(name) in names(cache)))


def test_the_least_recently_used_go_until_it_fits(cache: Path) -> None:
    for name, days in (("a", 3), ("b", 9), ("c", 1), ("d", 5)):
        put_object(cache, name, days=days)
    whole = summarise(cache, None).total.bytes
    one = whole // 4
    pruned = prune(cache, to=2 * one)
    assert objects(cache) == "ac"
    assert (pruned.removed["object"].things, pruned.freed, pruned.left) == (2, 2 * one, 2 * one)
    assert pruned.enough and not pruned.in_use
    assert prune(cache, to=2 * one).freed == 0
    assert prune(cache, to=2 * one - 1).freed == one and objects(cache) == "c"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000)), min_size=1, max_size=8), st.integers(0, 12_000))
def test_no_more_goes_than_must(tmp_path_factory: pytest.TempPathFactory, put: list[tuple[int, int]], to: int) -> None:
    cache = tmp_path_factory.mktemp("cache")
    for index, (days, size) in enumerate(put):
        put_object(cache, str(index), days=days, size=size)
    before = sorted(inventory(cache), key=lambda thing: (thing.used_ns, thing.name))
    pruned = prune(cache, to=to)
    left = sorted(inventory(cache), key=lambda thing: (thing.used_ns, thing.name))
    assert before[len(before) - len(left) :] == left
    total = sum(thing.bytes for thing in left)
    assert total <= to and total == pruned.left
    if len(left) < len(before):
        assert total + before[len(before) - len(left) - 1].bytes > to


def test_by_age_and_all_kinds(cache: Path) -> None:
    for days, age in ((40, "old"), (20, "new")):
        put_object(cache, age, days=days)
        put_signal(cache, "minhash", of=age, days=days)
        put_tokenizer(cache, age, days=days)
        put_scan(cache, f"scan {age}", days=days)
        put_block(cache, f"block {age}", days=days)
    pruned = prune(cache, before_ns=time.time_ns() - 30 * 86_400 * 10**9)
    assert {kind: removed.things for kind, removed in pruned.removed.items()} == dict.fromkeys(
        ("object", "signal", "tokenizer", "scan", "block"), 1
    )
    assert names(cache) == {
        digest_of("new"),
        digest_of("minhash of new"),
        digest_of("scan new"),
        digest_of("block new") + ".12",
    }
    assert prune(cache, everything=True).left == 0
    assert names(cache) == set()


def test_what_is_said_is_what_is_on_the_disk(cache: Path) -> None:
    put_object(cache, "a", source="captions")
    put_signal(cache, "minhash", of="a")
    put_tokenizer(cache, "t")
    put_scan(cache, "s")
    put_block(cache, "b")
    summary = summarise(cache, None)
    on_disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert summary.total.bytes == on_disk
    assert [(group.name, group.samples, group.tokens) for group in summary.sources] == [("captions", 5, 50)]
    assert [group.name for group in summary.signals] == ["minhash"]
    pruned = prune(cache, everything=True)
    assert pruned.freed == on_disk and pruned.left == 0


def test_a_dry_run_says_the_same_and_removes_nothing(cache: Path) -> None:
    for name in "abc":
        put_object(cache, name)
    before = names(cache)
    told = prune(cache, everything=True, dry_run=True)
    assert names(cache) == before
    assert told == prune(cache, everything=True)


def test_without_being_asked_only_what_dead_processes_left_goes(cache: Path) -> None:
    put_object(cache, "a", days=1000)
    with partial(cache, "jobs") as alive:
        dead = alive.with_name(f"jobs.{host()}.{dead_pid()}.0")
        dead.mkdir()
        (dead / "f").write_bytes(bytes(77))
        pruned = prune(cache)
        assert alive.exists() and not dead.exists()
    assert (pruned.freed, list(pruned.removed)) == (77, ["unfinished"])
    assert objects(cache) == "a"


def test_what_another_host_is_writing_goes_after_long(cache: Path) -> None:
    folder = cache / "partial" / "jobs.another-host.1.0"
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(b"x")
    then = (time.time_ns() - FOREIGN_NS) / 1e9
    os.utime(folder, (then, then))
    prune(cache, everything=True)
    assert folder.exists()  # its file is young
    os.utime(folder / "f", (then, then))
    os.utime(folder, (then, then))
    prune(cache)
    assert not folder.exists()


def test_an_object_that_is_damaged_goes_too(cache: Path) -> None:
    folder = put_object(cache, "a")
    (folder / "object.json").write_text("{")
    assert [group.name for group in summarise(cache, None).sources] == [""]
    assert prune(cache, everything=True).left == 0 and not folder.exists()


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert prune(tmp_path / "none", everything=True).freed == 0
    assert summarise(tmp_path / "none", None).total.things == 0
    assert list(tmp_path.iterdir()) == []


# what is not ours


def test_nothing_goes_that_mixc_did_not_make(cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put_object(outside, "linked")
    put_object(cache, "a")
    kept = [
        cache / "notes.txt",
        cache / "objects" / "notes.txt",
        cache / "objects" / "ab" / "notes.txt",
        cache / "objects" / "ab" / "../../objects/abc/x",
        cache / "objects" / "zz" / ("z" * 64) / "object.json",
        cache / "objects" / "ab" / ("AB" + "0" * 62) / "object.json",
        cache / "objects" / "ab" / ("cd" + "0" * 62) / "object.json",
        cache / "objects" / "ab" / ("ab" + "0" * 61) / "object.json",
        cache / "signals" / "ab" / ("ab" + "0" * 62),  # a file where a folder should be
        cache / "scan" / "ab" / ("ab" + "0" * 62) / "x",  # a folder where a file should be
        cache / "scan" / "ab" / "ab",
        cache / "tokenizers" / "mine" / "tokenizer.json",
        cache / "partial" / "notes" / "x",
        cache / "partial" / "my.notes.1999.1" / "x",
        cache / "partial" / f"jobs.{host()}.{os.getpid()}.1" / "x",
        cache / "leases" / "notes",
        cache / "leases" / "a.b.c",
        cache / "models" / "weights.bin",
    ]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    linked = digest_of("linked")
    (cache / "objects" / linked[:2]).mkdir(exist_ok=True)
    link = cache / "objects" / linked[:2] / linked
    link.symlink_to(outside / "objects" / linked[:2] / linked)
    (cache / "objects" / "ff").symlink_to(outside / "objects" / linked[:2])
    pruned = prune(cache, everything=True)
    assert pruned.removed["object"].things == 1 and set(pruned.removed) == {"object"}
    assert all(path.read_text() == "mine" for path in kept)
    assert link.is_symlink() and (link / "object.json").is_file()


@pytest.mark.parametrize("place", ["objects", "partial"])
def test_a_link_where_a_folder_should_be_is_not_followed(cache: Path, tmp_path: Path, place: str) -> None:
    folder = put_object(tmp_path / "outside", "a")
    left = tmp_path / "outside" / "partial" / f"jobs.{host()}.{dead_pid()}.0"
    left.mkdir(parents=True)
    (cache / place).symlink_to(tmp_path / "outside" / place)
    prune(cache, everything=True)
    assert folder.exists() and left.exists()


@pytest.mark.parametrize("alien", ["notes.txt", "sub/facts.parquet", "link"])
def test_a_folder_with_something_else_in_it_is_left_and_named(cache: Path, alien: str) -> None:
    folder = put_object(cache, "a")
    put_object(cache, "b")
    path = folder / alien
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/etc") if alien == "link" else path.write_text("mine")
    pruned = prune(cache, everything=True)
    assert pruned.not_ours == [str(folder)] and pruned.removed["object"].things == 1
    assert path.is_symlink() or path.read_text() == "mine"


# what is in use


def test_what_a_living_process_named_stays(cache: Path) -> None:
    for name in "abc":
        put_object(cache, name, days=9)
        put_signal(cache, "minhash", of=name, days=9)
    put_tokenizer(cache, "t")
    with using(cache) as use:
        use.objects([digest_of("b"), digest_of("to be measured")])
        put_object(cache, "to be measured")
        pruned = prune(cache, everything=True)
        assert names(cache) == {digest_of(n) for n in ("b", "minhash of b", "to be measured", "t")}
        assert pruned.in_use == pruned.left and summarise(cache, None).processes == 1
        put_signal(cache, "another", of="b")
        put_tokenizer(cache, "another")
        use.settle(signals=[digest_of("minhash of b")], tokenizer=digest_of("t"))
        prune(cache, everything=True)
        assert names(cache) == {digest_of(n) for n in ("b", "minhash of b", "to be measured", "t")}
    assert summarise(cache, None).processes == 0
    assert prune(cache, everything=True).left == 0


def test_several_processes_hold_the_union(cache: Path) -> None:
    for name in "abcd":
        put_object(cache, name)
    with using(cache) as one, using(cache) as two:
        one.objects([digest_of("a"), digest_of("b")])
        two.objects([digest_of("b"), digest_of("c")])
        prune(cache, everything=True)
        assert objects(cache) == "abc"


def test_use_makes_recent(cache: Path) -> None:
    for name in "abc":
        put_object(cache, name, days=ord("d") - ord(name))  # a is the oldest
    put_signal(cache, "minhash", of="a", days=9)
    put_tokenizer(cache, "t", days=9)
    with using(cache) as use:
        use.objects([digest_of("a")])
        use.settle(signals=[digest_of("minhash of a")], tokenizer=digest_of("t"))
    order = [thing.name for thing in sorted(inventory(cache), key=lambda thing: thing.used_ns)]
    assert order[:2] == [digest_of("b"), digest_of("c")]


def test_what_came_into_use_since_it_was_looked_at_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compile that began and ended between the look and the removal."""
    put_object(cache, "a", days=9)
    put_object(cache, "b", days=9)

    def looked(cache: Path):
        things = list(inventory(cache))
        with using(cache) as use:
            use.objects([digest_of("a")])
            use.settle(signals=[], tokenizer=digest_of("t"))
        return things

    monkeypatch.setattr(prune_module, "inventory", looked)
    prune(cache, to=0)
    assert objects(cache) == "a"


def test_a_scan_entry_of_a_running_compile_stays(cache: Path) -> None:
    put_scan(cache, "old", days=1)
    with using(cache):
        put_scan(cache, "new")
        os.utime(put_scan(cache, "found unchanged"))
        prune(cache, everything=True)
        assert names(cache) == {digest_of("new"), digest_of("found unchanged")}


def test_a_lease_that_cannot_be_read_holds_everything(cache: Path) -> None:
    put_object(cache, "a")
    with using(cache):
        [lease] = (cache / "leases").iterdir()
        lease.write_bytes(b"{")
        assert prune(cache, everything=True).freed == 0
    assert prune(cache, everything=True).freed > 0


def test_a_dead_process_holds_nothing(cache: Path) -> None:
    put_object(cache, "a")
    code = f"""
import os
from pathlib import Path
from mixc.cache.use import using
with using(Path({str(cache)!r})) as use:
    use.objects([{digest_of("a")!r}])
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list((cache / "leases").iterdir())) == 1
    prune(cache, everything=True)
    assert objects(cache) == "" and list((cache / "leases").iterdir()) == []


@pytest.mark.parametrize("days", [6, 8])
def test_another_hosts_lease_counts_for_a_week(cache: Path, days: int) -> None:
    put_object(cache, "a", days=30)
    lease = cache / "leases" / "another-host.1.0"
    lease.parent.mkdir()
    lease.write_text(f'{{"since_ns": 0, "objects": ["{digest_of("a")}"], "signals": [], "tokenizers": []}}')
    then = time.time() - days * 86_400
    os.utime(lease, (then, then))
    prune(cache, everything=True)
    assert (objects(cache) == "a") == lease.exists() == (days == 6)


def test_leases_go_when_their_block_ends(cache: Path) -> None:
    with pytest.raises(KeyError), using(cache):
        raise KeyError
    assert list((cache / "leases").iterdir()) == []


# the limit


def test_the_limit_takes_what_was_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXC_CACHE_LIMIT", "3.5kB")
    for name in "abcd":
        put_object(cache, name, days=ord(name) - ord("a"))  # a is the newest
    with using(cache) as use:
        use.objects([digest_of("d")])
        use.settle(signals=[], tokenizer=digest_of("t"))
    assert objects(cache) == "ad" and use.warnings == []


def test_what_is_used_may_be_more_than_the_limit(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXC_CACHE_LIMIT", "1 kB")
    put_object(cache, "a")
    put_object(cache, "b")
    with using(cache) as use:
        use.objects([digest_of("a")])
    assert objects(cache) == "a"
    [warning] = use.warnings
    assert "MIXC_CACHE_LIMIT (1.00 kB)" in warning and "in use" in warning


def test_no_limit_and_no_success_remove_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_object(cache, "a")
    monkeypatch.delenv("MIXC_CACHE_LIMIT", raising=False)
    with using(cache):
        pass
    monkeypatch.setenv("MIXC_CACHE_LIMIT", "0")
    with pytest.raises(KeyError), using(cache):
        raise KeyError
    assert objects(cache) == "a"


def test_a_limit_that_is_no_size_is_said_before_anything_is_done(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXC_CACHE_LIMIT", "200")
    with pytest.raises(MixcError, match="not a size"), using(cache):
        raise AssertionError
    assert list(cache.iterdir()) == []


# failures


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_leaves_whole_things(cache: Path, seed: int) -> None:
    (cache / "partial").mkdir()
    for index in range(300):
        put_object(cache, str(index), days=index)
    code = f"from pathlib import Path; from mixc.cache.prune import prune; print(flush=True); prune(Path({str(cache)!r}), to=0)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.004 * (seed + 1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for folder in (cache / "objects").glob("*/*"):
        assert {path.name for path in folder.iterdir()} == {
            *("object.json", "samples.bin", "media.bin", "facts.parquet", "rejects.parquet", "media.parquet")
        }
    with using(cache) as use:  # nothing is locked
        use.objects([])
    sweep(cache)
    assert list((cache / "partial").iterdir()) == []
    assert prune(cache, to=0).left == 0


def test_a_compile_that_begins_waits_for_a_removal(cache: Path) -> None:
    """And so, when it looks, finds a thing whole or not at all."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code = (
            f"from pathlib import Path; from mixc.cache.use import using\nwith using(Path({str(cache)!r})): print('in')"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
    assert process.communicate()[0] == b"in\n"


def as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Run as a user who may write nowhere, for root may write everywhere."""
    drop = "import os; os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
    preload = "import mixc.cache.use, mixc.cache.prune, mixc.cache.summary, sys\n"
    return subprocess.run([sys.executable, "-c", preload + drop + code], capture_output=True, text=True, check=False)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach; pytest's they cannot."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_cache_that_may_not_be_written_to_can_be_used(public: Path) -> None:
    cache = public / "cache"
    folder = put_object(cache, "a", days=9)
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o555)
    code = f"""
from pathlib import Path
cache = Path({str(cache)!r})
with mixc.cache.use.using(cache) as use:
    use.objects([{digest_of("a")!r}])
    use.settle(signals=[], tokenizer="t")
print(mixc.cache.summary.summarise(cache, None).total.things)
try:
    mixc.cache.prune.prune(cache, everything=True)
except mixc.errors.BuildError as error:
    print(error)
"""
    done = as_nobody(code)
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1\n") and "the cache cannot be locked" in done.stdout
    assert (folder / "object.json").is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "mixc-test", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be made by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_it_makes_room(small_disk: Path) -> None:
    for index in range(8):
        put_object(small_disk, str(index), size=4000)
    with using(small_disk):
        pass
    (small_disk / "partial").mkdir()
    with pytest.raises(OSError), (small_disk / "rest").open("wb") as rest:
        while True:
            rest.write(bytes(4096))
            rest.flush()
    with pytest.raises(BuildError, match="cannot be written"), using(small_disk) as use:
        use.objects([digest_of(str(index)) for index in range(200)])
    assert prune(small_disk, everything=True).left == 0
    assert list((small_disk / "objects").glob("*/*")) == []
