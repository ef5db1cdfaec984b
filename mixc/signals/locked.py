"""Computed signals of a lock or a build, found again in the cache. Nothing is computed: what the cache has lost is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from mixc.errors import SpecError
from mixc.signals.job import Wanted
from mixc.signals.names import SIGNALS
from mixc.signals.run import wanted_signals
from mixc.signals.store import VALUES, is_whole, signal_path
from mixc.spec.schema import Spec

_BENCHMARK = ", benchmark "


def pinned(wanted: Iterable[Wanted], pins: Mapping[str, str]) -> list[Wanted]:
    """In the versions that a lock pins, and with its benchmark, whatever this mixc's are; where it pins none, as they are."""
    found = []
    for signal in wanted:
        pin = pins.get(signal.name, signal.version)
        version, _, benchmark = pin.partition(_BENCHMARK) if signal.name == "contaminated" else (pin, "", "")
        found.append(msgspec.structs.replace(signal, version=version, benchmark=benchmark or signal.benchmark))
    return found


def locked_signals(spec: Spec, pins: Mapping[str, str]) -> list[Wanted]:
    """What the lock's spec asks for; nothing where this mixc does not know a signal of it."""
    try:
        return pinned(wanted_signals(spec, benchmark=None), pins)
    except SpecError:
        return []


def found_signals(cache: Path, object: str, wanted: Iterable[Wanted]) -> dict[str, Path]:
    """The Parquet file of each signal that the cache holds of an object, by name."""
    places = {signal.name: signal_path(cache, signal.key(object)) for signal in wanted}
    return {name: place / VALUES for name, place in places.items() if is_whole(place)}


def asked_signals(spec: Spec) -> set[str]:
    """Names that expressions of the spec use for a computed signal, whatever columns there are."""
    return {each if isinstance(each, str) else each.name for each in spec.signals}


def is_number(name: str) -> bool:
    """Whether a signal may be a number: of one of the user's own nobody knows before it is read."""
    return name not in SIGNALS or SIGNALS[name].type in ("int64", "double")
