"""Answers with thoughts, compiled for a model that has their tags as tokens and for one that has not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixc.errors import BuildError
from mixc.measure.template import template_named
from mixc.report.search import find_text
from shards.build import Build
from tests.compile.conftest import root

pytestmark = pytest.mark.slow

SPEC = """\
mixture: thoughts
seed: 1
model: sail-vl2-2b
tokenizer: qwen3
sources:
  chat: {path: "chat.jsonl", kind: chat, messages: conversations}
  prose: {path: "prose.jsonl", kind: text}
stages:
  - name: only
    budget: 1 epoch
    mix: [chat, prose]
    sequence_length: 1024
    train: {lr: {projector: 1e-3}, batch: 1}
"""
ANSWER = "<think>\nOne, two.\n</think>\n\n\\boxed{2}"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    said = [{"from": "human", "value": "What is <think>?"}, {"from": "gpt", "value": ANSWER}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"conversations": said}) + "\n")
    (tmp_path / "prose.jsonl").write_text(json.dumps({"text": f"A text. {ANSWER}"}) + "\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def shown(mixc, build: Path) -> dict[str, str]:
    """What `mixc inspect` shows as supervised, by source."""
    pack = mixc.json("inspect", build)
    return {
        segment["source"]: "".join(run["text"] for run in segment["runs"] if run["supervised"])
        for segment in pack["segments"]
    }


def tags(build: Path) -> int:
    tokens = Build.open(build).stage("only").pack(0).tokens.tolist()
    return sum(token in (151667, 151668) for token in tokens)


def test_tags_are_tokens_for_the_models_that_have_them(mixc, spec: Path, tmp_path: Path) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    made = mixc.json("compile", spec, "-o", older, "--set", "model=sail-vl-2b")
    assert made["objects"] == {"measured": 2, "reused": 0}
    # a text is the same to both, an answer is not
    made = mixc.json("compile", spec, "-o", newer)
    assert made["objects"] == {"measured": 1, "reused": 1}
    assert root(older) != root(newer)
    for build, think in ((older, False), (newer, True)):
        manifest = json.loads((build / "manifest.json").read_text())["manifest"]
        assert manifest["template"] == template_named("univl-chat", think=think).digest
        assert tags(build) == (2 if think else 0)
        found = shown(mixc, build)
        assert found["chat"] == f"{ANSWER}<|im_end|>"
        assert ANSWER in found["prose"]


def test_a_diff_with_a_lock_from_before(mixc, spec: Path, tmp_path: Path) -> None:
    """It is planned over the objects of its template, so that the two are told apart by what differs: tokens of answers."""
    build, before = tmp_path / "build", tmp_path / "before.lock"
    mixc("compile", spec, "-o", tmp_path / "older", "--set", "model=sail-vl-2b")  # with the very objects of that time
    mixc("compile", spec, "-o", build)
    assert mixc.json("diff", build / "mixture.lock", build, check=0)["equal"]
    old, new = (template_named("univl-chat", think=think).digest for think in (False, True))
    text = (build / "mixture.lock").read_text()
    before.write_text(text.replace(new, old).replace(root(build), "0" * 64))
    found = mixc.json("diff", before, build, check=1)
    assert [cause["kind"] for cause in found["causes"]] == ["template"] and not found["unknown"]
    tokens = {each["source"]: [each[side]["supervised_tokens"] for side in "ab"] for each in found["composition"]}
    assert tokens["prose"][0] == tokens["prose"][1]
    assert tokens["chat"][0] > tokens["chat"][1] > 0
    # a source that names the model's own template has the model's own tokens
    made = mixc.json("compile", spec, "-o", tmp_path / "named", "--set", "sources.chat.template=univl-chat")
    assert made["objects"] == {"measured": 0, "reused": 2} and made["root"] == root(build)
    assert mixc.json("diff", build, tmp_path / "named", check=0)["equal"]


@pytest.mark.parametrize("spelled", [True, False])
def test_a_thought_is_found_with_its_tags(
    mixc, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: bool
) -> None:
    """Where they are tokens and where they are letters; a user's question is another piece of text than the answer to it."""
    mixc("compile", spec, "-o", tmp_path / "build")
    monkeypatch.setenv("MIXC_CACHE", str(mixc.cache))
    if not spelled:
        monkeypatch.setattr("mixc.report.spelled.spelling", lambda *_: None)
    for fragment, sources in (("<think>\nOne", ["chat", "prose"]), ("two.\n</think>\n\n\\", ["chat", "prose"])):
        found = find_text(tmp_path / "build", fragment, limit=None, workers=1)
        assert sorted(one.use.source for one in found.found) == sources
    with pytest.raises(BuildError, match="nothing that is trained on"):
        find_text(tmp_path / "build", "<think>?<think>", limit=None, workers=1)


def test_a_lock_from_before_names_what_moved(mixc, spec: Path, tmp_path: Path) -> None:
    mixc("compile", spec, "-o", tmp_path / "build")
    lock = tmp_path / "build/mixture.lock"
    before, now = (template_named("univl-chat", think=think).digest for think in (False, True))
    assert lock.read_text().count(now) == 1
    spec.with_suffix(".lock").write_text(lock.read_text().replace(now, before))
    done = mixc("compile", spec, "-o", tmp_path / "again", "--locked", check=2)
    assert f"chat template: {before[:16]} -> {now[:16]}" in done.stderr
