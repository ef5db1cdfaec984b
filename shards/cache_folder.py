"""Where all that can be had again is kept: what the compiler has measured (mixc/cache), and blocks of builds (blocks.py)."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`MIXC_CACHE`, or `mixc` in the user's cache folder. Safe to delete."""
    if set_by_user := os.environ.get("MIXC_CACHE"):
        return Path(set_by_user)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixc"
