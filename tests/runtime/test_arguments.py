"""The command line: its flags, and what it says of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.arguments import Arguments, parse, parser
from runtime.errors import ArgumentError


def test_defaults():
    assert parse(["B", "--out", "R"]) == Arguments(build=Path("B"), out=Path("R"))


def test_all_flags():
    given = parse(
        [
            "B",
            "--out",
            "R",
            "--stages",
            "a,b",
            "--max-steps",
            "9",
            "--resume",
            "--zero",
            "3",
            "--precision",
            "bf16",
            "--offload",
            "--micro-batch",
            "4",
            "--workers",
            "0",
            "--save-every",
            "5",
            "--keep",
            "1",
            "--init",
            "W",
            "--log-every",
            "10",
            "--peak-tflops",
            "61.5",
            "--tensorboard",
            "--compile",
            "--eval",
            "E",
            "--eval-questions",
            "R/questions/Q",
            "--eval-every",
            "7",
        ]
    )
    assert given == Arguments(
        build=Path("B"),
        out=Path("R"),
        stages=("a", "b"),
        max_steps=9,
        resume=True,
        zero=3,
        precision="bf16",
        offload=True,
        micro_batch=4,
        workers=0,
        save_every=5,
        keep=1,
        init=Path("W"),
        log_every=10,
        peak_tflops=61.5,
        tensorboard=True,
        compile=True,
        evaluate=Path("E"),
        questions=Path("R/questions/Q"),
        evaluate_every=7,
    )


def test_no_flag_is_added_without_thought():
    """Settings of training belong to the spec; a flag here is a matter of paths or of the machine."""
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    assert flags == {
        "-h",
        "--help",
        "--out",
        "--stages",
        "--max-steps",
        "--resume",
        "--zero",
        "--precision",
        "--offload",
        "--no-offload",
        "--micro-batch",
        "--workers",
        "--save-every",
        "--keep",
        "--init",
        "--init-vision",
        "--recompute",
        "--compile",
        "--init-language",
        "--continue-from",
        "--log-every",
        "--peak-tflops",
        "--tensorboard",
        "--eval",
        "--no-eval",
        "--eval-questions",
        "--no-eval-questions",
        "--eval-every",
    }


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ([], "required: BUILD, --out"),
        (["B", "--out", "R", "--zero", "4"], "--zero"),
        (["B", "--out", "R", "--save-every", "0"], "--save-every: must be at least 1, got 0"),
        (["B", "--out", "R", "--workers", "two"], "'two' is not a whole number"),
        (["B", "--out", "R", "--stages", ","], "names no stage"),
        (["B", "--out", "R", "--peak-tflops", "0"], "--peak-tflops: must be above 0, got 0"),
        (["B", "--out", "R", "--peak-tflops", "nan"], "--peak-tflops: must be above 0, got nan"),
        (["B", "--out", "R", "--peak-tflops", "fast"], "'fast' is not a number"),
        (["B", "--out", "R", "--resum"], "unrecognized arguments: --resum"),
    ],
)
def test_mistakes(argv, what):
    with pytest.raises(ArgumentError) as caught:
        parse(argv)
    assert what in str(caught.value)
    assert "--help" in caught.value.mend


def test_a_mistake_in_the_flags_names_the_program_once(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: mixc train: the following arguments are required: --out\n  mend: see `mixc train --help`\n"
    )


def test_a_missing_build_is_said_without_a_traceback(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and str(tmp_path / "manifest.json") in said and "not a build" in said
    assert not (tmp_path / "run").exists()
