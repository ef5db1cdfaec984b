"""A difference as a person reads it: the causes first, then their effects. Plain lines; a terminal gets them in colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mixc.diff.difference import (
    QUANTILES,
    Cause,
    Continuation,
    Difference,
    Move,
    Order,
    Point,
    SampleChange,
    SampleCounts,
    SideLabel,
    SourceChange,
)
from mixc.plan.tables import SourcePlan

Mark = Literal["", "heading", "good", "added", "removed", "changed", "dim"]
MOVES, EXAMPLES, PATHS = 12, 6, 10
"""Lines of a kind that are shown; JSON has all."""


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    mark: Mark = ""


STYLES = {
    "": "",
    "heading": "bold",
    "good": "bold green",
    "added": "green",
    "removed": "red",
    "changed": "yellow",
    "dim": "dim",
}
"""Of a terminal, by mark."""


def show(difference: Difference) -> None:
    """Print it: in colour on a terminal, plain where it is read by a program or kept in a file."""
    import sys

    if not sys.stdout.isatty():
        print(*(line.text for line in lines(difference)), sep="\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines(difference):
        console.print(Text(line.text, STYLES[line.mark]))


def lines(difference: Difference) -> Iterator[Line]:
    """The difference line by line."""
    d = difference
    wide = max(len(d.a.path), len(d.b.path))
    for side, label in (("A", d.a), ("B", d.b)):
        yield Line(f"{side}  {label.path:{wide}}  {_about(label)}")
    if d.equal:
        yield Line("")
        yield Line("equal: a training run sees the same in both", "good")
    yield from _causes("causes", d.causes, "changed")
    yield from _causes("may have a part in it", d.possible, "")
    yield from _causes("changes nothing", d.no_effect, "dim")
    if not d.equal:
        yield from _section("sources", _sources(d.sources))
        if d.samples is not None:
            yield from _section("selection", _selection(d.samples))
        yield from _section("composition", _composition(d))
        yield from _section("signals", _signals(d))
        if d.order is not None:
            yield from _section("order", _order(d.order))
    levels: dict[str, list[str]] = {}
    for level, why in d.unknown.items():
        levels.setdefault(why, []).append(level)
    yield from _section("unknown", (Line(f"{', '.join(names)}: {why}") for why, names in levels.items()))


def _about(label: SideLabel) -> str:
    root = f", root {label.root[:16]}" if label.root else ""
    planned = {"spec": ", planned now", "build": "", "lock": ", planned now" if label.planned else ""}[label.kind]
    return f"{label.kind} of {label.mixture}{root}{planned}"


def _section(title: str, body: Iterable[Line]) -> Iterator[Line]:
    found = list(body)
    if found:
        yield Line("")
        yield Line(title, "heading")
        yield from (Line(f"  {line.text}" if line.text else "", line.mark) for line in found)


def _causes(title: str, causes: Sequence[Cause], mark: Mark) -> Iterator[Line]:
    yield from _section(title, (Line(each.text + (f"  ({each.why})" if each.why else ""), mark) for each in causes))


def _table(rows: Sequence[Sequence[str]], marks: Sequence[Mark] = ()) -> Iterator[Line]:
    """Rows in columns: the first ones to the left, those that begin with a digit, a sign or an arrow to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    right = [all(row[place][:1] in "0123456789+-" for row in rows[1:]) for place in range(len(widths))]
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        yield Line("  ".join(cells).rstrip(), marks[number] if number < len(marks) else "")


def _sources(sources: dict[str, SourceChange]) -> Iterator[Line]:
    for name, change in sources.items():
        yield Line(
            f"{name}: {_count(change.samples_a, change.samples_b)} samples, "
            f"{change.kept:,} file{'' if change.kept == 1 else 's'} kept"
        )
        for paths, sign, mark in (
            (change.changed, "~", "changed"),
            (change.added, "+", "added"),
            (change.removed, "-", "removed"),
        ):
            yield from (Line(f"  {sign} {path}", mark) for path in paths[:PATHS])  # type: ignore[arg-type]
            yield from _more(len(paths) - PATHS, "  ")
        yield from (Line(f"    {pair.a} => {pair.b}", "dim") for pair in change.renamed[:PATHS])
        rows = change.rows
        if rows is None:
            continue
        yield Line(
            f"  rows: {rows.changed:,} changed, {rows.added:,} added, {rows.removed:,} removed, {rows.kept:,} kept"
        )
        for row in rows.examples:
            if row.change == "changed":
                yield Line(f"    ~ {row.path_b} row {row.row_b}: {row.id_a} -> {row.id_b}", "changed")
            elif row.change == "added":
                yield Line(f"    + {row.path_b} row {row.row_b}: {row.id_b}", "added")
            else:
                yield Line(f"    - {row.path_a} row {row.row_a}: {row.id_a}", "removed")


def _more(count: int, indent: str) -> Iterator[Line]:
    if count > 0:
        yield Line(f"{indent}and {count:,} more (--json has all)", "dim")


def _selection(s: SampleCounts) -> Iterator[Line]:
    if s.added:
        yield Line(f"+ {s.added:,} added ({s.added_tokens:,} tokens)", "added")
        yield from _rules(s.added_by_rule, "was out by", "were out by")
    if s.removed:
        yield Line(f"- {s.removed:,} removed ({s.removed_tokens:,} tokens)", "removed")
        yield from _rules(s.removed_by_rule, "is out by", "are out by")
    if s.moved:
        yield Line(f"> {s.moved:,} moved between stages", "changed")
        moves = [move for move in s.moves if move.a and move.b]
        yield from _moves(moves[:MOVES])
        yield from _more(len(moves) - MOVES, "    ")
    if s.repeated:
        yield Line(f"x {s.repeated:,} repeated: {s.more:,} more often, {s.less:,} less often", "changed")
    yield Line(f"= {s.kept:,} as before", "dim")
    examples = [(kind, each) for kind, some in s.examples.items() for each in some]
    if examples:
        yield Line("for example", "dim")
        for kind, each in examples[:EXAMPLES]:
            yield Line(f"  {_example(kind, each)}", "dim")


