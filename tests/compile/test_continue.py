"""A new mix from the middle of a run: what was trained is not trained again, and the lock proves it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.compile.conftest import Mixc


def spec(folder: Path, name: str, mix: str, budget: str, extra: str = "") -> Path:
    path = folder / name
    path.write_text(f"""\
mixture: m
seed: 3
model: sail-vl-tiny
sources:
  a: {{path: a.jsonl, kind: text}}
  b: {{path: b.jsonl, kind: text}}
{extra}
stages:
  - name: one
    budget: {budget}
    mix: {mix}
    sequence_length: 64
    train: {{lr: {{language: 1.0e-3}}, batch: 4}}
""")
    return path


def trained(build: Path, stage: int, step: int) -> Counter[tuple[str, bytes]]:
    rows = pq.read_table(build / "plan" / "placements.parquet").to_pylist()
    seen = {(r["source"], r["id"].bytes, r["epoch"]) for r in rows if r["stage"] == stage and r["step"] < step}
    return Counter((source, id) for source, id, _ in seen)


@pytest.mark.slow
def test_a_run_goes_on_with_another_mix(mixc: Mixc, tmp_path: Path) -> None:
    for name in "ab":
        lines = [json.dumps({"text": f"{name} number {i}: " + "word " * (5 + i % 20)}) for i in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    first = spec(tmp_path, "first.yaml", "{a: 0.5, b: 0.5}", "6000 tokens")
    mixc("compile", first, "-o", tmp_path / "first")
    step = 10
    used = trained(tmp_path / "first", 0, step)
    assert len(used) > 50

    point = f"continue_from: {{build: first, stage: one, step: {step}}}"
    second = spec(tmp_path, "second.yaml", "{a: 0.8, b: 0.2}", "3000 tokens", point)
    mixc("compile", second, "-o", tmp_path / "second")
    again = trained(tmp_path / "second", 0, 10**6)
    assert again and not used.keys() & again.keys()
    drops = pq.read_table(tmp_path / "second" / "plan" / "drops.parquet").to_pylist()
    assert {(r["source"], r["id"].bytes) for r in drops if r["rule"] == "consumed"} == set(used)

    lock = json.loads((tmp_path / "second" / "mixture.lock").read_text())
    root = json.loads((tmp_path / "first" / "mixture.lock").read_text())["root"]
    proof = lock["continues"]
    assert (proof["root"], proof["stage"], proof["step"]) == (root, "one", step)
    assert (proof["consumed"], proof["unknown"], proof["again"]) == (len(used), 0, 0)
    mixc("compile", second, "-o", tmp_path / "second", "--locked")
    mixc("lock", second)  # before a plan it is the same proof, but for what only a plan counts
    before_plan = json.loads(second.with_suffix(".lock").read_text())["continues"]
    assert before_plan == {**proof, "unknown": None, "again": None}
    second.with_suffix(".lock").unlink()

    # The trainer goes on from that very point, and from no other run.
    mixc("train", tmp_path / "first", "--out", tmp_path / "run", "--max-steps", step, "--workers", 0)
    onward = ("--out", tmp_path / "onward", "--continue-from", tmp_path / "run", "--max-steps", 2, "--workers", 0)
    said = mixc("train", tmp_path / "second", *onward).stdout
    assert f"one-{step:08d}" in said
    wrong = mixc("train", tmp_path / "first", *onward[2:], "--out", tmp_path / "wrong", check=2)
    assert "this build continues no run" in wrong.stdout + wrong.stderr

    # Two epochs allow each used sample one visit more, and no other three.
    third = spec(tmp_path, "third.yaml", "{a: {weight: 1, max_epochs: 2}}", "1.9 epochs", point)
    mixc("compile", third, "-o", tmp_path / "third", "--set", "stages.one.on_exhausted=shorten")
    once_more = trained(tmp_path / "third", 0, 10**6)
    for (source, id), uses in once_more.items():
        assert uses + used[source, id] <= 2
    assert max(once_more.values()) == 2

    # Another build at the same place is another past: the lock refuses it.
    mixc("compile", first, "-o", tmp_path / "first", "--set", "seed=4")
    refused = mixc("compile", second, "-o", tmp_path / "second", "--locked", check=2)
    assert "what the continued run used" in refused.stderr


def test_points_that_do_not_exist(mixc: Mixc, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": "some words to train on"}) + "\n")
    mixc("compile", spec(tmp_path, "first.yaml", "[a, b]", "1 epoch"), "-o", tmp_path / "first")
    for point, said in (
        ("{build: nowhere, stage: one, step: 0}", "cannot be read"),
        ("{build: first, stage: two, step: 0}", "has no stage `two`"),
        ("{build: first, stage: one, step: 99}", "1 step, not 99"),
    ):
        wrong = spec(tmp_path, "wrong.yaml", "[a, b]", "1 epoch", f"continue_from: {point}")
        failed = mixc("plan", wrong, check=2)
        assert said in failed.stderr and "Traceback" not in failed.stderr
