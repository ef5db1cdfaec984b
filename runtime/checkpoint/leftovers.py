"""What a killed run has left half-written: every name that was never published."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

_PARTIAL = re.compile(r"\.(?P<name>.+?)(-\d{8,})?(\.[0-9a-f]{16})?\.partial")
"""Of weights (`.<stage>.partial`), of a checkpoint (`.<stage>-<step>.partial`), of a file (shards/atomic.py)."""


def sweep(folders: Iterable[Path], names: Iterable[str]) -> None:
    """Remove from `folders` what is half-written of the stages and files called `names`; nothing else, and none of what others
    keep there. In the process that has the run's lock, before it goes on: what is there then nobody writes any more."""
    ours = set(names)
    for folder in folders:
        for path in sorted(folder.glob(".*.partial")):
            found = _PARTIAL.fullmatch(path.name)
            if found is None or found["name"] not in ours:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
