"""A thing of another kind than the command takes is called by what it is, with the command that takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.recognise import recognise

REPO = Path(__file__).resolve().parents[2]
ROOT = "0becd25eebe76360f667693ff98561fed5b0a5718a21929c926e028c14b56989"


@pytest.fixture
def things(tmp_path: Path) -> Path:
    for name, file, text in (
        ("run", "run.json", json.dumps({"root": ROOT, "stages": []})),
        ("build", "manifest.json", "{}"),
        ("weights", "config.json", "{}"),
        (".", "m.yaml", "mixture: m"),
        (".", "m.lock", "{}"),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text(text)
    (tmp_path / "other").mkdir()
    return tmp_path


RUN = f"this is a run, trained from the build of root {ROOT[:16]}: `mixc chat run` asks what it has learnt"
BUILD = "this is a build: `mixc train build --out RUN` trains from it, `mixc report build` shows it"
WEIGHTS = "these are a model's weights: `mixc chat weights` asks them"
SPEC = "this is a spec: `mixc compile m.yaml -o BUILD` makes a build of it"
LOCK = "this is a lock: `mixc compile SPEC -o BUILD --locked` builds what it pins"


def test_what_stands_there(things: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(things)
    told = {name: recognise(Path(name)) for name in ("run", "build", "weights", "m.yaml", "m.lock", "other", "nothing")}
    assert told == {
        "run": RUN,
        "build": BUILD,
        "weights": WEIGHTS,
        "m.yaml": SPEC,
        "m.lock": LOCK,
        "other": "",
        "nothing": "",
    }
    (things / "run/run.json").write_text("no JSON")
    assert recognise(Path("run")) == "this is a run: `mixc chat run` asks what it has learnt"


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("report run", RUN),
        ("report m.yaml", SPEC),
        ("report m.lock", LOCK),
        ("verify run", RUN),
        ("verify m.yaml", SPEC),
        ("explain weights --sample 00", WEIGHTS),
        ("inspect run", RUN),
        ("diff run build", RUN),
        ("lock run -o x.lock", RUN),
        ("chat build question", BUILD),
        ("chat m.yaml question", SPEC),
        ("export build -o x", BUILD),
        ("plan build", BUILD),
        ("plan run", RUN),
        ("compile m.lock -o x", LOCK),
        ("train run --out x", RUN),
        ("train m.yaml --out x", SPEC),
    ],
)
def test_commands_say_what_it_is(command: str, known: str, things: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mixc", *command.split()],
        capture_output=True,
        text=True,
        cwd=things,
        env={**os.environ, "PYTHONPATH": str(REPO), "DS_ACCELERATOR": "cpu"},
        timeout=60,
    )
    # a build is opened by its whole path
    assert done.returncode == 2 and known in done.stderr.replace(f"{things}/", ""), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
