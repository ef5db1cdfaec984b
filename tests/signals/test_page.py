"""docs/signals.md lists the signals that there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mixc.signals.names import table

REPO = Path(__file__).resolve().parents[2]


def test_the_page_has_the_list() -> None:
    assert table() in (REPO / "docs" / "signals.md").read_text()


def test_names_load_nothing_heavy() -> None:
    code = "import sys, mixc.signals.names; print(*{'numpy', 'pyarrow', 'PIL', 'pycld2', 'numba'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout.split() == []
