"""A difference as a person reads it: the cause first, then its effects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mixc.diff.run import Difference
from mixc.diff.values import Change


def lines(difference: Difference) -> Iterator[str]:
    """The difference as lines of text."""
    d = difference
    for side, label in (("A", d.a), ("B", d.b)):
        yield f"{side}  {label.path}" + (f"  root {label.root[:16]}" if label.root else "  (planned)")
    if d.equal:
        yield "equal: a training run sees the same in both"
        if d.spec:
            yield from _section("spec (changes nothing that is trained)", map(_change, d.spec))
        return
    yield from _section("spec", map(_change, d.spec))
    told = {change.path for change in d.spec}
    yield from _section("settings", (_change(c) for c in d.settings if c.path not in told))
    yield from _section("sources", _sources(d))
    yield from _section("samples", _samples(d))
    yield from _section("composition", _composition(d))
    yield from _section("order", _order(d))


def _section(title: str, body: Any) -> Iterator[str]:
    found = list(body)
    if found:
        yield ""
        yield title
        yield from (f"  {line}" for line in found)


def _change(change: Change) -> str:
    if change.a is None:
        return f"{change.path}: + {_value(change.b)}"
    if change.b is None:
        return f"{change.path}: - {_value(change.a)}"
    return f"{change.path}: {_value(change.a)} -> {_value(change.b)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _sources(d: Difference) -> Iterator[str]:
    for name, change in d.sources.items():
        yield f"{name}: {change.samples_a:,} -> {change.samples_b:,} samples, {change.kept} fragments kept"
        yield from (f"  - {path}" for path in change.removed)
        yield from (f"  + {path}" for path in change.added)


def _samples(d: Difference) -> Iterator[str]:
    s = d.samples
    yield f"+ {s.added:,} added ({s.added_tokens:,} tokens)"
    yield from _rules(s.added_by_rule, "was out by")
    yield f"- {s.removed:,} removed ({s.removed_tokens:,} tokens)"
    yield from _rules(s.removed_by_rule, "now out by")
    yield f"  {s.moved:,} moved between stages, {s.repeated:,} repeated more or less often"


def _rules(rules: dict[str, dict[str, int]], words: str) -> Iterator[str]:
    for source, counts in sorted(rules.items()):
        for rule, count in sorted(counts.items()):
            yield f"    {source}: {count:,} {words} {rule}"


def _composition(d: Difference) -> Iterator[str]:
    for row in d.composition:
        met_a, met_b = (side.met if side else 0.0 for side in (row.a, row.b))
        tokens_a, tokens_b = (side.tokens if side else 0 for side in (row.a, row.b))
        samples_a, samples_b = (side.samples if side else 0 for side in (row.a, row.b))
        yield (
            f"{row.stage} / {row.source}: share {met_a:.2%} -> {met_b:.2%}, "
            f"tokens {tokens_a:,} -> {tokens_b:,} ({tokens_b - tokens_a:+,}), samples {samples_a:,} -> {samples_b:,}"
        )


def _order(d: Difference) -> Iterator[str]:
    first = d.order.first_difference
    if first:
        yield f"first difference: stage {first.stage}, step {first.step}, pack {first.pack}"
    for name, stage in d.order.stages.items():
        steps = (
            f"{stage.steps_a} steps" if stage.steps_a == stage.steps_b else f"{stage.steps_a} -> {stage.steps_b} steps"
        )
        yield f"{name}: {steps}, {stage.equal_steps} equal"
