"""Keep pyarrow from importing pandas at its first conversion, where pandas is installed: a quarter of a second a process, for
a check whether a value is a Series, which none of ours is."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pyarrow as pa


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def decide_without_pandas() -> None:
    """Let pyarrow find, once and for this process, that there is no pandas, unless it is imported already. `to_pandas` looks
    for it again, and anybody may import it."""
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
