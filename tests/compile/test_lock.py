"""`mixc lock` and `compile --locked`: a lock in git is enough to build the same elsewhere, and says what moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import zstandard

from tests.compile.conftest import REPO, copy_demo, root

pytestmark = pytest.mark.slow


def lock_of(spec: Path) -> dict:
    return json.loads(spec.with_suffix(".lock").read_text())


@pytest.fixture(scope="module")
def warm(make_mixc):
    """A Mixc whose cache fills over the tests of this file: nothing here hangs on what was measured before."""
    return make_mixc()


def test_a_lock_is_written_before_any_build_and_pins_the_inputs(warm, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path)
    written = warm.json("lock", spec)
    assert written["written"] and written["root"] is None and written["moved"] is None
    assert written["sources"]["pages"]["fragments"] == 2 and written["sources"]["pages"]["samples"] > 0
    own, built = lock_of(spec), json.loads((demo / "mixture.lock").read_text())
    assert (own["root"], own["stages"], own["media"]) == (None, {}, [])
    for key in own.keys() - {"root", "stages", "media"}:
        assert own[key] == built[key], key

    done = warm("compile", spec, "-o", tmp_path / "build", "--locked")
    assert root(tmp_path / "build") == root(demo)
    assert "has no root" in done.stderr  # it says that the inputs alone were pinned
    warm("lock", tmp_path / "build", "-o", spec.with_suffix(".lock"))
    assert spec.with_suffix(".lock").read_bytes() == (tmp_path / "build/mixture.lock").read_bytes()
    assert "has no root" not in warm("compile", spec, "-o", tmp_path / "build", "--locked").stderr
    again = warm.json("lock", spec)  # equal inputs: the root stays
    assert not again["written"] and again["root"] == root(demo)


def test_the_lock_of_one_folder_builds_the_same_in_another_with_sources_at_other_paths(
    warm, demo: Path, tmp_path: Path
) -> None:
    """Moved to another folder, renamed, listed in another order, given by --set and by an edited spec."""
    spec = copy_demo(tmp_path / "here")
    shutil.copy(demo / "mixture.lock", spec.with_suffix(".lock"))
    away = tmp_path / "away"
    shutil.move(spec.parent / "demo/data", away)
    for number, path in enumerate(sorted((away / "prose").iterdir())):
        path.rename(path.with_name(f"{9 - number} ü{''.join(path.suffixes[-2:])}"))
    (away / "pages/east.tar").rename(away / "pages/z.tar")
    (away / "pages/west.tar").rename(away / "pages/a.tar")
    text = spec.read_text().replace("demo/data/captions", f"{away}/captions")
    spec.write_text(text.replace("demo/data/prose/*.jsonl.zst", f'"{away}/prose/*"'))
    moved = (
        *("--set", f"sources.pages.path=[{away}/pages/z.tar, {away}/pages/a.tar]"),
        *("--set", f"sources.knowledge.path={away}/chat/knowledge.json"),
        *("--set", f"sources.reasoning.path={away}/chat/reasoning.jsonl"),
    )
    assert warm.json("lock", spec, "--check", *moved)["ok"]
    warm("compile", spec, "-o", tmp_path / "build", "--locked", *moved)
    assert root(tmp_path / "build") == root(demo)


@pytest.fixture
def drifted(demo: Path, tmp_path: Path) -> Path:
    """A spec with the lock of the demo, and sources of which one file is changed, one gone, one new and one renamed."""
    spec = copy_demo(tmp_path)
    shutil.copy(demo / "mixture.lock", spec.with_suffix(".lock"))
    data = spec.parent / "demo/data"
    reasoning = data / "chat/reasoning.jsonl"
    lines = reasoning.read_text().splitlines(keepends=True)
    reasoning.write_text("".join(lines[:-1]))
    (data / "prose/python.jsonl.zst").unlink()
    (data / "prose/new.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "Something new."}\n'))
    (data / "pages/east.tar").rename(data / "pages/east-2.tar")
    return spec


def test_drift_is_told_file_by_file(warm, drifted: Path, tmp_path: Path) -> None:
    locked = {
        name: {each["path"]: each["samples"] for each in own} for name, own in lock_of(drifted)["sources"].items()
    }
    reasoning = locked["reasoning"]["demo/data/chat/reasoning.jsonl"]
    python = locked["prose"]["demo/data/prose/python.jsonl.zst"]
    words = {
        "source prose: new demo/data/prose/new.jsonl.zst",
        f"source prose: gone demo/data/prose/python.jsonl.zst ({python:,} samples)",
        f"source reasoning: changed demo/data/chat/reasoning.jsonl ({reasoning:,} samples -> ",
    }
    found = warm.json("lock", drifted, "--check", check=1)
    assert not found["ok"] and not found["moved"]["spec"] and not found["moved"]["pins"]
    assert {(f["source"], f["change"], f["path"]) for f in found["moved"]["files"]} == {
        ("prose", "new", "demo/data/prose/new.jsonl.zst"),
        ("prose", "gone", "demo/data/prose/python.jsonl.zst"),
        ("reasoning", "changed", "demo/data/chat/reasoning.jsonl"),
    }
    for done in (
        warm("lock", drifted, "--check", check=1).stdout,
        warm("compile", drifted, "-o", tmp_path / "build", "--locked", check=2).stderr,
    ):
        for each in words:
            assert each in done
        assert "east" not in done
    assert not (tmp_path / "build").exists()

    spec = warm(
        "compile", drifted, "-o", tmp_path / "build", "--locked", "--set", "stages.align.budget=1k tokens", check=2
    )
    assert 'spec: stages.align.budget: "38000 tokens" -> "1000 tokens"' in spec.stderr


def test_one_source_is_pinned_anew_and_the_others_must_be_as_they_were(warm, drifted: Path, tmp_path: Path) -> None:
    before = lock_of(drifted)
    refused = warm("lock", drifted, "--update", "reasoning", check=2).stderr
    assert "python.jsonl.zst" in refused and "reasoning.jsonl" not in refused
    assert lock_of(drifted) == before
    for arguments, told in (
        (("--update", "reasonin"), "did you mean `reasoning`"),
        (("--update", "prose", "--set", "seed=5"), "spec: seed"),
        (("--update", "prose", "--check"), "--check changes nothing"),
    ):
        assert told in warm("lock", drifted, *arguments, check=2).stderr
    assert lock_of(drifted) == before

    shutil.copy(REPO / "specs/demo/data/chat/reasoning.jsonl", drifted.parent / "demo/data/chat/reasoning.jsonl")
    updated = warm.json("lock", drifted, "--update", "prose")
    assert updated["written"] and updated["root"] is None
    assert {each["change"] for each in updated["moved"]["files"]} == {"new", "gone"}
    after = lock_of(drifted)
    assert after["sources"]["prose"] != before["sources"]["prose"]
    assert {k: v for k, v in after["sources"].items() if k != "prose"} == {
        k: v for k, v in before["sources"].items() if k != "prose"
    }
    assert warm.json("lock", drifted, "--check")["ok"]
    assert not warm.json("lock", drifted, "--update", "prose")["written"]
    warm("compile", drifted, "-o", tmp_path / "build", "--locked")


def test_a_lock_is_not_written_over_what_is_none(warm, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path)
    spec.with_suffix(".lock").write_text("mine")
    assert "not a lock" in warm("lock", spec, check=2).stderr
    assert spec.with_suffix(".lock").read_text() == "mine"
    assert "-o SPEC.lock" in warm("lock", demo, check=2).stderr
    assert "are for a spec" in warm("lock", demo, "--check", check=2).stderr
    assert "no lock" in warm("lock", spec, "--check", "-o", tmp_path / "none.lock", check=2).stderr
    assert "folder that exists" in warm("lock", demo, "-o", tmp_path / "none/x.lock", check=2).stderr


def test_other_library_versions_are_told_where_results_differ(warm, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path)
    lock = json.loads((demo / "mixture.lock").read_text())
    lock["versions"]["duckdb"] = "0.1"
    spec.with_suffix(".lock").write_text(json.dumps(lock))
    warm("compile", spec, "-o", tmp_path / "build", "--locked")  # the root is the locked one all the same
    assert "duckdb: 0.1 ->" in warm("lock", spec, "--check").stdout
    lock["root"] = "0" * 64
    spec.with_suffix(".lock").write_text(json.dumps(lock))
    refused = warm("compile", spec, "-o", tmp_path / "other", "--locked", check=2).stderr
    assert "root: 0000000000000000 ->" in refused and "duckdb: 0.1 ->" in refused
    assert not (tmp_path / "other").exists()
