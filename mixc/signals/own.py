"""Signals of a user's own: a function `package.module:name`, called with a Batch."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixc.errors import BuildError, SpecError
from mixc.signals.batch import Batch

_SCALARS = (bool, int, float, str)


def load_function(place: str, base: Path) -> Callable[[Batch], Any]:
    """The function at `place`, from a module in the spec's folder `base` or else of the environment.

    Raises SpecError when there is none.
    """
    name, _, attribute = place.partition(":")
    try:
        found = getattr(_module(name, base), attribute)
    except Exception as error:  # importing runs the user's code
        raise SpecError(
            f"the signal's function `{place}` cannot be loaded",
            where="signals",
            why=f"{type(error).__name__}: {error}",
            mend=f"see that `{name}` is in {base} or installed, and defines `{attribute}`",
        ) from error
    if not callable(found):
        raise SpecError(f"`{place}` is no function", where="signals", why=f"it is {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _module(name: str, base: Path) -> Any:
    """Import from `base` first. It stays on the path, last, for what the module imports later."""
    top = name.partition(".")[0]
    base = base.resolve()
    local = (base / top).is_dir() or (base / f"{top}.py").is_file()
    if not local:
        return importlib.import_module(name)
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is None or not Path(loaded).resolve().is_relative_to(base):  # one of the same name, as of another spec
        for other in [module for module in sys.modules if module == top or module.startswith(f"{top}.")]:
            del sys.modules[other]
    importlib.invalidate_caches()
    sys.path.insert(0, str(base))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(base))
        if str(base) not in sys.path:
            sys.path.append(str(base))


def call(function: Callable[[Batch], Any], batch: Batch, *, signal: str, path: str) -> pa.Array:
    """Its values of a batch: bool, int64, float64, string or null. A NaN is NULL.

    Raises BuildError, naming signal, file and row, when the function raises or gives what is no value for each sample.
    """
    try:
        values = function(batch)
    except Exception as error:
        raise _failed(function, batch, error, signal=signal, path=path) from error
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise _wrong(signal, path, batch.rows, f"it gave {type(values).__name__}, not a list or an array")
    if len(values) != len(batch):
        raise _wrong(signal, path, batch.rows, f"it gave {len(values)} values for {len(batch)} samples")
    plain = [_plain(value) for value in values]
    for row, value in zip(batch.rows, plain, strict=True):
        if value is not None and type(value) not in _SCALARS:
            raise _wrong(signal, path, [row], f"a value is {type(value).__name__}, not a number, text, bool or None")
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            raise _wrong(signal, path, [row], "a whole number is beyond 64 bits")
    kinds = {type(value) for value in plain if value is not None}
    if kinds == {int, float}:
        plain = [float(value) if type(value) is int and abs(value) <= 1 << 53 else value for value in plain]
        kinds = {type(value) for value in plain if value is not None}
    if len(kinds) > 1:
        named = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise _wrong(signal, path, batch.rows, f"its values are of several types: {named}")
    try:
        return pa.array(plain)
    except (pa.ArrowException, UnicodeError) as error:
        raise _wrong(signal, path, batch.rows, str(error)) from error


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's own; NaN as None."""
    if type(value) not in _SCALARS and hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _failed(function: Callable[[Batch], Any], batch: Batch, error: Exception, *, signal: str, path: str) -> BuildError:
    """Names the first sample with which the function fails alone."""
    for i, row in enumerate(batch.rows):
        one = replace(
            batch,
            texts=[batch.texts[i]],
            turns=[batch.turns[i]],
            images=[batch.images[i]],
            columns=[batch.columns[i]],
            rows=[row],
        )
        try:
            function(one)
        except Exception as alone:
            return _wrong(signal, path, [row], f"{type(alone).__name__}: {alone}")
    return _wrong(signal, path, batch.rows, f"{type(error).__name__}: {error}")


def _wrong(signal: str, path: str, rows: Sequence[int], why: str) -> BuildError:
    place = f"row {rows[0]}" if len(rows) == 1 else f"rows {rows[0]} to {rows[-1]}"
    return BuildError(
        f"the function of the signal `{signal}` failed",
        where=f"{path}, {place}",
        why=why,
        mend="mend the function; docs/signals.md says what it is given and what it must give",
    )
