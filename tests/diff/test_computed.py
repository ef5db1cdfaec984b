"""Computed signals before and after: of builds they are found in the cache by what their locks pin, and nothing is computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixc.compile import compile_spec
from mixc.diff.difference import Difference
from mixc.diff.markdown import markdown
from mixc.diff.page import write_page
from mixc.diff.run import diff
from mixc.diff.show import lines
from mixc.report.page import write_page as write_report
from tests.diff.conftest import Edit, Project, compiled

OWN = """
def vowels(batch):
    return [sum(text.count(letter) for letter in "aeiou") * batch.settings["weight"] for text in batch.texts]


def first(batch):
    return [text[:1] for text in batch.texts]
"""


def signals(where: str) -> Edit:
    def edit(spec: dict[str, Any], data: Path) -> None:
        spec["signals"] = [
            "words",
            "language",
            {"name": "vowels", "function": "own:vowels", "version": "2", "settings": {"weight": 3}},
            {"name": "first", "function": "own:first"},
        ]
        spec["sources"]["prose"]["where"] = where
        spec["sources"]["photos"]["where"] = "quality >= 0.7 and words >= 1"
        (data.parent / "own.py").write_text(OWN)
        # a column that the signal hides
        path = data / "news.jsonl"
        rows = [json.loads(line) | {"words": -1} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return edit


@pytest.fixture(scope="module")
def loose(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return compiled(tmp_path_factory.mktemp("loose"), signals("words >= 20"))


@pytest.fixture(scope="module")
def strict(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return compiled(tmp_path_factory.mktemp("strict"), signals("words >= 150 and vowels >= 3"))


@pytest.fixture
def without(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache that a test may take things from."""
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forget(cache: Path, signal: str) -> None:
    """As `mixc cache prune` may."""
    gone = [
        each.parent
        for each in (cache / "signals").rglob("signal.json")
        if json.loads(each.read_text())["signal"] == signal
    ]
    assert gone
    for folder in gone:
        shutil.rmtree(folder)


def named(found: Difference) -> set[tuple[str, str]]:
    return {(each.source, each.signal) for each in found.distributions}


def test_builds_show_what_their_specs_show(loose: Project, strict: Project) -> None:
    builds = diff(loose.build, strict.build)
    assert {("prose", "words"), ("prose", "vowels")} <= named(builds)
    assert not builds.unknown
    by = {(each.source, each.signal): each for each in builds.distributions}
    assert by["prose", "words"].a.quantiles[0] < 150 <= by["prose", "words"].b.quantiles[0]
    assert all(each.low >= 0 for each in builds.distributions if each.signal == "words")
    assert not {signal for _, signal in named(builds)} & {"language", "first"}
    sides = [(loose.spec, strict.spec), (loose.build, strict.spec), (loose.build / "mixture.lock", strict.build)]
    for a, b in sides:
        assert diff(a, b).distributions == builds.distributions


def test_they_are_found_in_the_versions_that_the_lock_pins(
    loose: Project, strict: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in those of the mixc that compares."""
    before = diff(loose.build, strict.build)
    monkeypatch.setattr("mixc.signals.run.signal_version", lambda name: "of another mixc")
    assert diff(loose.build, strict.build) == before
    assert diff(loose.build / "mixture.lock", strict.build).distributions == before.distributions


def test_what_the_cache_has_lost_is_said_and_not_computed(
    loose: Project, strict: Project, without: Path, tmp_path: Path
) -> None:
    whole = diff(loose.build, strict.build)
    forget(without, "words")
    found = diff(loose.build, strict.build)
    assert named(found) == {each for each in named(whole) if each[1] != "words"} and named(found)
    why = found.unknown["signals"]
    assert why.startswith("not in this machine's cache: ") and "the signal words of prose" in why
    assert "language" not in why  # no number, so nothing is missed
    assert any(why in line.text for line in lines(found)) and "words of prose" in markdown(found)
    assert diff(loose.build, loose.build).unknown == {}
    assert not [
        each for each in (without / "signals").rglob("signal.json") if json.loads(each.read_text())["signal"] == "words"
    ]
    forget(without, "vowels")
    assert "the signals vowels, words of prose" in diff(loose.build, strict.build).unknown["signals"]
    shutil.rmtree(without / "objects")
    assert "objects of " in diff(loose.build, strict.build).unknown["signals"]


def test_a_column_does_not_stand_for_a_lost_signal_of_its_name(
    loose: Project, tmp_path_factory: pytest.TempPathFactory, without: Path
) -> None:
    """`words` of news is -1 in the column; the signal's values are lost."""
    spec = json.loads(loose.spec.read_text())
    spec["stages"][0]["mix"] = {"photos": 0.5, "prose": 0.35, "news": 0.15}
    other = loose.folder / "other.yaml"
    other.write_text(json.dumps(spec))
    compile_spec(other, loose.folder / "other")
    assert ("news", "words") in named(diff(loose.build, loose.folder / "other"))
    forget(without, "words")
    found = diff(loose.build, loose.folder / "other")
    assert ("news", "words") not in named(found) and "words of news" in found.unknown["signals"]


def test_pages_show_them(loose: Project, strict: Project, without: Path, tmp_path: Path) -> None:
    write_page(diff(loose.build, strict.build), tmp_path / "diff.html")
    page = (tmp_path / "diff.html").read_text()
    assert "vowels" in page and "words" in page
    write_report(loose.build, tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "words of prose" in report and "vowels of prose" in report and "first of prose" not in report
    assert "Not in this machine&#39;s cache" not in report
    forget(without, "words")
    write_report(loose.build, tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "vowels of prose" in report
    assert "Not in this machine&#39;s cache: " in report and "the signal words of prose" in report
