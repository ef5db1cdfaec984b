"""Every command in the README and the docs runs, in a copy of the project, in the order in which it is written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((REPO / "docs").glob("*.md")))]


def commands(page: str) -> list[str]:
    """The `$ ` lines of a page's console blocks."""
    blocks = re.findall(r"^```console\n(.*?)^```", (REPO / page).read_text(), re.M | re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    shutil.copytree(REPO / "specs", tmp_path / "specs")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "mixc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mixc "$@"\n')
    (tools / "mixc").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "MIXC_CACHE": str(tmp_path / "cache"),
        "DS_ACCELERATOR": "cpu",
    }
    makefile = (REPO / "Makefile").read_text()
    for command in commands(page):
        if target := re.match(r"make ([a-z]+)", command):  # sets up an environment: what CI does around this test
            assert re.search(rf"^{target[1]}:", makefile, re.M), command
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        expected = 1 if "exits with 1" in command else 0
        assert done.returncode == expected, f"$ {command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_the_site_builds_and_has_every_page(tmp_path: Path) -> None:
    """Every link and anchor of every page leads somewhere, and every page can be reached."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", str(REPO / "docs"), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (REPO / "docs").glob("*.md")}
    index = (tmp_path / "index.html").read_text()
    assert pages <= {path.stem for path in tmp_path.glob("*.html")}
    assert {page for page in pages - {"index"} if f'href="{page}.html"' not in index} == set()


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [*PAGES, "specs/demo/README.md", "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (REPO / page).read_text()):
            if "://" not in target and not ((REPO / page).parent / target).exists():
                broken.append(f"{page}: {target}")
    assert broken == []
