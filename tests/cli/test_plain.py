"""Plain values are converted without pydantic, to what typer makes of them; and one command is made without the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mixc.cli import plain
from mixc.cli.main import app

REPO = Path(__file__).resolve().parents[2]
VALUES = [
    *(
        None,
        "",
        "a",
        "é\n",
        "demo.yaml",
        str(REPO),
        "none/such",
        "7",
        "007",
        "-3",
        "+7",
        " 7",
        "7.0",
        "1_0",
        "0x1",
        "٣",
    ),
    *("999999999", "1" * 30, "true", "text", "TEXT", "1e-3", (), ("a=b", "c"), ["a"], ("7", 7), 7, 0, 1.5, True),
]


def params() -> list[tuple[typer.Context, Any]]:
    group = typer.main.get_command(app)
    found = []
    for command in [group, *group.commands.values(), *group.commands["cache"].commands.values()]:  # type: ignore[attr-defined]
        context: Any = typer.Context(command, info_name="mixc", resilient_parsing=True)
        found += [(context, param) for param in command.get_params(context)]
    return found


def outcome(process: Any, context: typer.Context, value: Any) -> tuple[object, ...]:
    try:
        made = process(context, value)
    except (typer.Exit, typer.BadParameter, TypeError) as error:
        return type(error), str(error)
    return type(made), made


def test_every_value_becomes_what_typer_makes_of_it() -> None:
    plainly = 0
    for context, param in params():
        assert "process_value" in vars(param), param.name
        if param.callback is not None and param.name != "version":
            continue  # those that install completion
        for value in VALUES:
            typers = outcome(lambda ctx, value: type(param).process_value(param, ctx, value), context, value)  # noqa: B023
            assert outcome(param.process_value, context, value) == typers, (param.name, value)
            plainly += plain._plain(param, value) is not plain._OTHER
    assert plainly > 500


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of POSIX")
def test_a_path_that_may_not_be_read_is_left_to_typer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.yaml").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    done = CliRunner().invoke(app, ["check", str(tmp_path / "spec.yaml")])
    assert done.exit_code == 2
    assert "is not readable" in " ".join(done.output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "none.yaml", "--set", "seed=1"],
        ["plan", "none.yaml", "-j", "2", "--json"],
        ["diff", "none.yaml", "nothing.yaml", "-o", "diff.txt"],
        ["cache", "prune", "--older-than", "never"],
    ],
)
def test_no_command_loads_pydantic_for_plain_values(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "from mixc.cli.main import main\n"
        "try: main()\nfinally: print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.split() == ["False"]


def test_the_command_asked_for_is_made_alone() -> None:
    group: Any = typer.main.get_command(app.only("diff"))
    assert list(group.commands) == ["diff"]
    group = typer.main.get_command(app.only("cache"))
    assert list(group.commands) == ["cache"]
    assert app.only("dif") is app
    assert app.only("") is app


@pytest.mark.parametrize("name", ["diff", "compile", "cache"])
def test_it_is_told_of_as_among_the_others(name: str) -> None:
    alone, among = (CliRunner().invoke(made, [name, "--help"]) for made in (app.only(name), app))
    assert alone.exit_code == 0
    assert alone.output == among.output
