"""`mixc doctor`: what will run here, and why."""

from __future__ import annotations

import typer

from mixc.cli.build import JsonOption
from shards.counted import counted


def doctor(json: JsonOption = False) -> None:
    """Say what will run on this machine, and why. Exits with 1 when something would stop training."""
    from mixc.cli.console import print_json
    from mixc.doctor.run import examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not json:
            print(finding, flush=True)
    problems = sum(finding.state == "problem" for finding in findings)
    if json:
        print_json({"ok": not problems, "findings": findings})
    elif problems:
        print(f"{counted(problems, 'problem')} would stop training")
    raise typer.Exit(1 if problems else 0)
