"""The command line as people and scripts know it. A change here is a change for them: say it in CHANGELOG.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from mixc.cli.main import app

REPO = Path(__file__).resolve().parents[2]

SURFACE = {
    "init": {"folder", "--out", "-o", "--model", "--seed", "--force", "--json", "--help"},
    "check": {"spec", "--set", "--json", "--help"},
    "plan": {"spec", "--set", "--workers", "-j", "--json", "--help"},
    "compile": {"spec", "--out", "-o", "--set", "--workers", "-j", "--locked", "--json", "--help"},
    "lock": {"path", "--out", "-o", "--set", "--update", "--check", "--workers", "-j", "--json", "--help"},
    "schema": {"--help"},
    "train": set(),  # its flags are the trainer's (tests/runtime/test_arguments.py) and the launcher's (tests/launch)
    "soup": set(),  # tests/runtime/test_soup.py
    "export": {"weights", "--out", "-o", "--format", "--tokenizer", "--template", "--help"},
    "chat": {
        *(
            "model",
            "question",
            "--image",
            "-i",
            "--frame",
            "--batch",
            "--out",
            "-o",
            "--batch-size",
            "--thinking",
            "--system",
        ),
        *(
            "--max-tiles",
            "--msac",
            "--max-new-tokens",
            "--temperature",
            "--top-p",
            "--seed",
            "--tokenizer",
            "--template",
        ),
        *("--model", "--precision", "--json", "--help"),
    },
    "doctor": {"--json", "--help"},
    "diff": {"a", "b", "--format", "--out", "-o", "--workers", "-j", "--json", "--help"},
    "inspect": {"build", "--stage", "--pack", "--step", "--sample", "--tokens", "--html", "--json", "--help"},
    "explain": {
        *("build", "--stage", "--step", "--pack", "--sample", "--file", "--row", "--text", "--image", "--limit"),
        *("--dropped", "--json", "--help"),
    },
    "verify": {"build", "--rebuild", "--sources", "--spec", "--set", "--workers", "-j", "--json", "--help"},
    "sql": {"build", "query", "--csv", "--memory", "--json", "--help"},
    "report": {"build", "--out", "-o", "--model", "--gpu", "--mfu", "--help"},
    "cache": {"--help"},
    "cache ls": {"--json", "--help"},
    "cache prune": {"--to", "--older-than", "--all", "--dry-run", "--json", "--help"},
}


def mixc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mixc", *arguments],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
        timeout=60,
    )


def test_commands_and_options() -> None:
    group = typer.main.get_command(app)
    found = {}
    commands = dict(group.commands)  # type: ignore[attr-defined]
    commands |= {f"cache {name}": command for name, command in commands["cache"].commands.items()}
    for name, command in commands.items():
        names: set[str] = set()
        for parameter in command.params:
            names |= set(parameter.opts) | set(parameter.secondary_opts)
        found[name] = {option for option in names if option != "-h"} | (
            {"--help"} if command.add_help_option else set()
        )
    assert found == SURFACE


def test_the_version_is_said() -> None:
    done = mixc("--version")
    assert (done.returncode, done.stdout) == (0, f"mixc {version('mixc')}\n")


def test_a_wrong_command_or_option_is_the_users_mistake() -> None:
    for arguments in (["compil"], ["plan"], ["plan", "x.yaml", "--sett", "a=b"], ["compile", "specs/demo.yaml"]):
        done = mixc(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["diff", "verify", "inspect", "explain", "report", "sql"])
def test_something_that_is_no_build_is_said_plainly(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file", tmp_path / "none"):
        done = mixc(command, str(place), *{"diff": [str(place)], "explain": ["--sample", "0"]}.get(command, []))
        assert done.returncode == (1 if command == "verify" and place == tmp_path else 2), (
            place,
            done.stdout,
            done.stderr,
        )
        assert "Traceback" not in done.stderr


def test_schema_is_json_on_stdout_alone() -> None:
    done = mixc("schema")
    assert json.loads(done.stdout)["$defs"] and not done.stderr


def test_train_shows_its_own_flag_and_the_trainers() -> None:
    done = mixc("train", "--help")
    assert done.returncode == 0
    assert "--nproc" in done.stdout and "--resume" in done.stdout


def test_train_without_a_build_is_the_users_mistake(tmp_path: Path) -> None:
    done = mixc("train", str(tmp_path / "none"), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "none" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "started"),
    [
        ([], "-m runtime B --out 'a run'"),
        (["--nproc", "2"], "-m runtime.launch 2 B --out 'a run'"),
        (["--launcher", "torchrun", "--nproc", "2"], "--standalone -m runtime B --out 'a run'"),
        (["--launcher", "slurm", "--nodes", "2"], "srun --ntasks-per-node=1"),
    ],
)
def test_a_dry_run_of_train_prints_what_would_start(flags: list[str], started: str) -> None:
    done = mixc("train", "B", "--out", "a run", "--dry-run", *flags)
    assert (done.returncode, done.stderr) == (0, "") and started in done.stdout
    assert not (REPO / "a run").exists()


def test_a_launchers_mistake_is_the_users() -> None:
    done = mixc("train", "B", "--nproc", "none")
    assert done.returncode == 2 and "--nproc" in done.stderr and "Traceback" not in done.stderr
