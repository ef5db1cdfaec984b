"""What stands at a place where something else was looked for, and the command that takes it."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from shards.layout import MANIFEST

RUN = "run.json"
"""In the folder of a training run."""
_WEIGHTS = "config.json"
_SPECS = {".yaml", ".yml"}
LOCK = ".lock"
"""Suffix of the file that pins a spec."""


class _Run(msgspec.Struct):
    """What is asked of run.json."""

    root: str = ""


def recognise(place: Path) -> str:
    """`this is a run, ...`; empty where nothing is known about what stands there. Raises nothing."""
    name = shlex.quote(str(place))
    try:
        if (place / RUN).is_file():
            root = _root(place / RUN)
            whose = f", trained from the build of root {root[:16]}" if root else ""
            return f"this is a run{whose}: `mixc chat {name}` asks what it has learnt"
        if (place / MANIFEST).is_file():
            return f"this is a build: `mixc train {name} --out RUN` trains from it, `mixc report {name}` shows it"
        if (place / _WEIGHTS).is_file():
            return f"these are a model's weights: `mixc chat {name}` asks them"
        if place.is_file() and place.suffix in _SPECS:
            return f"this is a spec: `mixc compile {name} -o BUILD` makes a build of it"
        if place.is_file() and place.suffix == LOCK:
            return "this is a lock: `mixc compile SPEC -o BUILD --locked` builds what it pins"
    except OSError:
        pass
    return ""


def _root(path: Path) -> str:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Run).root
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ""
