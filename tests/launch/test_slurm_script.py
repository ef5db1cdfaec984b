"""The batch script, without a Slurm: bash must read it, and read every path as it was meant. What Slurm makes of it is in
tests/runtime/test_slurm.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mixc.errors import MixcError
from mixc.launch.flags import take
from mixc.launch.slurm import script, seconds, submit

HOSTILE = ["a b", "it's", 'say "x"', "$(touch pwned)", "`id`", "50%", "#1", "-n", "é", "*", "a;b|c&d", "~"]


def made(*arguments: str) -> str:
    return script(*take(["--launcher", "slurm", *arguments]))


def tools(folder: Path, **programs: str) -> dict[str, str]:
    """An environment in which these programs are found first."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_paths_reach_the_trainer_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run by a bash that has an srun, which tells what it was given."""
    here = tmp_path / name
    here.mkdir()
    monkeypatch.chdir(here)
    (here / name).mkdir()
    text = made(name, f"--out={name}", "--init", f"{name}/init", "--nodes", "2", "--nproc", "3")
    environment = tools(
        tmp_path / "bin",
        srun=r"""printf '%s\n' "$PWD" "$MASTER_ADDR $MASTER_PORT $MIXC_PLACE ${RANK-none}" "$@" > "$SAID" """,
        scontrol="printf 'n1\\nn2\\n'",
    )
    said = tmp_path / "said"
    environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SAID": str(said), "RANK": "5"}
    done = subprocess.run(["bash"], input=text, text=True, env=environment, cwd="/", capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    lines = said.read_text().splitlines()
    assert lines[:2] == [str(here), "n1 10007 slurm none"]
    assert lines[lines.index("runtime") + 1 :] == [name, f"--out={name}", "--init", f"{name}/init"]
    assert not list(tmp_path.rglob("pwned"))


def test_what_is_asked_of_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    asked = [
        *("--nodes", "4", "--nproc", "8", "--time", "1-0", "--partition", "gpu", "--account", "a", "--qos", "q"),
        *("--job-name", "my job", "--cpus-per-task", "12", "--sbatch=--mem=0", "--sbatch=--constraint=a100"),
    ]
    text = made("B", "--out", "R", *asked)
    assert [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")] == [
        '"--job-name=my job"',
        "--nodes=4",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--cpus-per-task=12",
        "--time=1-0",
        "--partition=gpu",
        "--account=a",
        "--qos=q",
        "--signal=B:USR1@300",
        "--requeue",
        "--open-mode=append",
        "--export=ALL",
        f"--output={tmp_path}/R/slurm-%j.out",
        "--mem=0",
        "--constraint=a100",
    ]
    assert "B --out R ${SLURM_RESTART_COUNT:+--resume} &" in text
    assert "SLURM_RESTART_COUNT" not in made("B", "--out", "R", "--resume")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert "gpus" not in made("B", "--out", "R", "--nproc", "2")
    assert "--gpus-per-node=4" in made("B", "--out", "R", "--nproc", "2", "--gpus-per-node", "4")


def test_time_limits() -> None:
    asked = ("5", "5:30", "1:00:00", "2-0", "1-2:3", "1-2:3:4")
    assert [seconds(text) for text in asked] == [300, 330, 3600, 172800, 93780, 93784]
    for wrong, said in (("6", "as it begins: it has 360 s, less 300 s"), ("1h", "not a time limit: '1h'")):
        with pytest.raises(MixcError, match=said):
            made("B", "--out", "R", "--time", wrong)
    assert "--time=7" in made("B", "--out", "R", "--time", "7")


def test_a_folder_that_slurm_cannot_name() -> None:
    for out in ("a\\b", "a\nb"):
        with pytest.raises(MixcError, match="Slurm cannot write"):
            made("B", "--out", out)
    with pytest.raises(MixcError, match="no folder"):
        made("B")


def test_what_sbatch_says_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = take(["B", "--out", "R", "--launcher", "slurm"])
    monkeypatch.setenv("PATH", tools(tmp_path / "no", sbatch="echo no such partition >&2; exit 1")["PATH"])
    with pytest.raises(MixcError, match="does not take the job") as caught:
        submit(*asked)
    assert "no such partition" in str(caught.value)
    monkeypatch.setenv("PATH", tools(tmp_path / "yes", sbatch="cat > script; echo '12;cluster'")["PATH"])
    assert submit(*asked) == "12"
    assert (tmp_path / "script").read_text() == script(*asked) and (tmp_path / "R").is_dir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MixcError, match="cannot be started"):
        submit(*asked)
