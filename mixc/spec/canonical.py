"""One form for all ways of writing the same spec: what the lock pins and the diff compares.

Defaults are filled, `extends` is gone, each quantity is an exact number with its unit, each mix is in its
long form, and what has no order is sorted. Stages keep theirs. Paths stay as they are written, relative to
the spec, so the form does not depend on where the spec lies; what they hold is pinned by the fragments'
digests, not here. What a default depends on outside the spec (a column's name by file format, the prompt
by kind, tiles by model) stays null.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mixc.spec.check import mix_entries
from mixc.spec.quantity import Budget, format_warmup, parse_budget, parse_count, parse_warmup
from mixc.spec.schema import MixEntry, Order, Source, Spec, Stage


def canonical(spec: Spec) -> dict[str, Any]:
    """The canonical form: dicts, lists, strings, numbers, booleans and None, keys sorted. `spec` has passed
    `check`; raises SpecError for a quantity that would not have."""
    form = msgspec.to_builtins(spec)
    del form["extends"]
    form["sources"] = {name: _source(source) for name, source in spec.sources.items()}
    form["stages"] = [_stage(stage) for stage in spec.stages]
    return _sorted(form)  # type: ignore[no-any-return]


def canonical_bytes(spec: Spec) -> bytes:
    """The canonical form as JSON: UTF-8, keys sorted, no white space, floats as short as they read back."""
    return msgspec.json.encode(canonical(spec), order="sorted")


def _source(source: Source) -> dict[str, Any]:
    form: dict[str, Any] = msgspec.to_builtins(source)
    form["path"] = sorted([source.path] if isinstance(source.path, str) else source.path)
    form["where"] = _expression(source.where)
    form["too_long"] = source.too_long or ("split" if source.kind == "text" else "drop")
    return form


def _stage(stage: Stage) -> dict[str, Any]:
    form: dict[str, Any] = msgspec.to_builtins(stage)
    budget = parse_budget(stage.budget, stage.unit)
    form["budget"] = str(budget)
    form["mix"] = {name: _entry(entry, budget) for name, entry in mix_entries(stage.mix).items()}
    order = stage.order if isinstance(stage.order, Order) else Order()
    form["order"] = {
        "by": _expression(order.by),
        "direction": order.direction,
        "window": parse_count(order.window),
    }
    form["train"]["warmup"] = format_warmup(parse_warmup(stage.train.warmup))
    form["train"]["betas"] = list(stage.train.betas)
    return form


def _entry(entry: MixEntry, budget: Budget) -> dict[str, Any]:
    form: dict[str, Any] = msgspec.to_builtins(entry)
    form["where"] = _expression(entry.where)
    if entry.max_epochs is None:
        form["max_epochs"] = max(1.0, float(budget.amount)) if budget.unit == "epochs" else 1.0
    return form


def _expression(text: str | None) -> str | None:
    """Without the line breaks that a block scalar may add at its ends."""
    return None if text is None else text.strip()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value
