"""What the diff, and the trainer's refusals, say of a run that is to go on as another build, done word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.compile.conftest import Mixc

pytestmark = [pytest.mark.slow, pytest.mark.dist]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in "ab":
        rows = [json.dumps({"text": f"{name} number {i}: " + "word " * (5 + i % 20)}) for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


def spec(folder: Path, name: str, *, where: str = "characters > 0", weight: float = 0.5, top: str = "") -> Path:
    """Stage one, the shortest texts first, differs by `where` after some steps, stage two by the weight from its first step on."""
    stage = "sequence_length: 64\n    train: {lr: {language: 1.0e-3}, batch: 2, schedule: constant, warmup: 0}"
    (folder / name).write_text(f"""\
mixture: m
seed: 3
model: sail-vl-tiny
{top}
sources:
  a: {{path: a.jsonl, kind: text, where: {where}}}
  b: {{path: b.jsonl, kind: text}}
stages:
  - name: one
    budget: 1 epoch
    mix: [a]
    order: {{by: characters, window: 20}}
    {stage}
  - name: two
    budget: 600 tokens
    mix: {{b: {weight}, a: {{weight: 0.5, max_epochs: 9}}}}
    reuse: true
    {stage}
""")
    return folder / name


def packs(run: Path) -> list[list[str]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[digest for _, digest in row["packs"]] for row in rows]


def test_from_the_middle_of_a_stage(mixc: Mixc, work: Path) -> None:
    def run(*arguments: str | Path, check: int = 0) -> str:
        done = mixc(*arguments, cwd=work, check=check, DS_ACCELERATOR="cpu")
        return done.stdout + done.stderr

    spec(work, "a.yaml")
    run("compile", "a.yaml", "-o", "a")
    spec(work, "b.yaml", where="characters < 115")
    run("compile", "b.yaml", "-o", "b")
    told = run("diff", "a", "b", check=1)
    point = re.search(r"write `continue_from: {build: A, stage: one, step: (\d+)}`", told)
    assert point, told
    step = int(point[1])
    assert step > 0 and f"up to step {step} of stage one" in told
    run("train", "a", "--out", "run-a", "--max-steps", str(step), "--workers", "0")

    refused = run("train", "b", "--out", "run-a", "--resume", check=2)
    assert "--continue-from, of a build whose spec says `continue_from`" in refused
    refused = run("train", "b", "--out", "run-b", "--continue-from", "run-a", check=2)
    written = re.search(r"write `(continue_from: {build: BUILD, stage: one, step: \d+})`", refused)
    assert written and written[1] == point[0].removeprefix("write `").removesuffix("`").replace("A,", "BUILD,", 1)

    spec(work, "b.yaml", where="characters < 115", top=written[1].replace("BUILD", "a"))
    assert "--continue-from RUN" in run("compile", "b.yaml", "-o", "b")
    said = run("train", "b", "--out", "run-b", "--continue-from", "run-a", "--workers", "0")
    assert f"then {work}/run-a/checkpoints/one-{step:08d}" in said and "all stages are trained (one, two)" in said


def test_from_the_end_of_a_stage(mixc: Mixc, work: Path) -> None:
    def run(*arguments: str | Path, check: int = 0) -> str:
        done = mixc(*arguments, cwd=work, check=check, DS_ACCELERATOR="cpu")
        return done.stdout + done.stderr

    for name, weight in (("a", 0.5), ("b", 0.7)):
        spec(work, f"{name}.yaml", weight=weight)
        run("compile", f"{name}.yaml", "-o", name)
    told = run("diff", "a", "b", check=1)
    way = re.search(r"how: `mixc (train B --out RUN --init RUN_OF_A/one --stages) \.\.\.`", told)
    assert way, told
    run("train", "a", "--out", "run-a", "--stages", "one", "--workers", "0")
    typed = way[1].replace(" B ", " b ").replace("RUN_OF_A", "run-a").replace("RUN", "run-b").split()
    run(*typed, "two", "--workers", "0")
    run("train", "b", "--out", "whole", "--workers", "0")
    assert packs(work / "run-b") == packs(work / "whole")[-len(packs(work / "run-b")) :]
    trained = [(work / name / "two/model.safetensors").read_bytes() for name in ("run-b", "whole")]
    assert trained[0] == trained[1]
