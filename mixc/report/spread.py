"""How signals are spread over what a build trains on, and over what it leaves out: the numbers that its spec's expressions name."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixc.diff.side import open_side
from mixc.diff.signals import lost_signals, named_signals, not_cached, signal_values

BINS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One signal of one source."""

    source: str
    signal: str
    low: float
    high: float
    """Least and largest value of both."""
    used: list[int]
    """Uses in BINS bins of equal width from `low` to `high`."""
    dropped: list[int]
    """Samples that no stage uses, likewise."""


def spreads(build: Path) -> tuple[list[Spread], str]:
    """By source and signal; and why some cannot be told, empty when all are: a build does not hold signals, the cache does that it
    was made with."""
    with (
        tempfile.TemporaryDirectory(prefix="mixc-report-") as scratch,
        open_side(str(build), Path(scratch), workers=1) as side,
    ):
        named = {source: sorted(names) for source, names in sorted(named_signals(side).items()) if names}
        gone = [source for source in named if any(each.object is None for each in side.of_source(source))]
        wanted = {source: names for source, names in named.items() if source not in gone}
        lost = lost_signals(side, wanted)
        used = signal_values(side, wanted)
        dropped = signal_values(side, wanted, dropped=True)
    found = []
    for source, signal in sorted(used.keys() | dropped.keys()):
        values = [side.get((source, signal), np.empty(0)) for side in (used, dropped)]
        ends = [float(end) for each in values if len(each) for end in (each[0], each[-1])]
        if not ends:
            continue
        low, high = min(ends), max(ends)
        bins = [np.histogram(each, bins=BINS, range=(low, high))[0].tolist() for each in values]
        found.append(Spread(source=source, signal=signal, low=low, high=high, used=bins[0], dropped=bins[1]))
    why = not_cached(gone, lost)
    return found, f"{why[0].upper()}{why[1:]}." if why else ""
