"""All that `mixc doctor` looks at: this machine, the compiler's libraries, and the trainer, which is another program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mixc.doctor.finding import Finding
from mixc.doctor.machine import machine
from mixc.doctor.packages import packages
from shards.cache_folder import cache_folder

PATIENCE = 300
"""Seconds. Importing torch from a cold network disk takes a minute; a driver that hangs takes for ever."""


def examine() -> Iterator[Finding]:
    """Every finding, as soon as it is made."""
    yield from packages()
    yield from machine()
    yield tokenizer()
    yield from trainer()


def tokenizer() -> Finding:
    """Which tokenizer a compile would run."""
    try:
        from mixc.measure import parity
        from mixc.measure.tokenizer import load_tokenizer

        cache = cache_folder()
        loaded = load_tokenizer("qwen2.5", base=Path.cwd(), cache=cache)
        difference = "" if loaded.fast else parity.decide(loaded, cache).difference
    except Exception as error:
        return Finding(
            state="note",
            what="the tokenizer does not load: nothing can be compiled here",
            why=str(error).partition("\n")[0],
            mend="see the packages above, and MIXC_CACHE",
        )
    if loaded.fast:
        return Finding(state="ok", what="the fast tokenizer gives the ids of the reference")
    return Finding(state="note", what="the reference tokenizer runs, some fifty times slower", why=difference)


def trainer() -> list[Finding]:
    """What runtime/doctor.py finds, or why it could not say."""
    program = [sys.executable, "-m", "runtime.doctor"]
    try:
        done = subprocess.run(program, capture_output=True, timeout=PATIENCE)
        return msgspec.json.decode(done.stdout, type=list[Finding])
    except subprocess.TimeoutExpired:
        why = f"it has not answered for {PATIENCE} s"
    except msgspec.MsgspecError:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        why = f"it left with {how}" + (f": {lines[-1]}" if lines else "")
    return [
        Finding(
            state="problem",
            what="the trainer's libraries cannot be looked at",
            why=why,
            mend="python -m runtime.doctor",
        )
    ]
