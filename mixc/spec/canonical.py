"""One form for all ways of writing the same spec: what the lock pins and the diff compares.

Defaults are filled, `extends` is gone, each quantity is an exact number with its unit, each mix is in its
long form, and what has no order is sorted. Stages keep theirs. Paths stay as they are written, relative to
the spec, so the form does not depend on where the spec lies; what they hold is pinned by the fragments'
digests, not here. What a default depends on outside the spec (a column's name by file format, the prompt
by kind, tiles by model) stays null. `evidence` is gone too: it changes nothing.

Keys that the language was given later stand in the form only where they say something (`_LATER`), so that the
forms of specs without them, which locks pin, stay what they were.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from mixc.spec.check import mix_entries
from mixc.spec.quantity import (
    Budget,
    format_held_out,
    format_warmup,
    parse_budget,
    parse_count,
    parse_held_out,
    parse_warmup,
)
from mixc.spec.schema import Dedup, MixEntry, Order, Signal, Source, Spec, Stage, Train

_LATER: dict[type[msgspec.Struct], tuple[str, ...]] = {
    Spec: ("groups", "signals", "decontaminate", "held_out", "continue_from"),
    Source: ("columns", "messages_format", "frames", "max_frames", "number_images", "decode_images", "template"),
    Stage: ("mix_end", "mix_schedule", "temperature", "reuse"),
    MixEntry: ("quantile", "balance", "held_out"),
    Dedup: ("minhash", "image", "prefer"),
    Train: (
        *("decay", "layer_decay", "label_smoothing", "z_loss", "router_loss", "drop_path", "ema", "spikes", "adalrs"),
    ),
}
"""By struct: keys that are left out where they have their default."""


def canonical(spec: Spec) -> dict[str, Any]:
    """The canonical form: dicts, lists, strings, numbers, booleans and None, keys sorted. `spec` has passed
    `check`; raises SpecError for a quantity that would not have."""
    form = _filled(spec)
    del form["extends"]
    form["dedup"] = _filled(spec.dedup)
    form["sources"] = {name: _source(source) for name, source in spec.sources.items()}
    form["stages"] = [_stage(stage) for stage in spec.stages]
    if spec.groups:
        form["groups"] = {
            name: sorted(members) if isinstance(members, list) else members for name, members in spec.groups.items()
        }
    if spec.signals:
        signals = [Signal(name=each) if isinstance(each, str) else each for each in spec.signals]
        form["signals"] = [msgspec.to_builtins(each) for each in sorted(signals, key=lambda signal: signal.name)]
    if spec.decontaminate is not None:
        form["decontaminate"]["against"] = _paths(spec.decontaminate.against)
    if spec.held_out:
        form["held_out"] = {name: format_held_out(parse_held_out(each)) for name, each in spec.held_out.items()}
    return _sorted(form)  # type: ignore[no-any-return]


def canonical_bytes(spec: Spec) -> bytes:
    """The canonical form as JSON: UTF-8, keys sorted, no white space, floats as short as they read back."""
    return msgspec.json.encode(canonical(spec), order="sorted")


def _filled(struct: msgspec.Struct) -> dict[str, Any]:
    """Every key with its value or default, but none that is for people or that came later and says nothing."""
    form: dict[str, Any] = msgspec.to_builtins(struct)
    form.pop("evidence", None)
    for name, default in _later(type(struct)).items():
        if getattr(struct, name) == default:
            del form[name]
    return form


@cache
def _later(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The keys that came later, with their defaults."""
    later = _LATER.get(struct, ())
    return {each.name: _default(each) for each in msgspec.structs.fields(struct) if each.name in later}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _paths(paths: str | list[str]) -> list[str]:
    return sorted([paths] if isinstance(paths, str) else paths)


def _source(source: Source) -> dict[str, Any]:
    form = _filled(source)
    form["path"] = _paths(source.path)
    form["where"] = _expression(source.where)
    form["too_long"] = source.too_long or ("split" if source.kind == "text" else "drop")
    return form


def _stage(stage: Stage) -> dict[str, Any]:
    form = _filled(stage)
    budget = parse_budget(stage.budget, stage.unit)
    form["budget"] = str(budget)
    form["mix"] = {name: _entry(entry, budget) for name, entry in mix_entries(stage.mix).items()}
    order = stage.order if isinstance(stage.order, Order) else Order()
    form["order"] = {
        "by": _expression(order.by),
        "direction": order.direction,
        "window": parse_count(order.window),
    }
    if order.steps != "mixed":
        form["order"]["steps"] = order.steps
    form["train"] = _filled(stage.train)
    form["train"]["warmup"] = format_warmup(parse_warmup(stage.train.warmup))
    if stage.train.schedule == "wsd":
        form["train"]["decay"] = format_warmup(parse_warmup(stage.train.decay, "a decay"))
    else:
        form["train"].pop("decay", None)  # says nothing there
    if stage.train.adalrs is not None:
        form["train"]["adalrs"] |= {
            key: format_warmup(parse_warmup(getattr(stage.train.adalrs, key), "a point")) for key in ("start", "end")
        }
    form["train"]["betas"] = list(stage.train.betas)
    return form


def _entry(entry: MixEntry, budget: Budget) -> dict[str, Any]:
    form = _filled(entry)
    form["where"] = _expression(entry.where)
    for key, given in (("quantile", entry.quantile), ("balance", entry.balance)):
        if given is not None:
            form[key]["by"] = _expression(given.by)
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
