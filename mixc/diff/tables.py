"""What a terminal, Markdown and a page show of a difference, as rows of text. Pure. A table's first row is its head."""

from __future__ import annotations

from collections.abc import Iterator

from mixc.diff.difference import (
    QUANTILES,
    Difference,
    Move,
    Order,
    Point,
    SampleChange,
    SampleCounts,
    SideLabel,
)
from mixc.plan.tables import SourcePlan

Row = tuple[str, ...]


def about(label: SideLabel) -> str:
    """What a side is, behind its path."""
    root = f", root {label.root[:16]}" if label.root else ""
    planned = {"spec": ", planned now", "build": "", "lock": ", planned now" if label.planned else ""}[label.kind]
    return f"{label.kind} of {label.mixture}{root}{planned}"


def composition(d: Difference) -> list[Row]:
    """By stage and source, where it differs."""
    rows: list[Row] = [("stage", "source", "share wished", "share met", "tokens", "", "samples", "epochs")]
    for row in d.composition:
        a, b = row.a or NOTHING, row.b or NOTHING
        rows.append(
            (
                row.stage,
                row.source,
                pair(f"{a.wished:.2%}", f"{b.wished:.2%}"),
                pair(f"{a.met:.2%}", f"{b.met:.2%}"),
                count(a.tokens, b.tokens),
                f"{b.tokens - a.tokens:+,}",
                count(a.samples, b.samples),
                pair(f"{a.epochs:.2f}", f"{b.epochs:.2f}"),
            )
        )
    return rows


def signals(d: Difference) -> list[Row]:
    """The distributions that differ."""
    middle = [QUANTILES.index(part) for part in (0.05, 0.5, 0.95)]
    rows: list[Row] = [("source", "signal", "uses", "5 %", "median", "95 %", "mean")]
    for each in d.distributions:
        cells = [pair(f"{each.a.quantiles[n]:.4g}", f"{each.b.quantiles[n]:.4g}") for n in middle]
        mean = pair(f"{each.a.mean:.4g}", f"{each.b.mean:.4g}")
        rows.append((each.source, each.signal, count(each.a.count, each.b.count), *cells, mean))
    return rows


def steps(order: Order) -> list[Row]:
    """By stage, how many steps are the same."""
    rows: list[Row] = [("stage", "steps", "equal", "")]
    for name, stage in order.stages.items():
        rows.append((name, count(stage.steps_a, stage.steps_b), f"{stage.equal_steps:,}", f"{stage.equal_share:.1%}"))
    return rows


def selection(s: SampleCounts) -> list[Row]:
    """Samples added, removed and moved, by source, stages and rule."""
    rows: list[Row] = [("samples", "source", "in A", "in B", "by", "tokens")]
    for move in s.moves:
        rows.append(
            (
                f"{move.samples:,}",
                move.source,
                " + ".join(move.a) or "out",
                " + ".join(move.b) or "out",
                rules(move),
                f"{move.tokens:,}",
            )
        )
    return rows


def rules(move: Move) -> str:
    """Its rules, counted where they are not those of all of its samples."""
    return ", ".join(rule if count == move.samples else f"{rule} ({count:,})" for rule, count in move.rules.items())


def became(s: SampleCounts) -> str:
    """What became of the samples, in one line."""
    return (
        f"{s.added:,} added ({s.added_tokens:,} tokens), {s.removed:,} removed ({s.removed_tokens:,} tokens), {s.moved:,} moved between "
        f"stages, {s.more:,} repeated more often, {s.less:,} less often, {s.kept:,} as before"
    )


def example(kind: str, each: SampleChange) -> str:
    """One sample whose selection differs."""
    rule = each.rule_a if kind == "added" else each.rule_b
    detail = each.detail_a if kind == "added" else each.detail_b
    uses = " -> ".join(
        ", ".join(f"{use.stage} x{use.times}" if use.times > 1 else use.stage for use in uses) or "out"
        for uses in (each.uses_a, each.uses_b)
    )
    why = f"  {rule}" + (f": {detail}" if detail else "") if rule else ""
    if each.not_in_a or each.not_in_b:
        why = "  " + "; ".join(
            f"not in {found.stage} of {side}: {found.rule}"
            for side, rules in (("A", each.not_in_a), ("B", each.not_in_b))
            for found in rules
        )
    return f"{each.id}  {each.source}  {uses}{why}"


def continuation(order: Order) -> Iterator[str]:
    """From where in A's run B may go on, and how, a sentence a line. None when nothing differs."""
    found = order.continuation
    if found is None:
        return
    if found.data.steps:
        yield f"a run of A may go on as B from its checkpoints up to {_point(found.data)}: no sample is repeated"
        stage, step = found.data.stage, found.data.step
        if step == order.stages[stage].steps_a:
            yield f"how: `mixc train B --out RUN --init RUN_OF_A/{stage} --stages ...` with the stages of B that come after {stage}"
        else:
            yield (
                f"how: write `continue_from: {{build: A, stage: {stage}, step: {step}}}`, or the step of an earlier checkpoint, into B's"
                " spec, compile it, and `mixc train` that build with `--continue-from RUN_OF_A`"
            )
        yield 'docs/training.md has both, under "Another mix from the middle of a run"'
    else:
        yield "no checkpoint of A has trained only what B begins with"
    if found.training.steps != found.data.steps:
        where = f"up to {_point(found.training)}" if found.training.steps else "nowhere"
        yield f"learning rates and the rest are the same {where}"
    for each in found.overlap:
        if each.samples:
            yield (
                f"after stage {each.stage} of A, {each.repeated:,} of the {each.samples:,} samples that B goes on with "
                f"({each.repeated / each.samples:.1%}) are trained already"
            )


def pair(a: str, b: str) -> str:
    return a if a == b else f"{a} -> {b}"


def count(a: int, b: int) -> str:
    return pair(f"{a:,}", f"{b:,}")


def _point(point: Point) -> str:
    return f"step {point.step:,} of stage {point.stage}"


NOTHING = SourcePlan(
    wished=0.0,
    met=0.0,
    epochs=0.0,
    eligible=0,
    samples=0,
    tokens=0,
    supervised_tokens=0,
    images=0,
    tiles=0,
)
"""Of a source that has no part in a stage."""