def _example(kind: str, each: SampleChange) -> str:
    rule = each.rule_a if kind == "added" else each.rule_b
    detail = each.detail_a if kind == "added" else each.detail_b
    uses = " -> ".join(
        ", ".join(f"{use.stage} x{use.times}" if use.times > 1 else use.stage for use in uses) or "out"
        for uses in (each.uses_a, each.uses_b)
    )
    why = f"  {rule}" + (f": {detail}" if detail else "") if rule else ""
    return f"{each.id}  {each.source}  {uses}{why}"


def _rules(rules: dict[str, dict[str, int]], one: str, many: str) -> Iterator[Line]:
    for source, counts in sorted(rules.items()):
        for rule, count in sorted(counts.items()):
            told = f"{one if count == 1 else many} {rule}"
            if rule == "absent":
                told = "not in the source" if count else ""
            yield Line(f"    {source}: {count:,} {told}")


def _moves(moves: Sequence[Move]) -> Iterator[Line]:
    rows = [
        (f"{move.samples:,}", move.source, " + ".join(move.a), "->", " + ".join(move.b), f"({', '.join(move.rules)})")
        for move in moves
    ]
    yield from (Line(f"    {line.text}") for line in _table([("",) * 6, *rows]) if line.text)


def _composition(d: Difference) -> Iterator[Line]:
    if d.composition:
        rows = [("stage", "source", "share wished", "share met", "tokens", "", "samples", "epochs")]
        for row in d.composition:
            a, b = row.a or _NOTHING, row.b or _NOTHING
            rows.append(
                (
                    row.stage,
                    row.source,
                    _pair(f"{a.wished:.2%}", f"{b.wished:.2%}"),
                    _pair(f"{a.met:.2%}", f"{b.met:.2%}"),
                    _count(a.tokens, b.tokens),
                    f"{b.tokens - a.tokens:+,}",
                    _count(a.samples, b.samples),
                    _pair(f"{a.epochs:.2f}", f"{b.epochs:.2f}"),
                )
            )
        yield from _table(rows, ["dim"])
    for stage in d.stages:
        if stage.a is None or stage.b is None:
            only, verb = (stage.b, "only in B") if stage.a is None else (stage.a, "only in A")
            assert only is not None
            yield Line(f"{stage.stage}: {verb}, {only.steps:,} steps of {only.batch:,} packs, {only.tokens:,} tokens")
        else:
            yield Line(
                f"{stage.stage}: {_count(stage.a.tokens, stage.b.tokens)} tokens, "
                f"{_count(stage.a.supervised_tokens, stage.b.supervised_tokens)} supervised, "
                f"{_count(stage.a.images, stage.b.images)} images, {_count(stage.a.packs, stage.b.packs)} packs"
            )
    if d.distance is not None:
        yield Line(
            f"distance by tokens: total variation {d.distance.total_variation:.4f}, "
            f"Jensen-Shannon {d.distance.jensen_shannon:.4f} bits"
        )


_NOTHING = SourcePlan(
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


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a} -> {b}"


def _count(a: int, b: int) -> str:
    return _pair(f"{a:,}", f"{b:,}")


def _signals(d: Difference) -> Iterator[Line]:
    if not d.distributions:
        return
    middle = [QUANTILES.index(part) for part in (0.05, 0.5, 0.95)]
    rows = [("source", "signal", "uses", "5 %", "median", "95 %", "mean")]
    for each in d.distributions:
        cells = [_pair(f"{each.a.quantiles[n]:.4g}", f"{each.b.quantiles[n]:.4g}") for n in middle]
        mean = _pair(f"{each.a.mean:.4g}", f"{each.b.mean:.4g}")
        rows.append((each.source, each.signal, _count(each.a.count, each.b.count), *cells, mean))  # type: ignore[arg-type]
    yield from _table(rows, ["dim"])


def _order(order: Order) -> Iterator[Line]:
    first = order.first_difference
    if first is not None:
        yield Line(f"first difference: stage {first.stage}, step {first.step:,}, pack {first.pack:,}", "changed")
    else:
        yield Line("every step trains the same packs")
    rows = [("stage", "steps", "equal", "")]
    for name, stage in order.stages.items():
        rows.append((name, _count(stage.steps_a, stage.steps_b), f"{stage.equal_steps:,}", f"{stage.equal_share:.1%}"))
    yield from _table(rows, ["dim"])
    if order.continuation is not None:
        yield from _continuation(order.continuation)


def _continuation(found: Continuation) -> Iterator[Line]:
    if found.data.steps:
        yield Line(f"a run of A may go on as B from its checkpoints up to {_point(found.data)}: no sample is repeated")
    else:
        yield Line("no checkpoint of A has trained only what B begins with")
    if found.training.steps != found.data.steps:
        where = f"up to {_point(found.training)}" if found.training.steps else "nowhere"
        yield Line(f"learning rates and the rest are the same {where}")
    for each in found.overlap:
        if each.samples:
            yield Line(
                f"after stage {each.stage} of A, {each.repeated:,} of the {each.samples:,} samples that B goes on with "
                f"({each.repeated / each.samples:.1%}) are trained already",
                "dim",
            )


def _point(point: Point) -> str:
    return f"step {point.step:,} of stage {point.stage}"
