"""Sides of other kinds: locks, and what a revision in git has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mixc.diff.revision import find_revision
from mixc.diff.run import diff
from mixc.errors import MixcError
from tests.diff.conftest import Project, compiled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def edited(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    def edit(spec, data) -> None:
        spec["sources"]["photos"]["where"] = "quality >= 0.9"

    return compiled(tmp_path_factory.mktemp("edited"), edit)


CAUSE = ["threshold of source photos: quality >= 0.7 -> quality >= 0.9"]


def test_a_lock_is_planned_from_the_cache(base: Project, edited: Project) -> None:
    """Without its sources, and to the same end as the builds."""
    builds = diff(base.build, edited.build)
    locks = diff(base.build / "mixture.lock", edited.build / "mixture.lock")
    assert [cause.text for cause in locks.causes] == CAUSE == [cause.text for cause in builds.causes]
    assert locks.a.planned and not locks.unknown
    assert (locks.samples, locks.order, locks.composition) == (builds.samples, builds.order, builds.composition)
    same = diff(base.build / "mixture.lock", base.spec)
    assert same.equal and not same.causes and not same.no_effect


def test_a_lock_alone_says_what_it_cannot_say(
    base: Project, edited: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "empty"))
    found = diff(base.build / "mixture.lock", edited.build)
    assert not found.equal and [cause.text for cause in found.causes] == CAUSE
    assert found.unknown.keys() == {"rows", "selection", "composition", "order", "signals"}
    assert "not in this machine's cache" in found.unknown["order"]
    assert found.samples is None and found.order is None and found.distance is None
    assert diff(base.build / "mixture.lock", base.build).equal


def test_a_lock_without_its_objects_still_tells_content(base: Project, tmp_path: Path) -> None:
    lock = json.loads((base.build / "mixture.lock").read_text())
    lock["sources"]["news"][0]["digest"] = "0" * 64
    (tmp_path / "x.lock").write_text(json.dumps(lock))
    found = diff(tmp_path / "x.lock", base.spec)
    assert [cause.text for cause in found.causes] == ["content of source news: 1 file changed"]
    assert found.sources["news"].changed == ["data/news.jsonl"] and found.sources["news"].rows is None
    assert "objects of news" in found.unknown["selection"]


@pytest.fixture(scope="module")
def repository(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits of a spec that extends another, with its data in the working tree only, its lock and its build."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(base.folder / "data", folder / "specs/data")
    shutil.copyfile(base.spec, folder / "specs/base.yaml")
    (folder / "specs/mix.yaml").write_text("extends: base.yaml\nmixture: edits\n")
    shutil.copyfile(base.build / "mixture.lock", folder / "specs/mix.lock")
    shutil.copytree(base.build, folder / "specs/build")

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)

    git("init", "-b", "trunk")
    git("add", "specs/base.yaml", "specs/mix.yaml", "specs/mix.lock", "specs/build")
    git("commit", "-m", "one")
    changed = (folder / "specs/base.yaml").read_text().replace("quality >= 0.7", "quality >= 0.9")
    (folder / "specs/base.yaml").write_text(changed)
    git("commit", "-am", "two")
    (folder / "specs/base.yaml").write_text("what stands in the working tree is not read\n")
    return folder


def test_a_spec_of_a_revision_extends_what_that_revision_has(
    repository: Path, monkeypatch: pytest.MonkeyPatch, base: Project
) -> None:
    monkeypatch.chdir(repository)
    found = diff("git:HEAD~1:specs/mix.yaml", "git:trunk:specs/mix.yaml")
    assert [cause.text for cause in found.causes] == CAUSE
    assert found.a.path == "git:HEAD~1:specs/mix.yaml" and found.a.kind == "spec"
    assert diff("git:HEAD~1:specs/mix.yaml", base.build).equal
    for other in ("git:HEAD:specs/mix.lock", "git:HEAD:specs/build"):
        assert diff("git:HEAD~1:specs/mix.yaml", other).equal
    monkeypatch.chdir(repository / "specs")
    assert [cause.text for cause in diff("git:HEAD:./mix.yaml", base.build).causes] == [
        "threshold of source photos: quality >= 0.9 -> quality >= 0.7"
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("git:HEAD", "names no file of a revision"),
        ("git::x.yaml", "names no file of a revision"),
        ("git:nothing:specs/mix.yaml", "git knows no revision 'nothing'"),
        ("git:--output=x:specs/mix.yaml", "git knows no revision '--output=x'"),
        ("git:HEAD:specs/none.yaml", "there is no specs/none.yaml in revision HEAD"),
        ("git:HEAD:--help", "there is no --help in revision HEAD"),
        ("git:HEAD:../x.yaml", "leads out of the repository"),
        ("git:HEAD:specs/data/news.jsonl", "there is no specs/data/news.jsonl in revision HEAD"),
        ("git:HEAD:specs", "this folder of the revision is not a build"),
        ("git:HEAD:a\0b", "names no file of a revision"),
    ],
)
def test_what_a_revision_has_not_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, base: Project, name: str, says: str
) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(MixcError, match=says.replace(".", r"\.")):
        diff(name, base.build)
    assert not (repository / "x").exists()


def test_outside_of_a_repository_and_without_git_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MixcError, match="in no git repository"):
        find_revision("git:HEAD:x.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MixcError, match="git is not installed"):
        find_revision("git:HEAD:x.yaml")


def test_an_extended_spec_outside_of_the_repository_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    revision = find_revision("git:HEAD:specs/mix.yaml")
    assert revision.read(revision.shown.parent / "base.yaml")
    assert revision.read(revision.shown.parent / "nothing.yaml") is None
    with pytest.raises(MixcError, match="only what lies in its repository"):
        revision.read(revision.shown.parent / "../../base.yaml")


def test_a_library_is_the_cause_where_results_differ_and_no_input_does(base: Project, tmp_path: Path) -> None:
    lock = json.loads((base.build / "mixture.lock").read_text())
    lock["root"], lock["versions"]["fastokens"] = "0" * 64, "0.0.1"
    (tmp_path / "x.lock").write_text(json.dumps(lock))
    found = diff(tmp_path / "x.lock", base.build)
    assert not found.equal
    assert [(cause.kind, cause.a) for cause in found.causes] == [("library", "0.0.1")]
    lock["spec"]["seed"] = 8
    (tmp_path / "x.lock").write_text(json.dumps(lock))
    found = diff(tmp_path / "x.lock", base.build)
    assert [cause.text for cause in found.causes] == ["seed: 8 -> 7"]
    assert [(cause.kind, cause.why) for cause in found.possible] == [("library", "something else differs too")]


def test_what_is_measured_is_compared_without_a_worker(base: Project) -> None:
    """Datatrove runs the workers; it is not even loaded."""
    code = f"""
import sys
from mixc.diff.run import diff
assert diff({str(base.spec)!r}, {str(base.spec)!r}, workers=2).equal
assert not {{"datatrove", "PIL", "torch"}} & sys.modules.keys(), "loaded"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
