"""A difference as a person reads it: the causes first, then their effects. Plain lines; a terminal gets them in colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mixc.diff.difference import Cause, Difference, Move, Order, SampleCounts, SourceChange
from mixc.diff.tables import about, composition, continuation, count, example, rules, signals, steps
from shards.counted import counted

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
        yield Line(f"{side}  {label.path:{wide}}  {about(label)}")
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
        yield Line(f"{name}: {count(change.samples_a, change.samples_b)} samples, {counted(change.kept, 'file')} kept")
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
        yield Line(f"+ {s.added:,} added ({counted(s.added_tokens, 'token')})", "added")
        yield from _rules(s.added_by_rule, "was out by", "were out by")
    if s.removed:
        yield Line(f"- {s.removed:,} removed ({counted(s.removed_tokens, 'token')})", "removed")
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
            yield Line(f"  {example(kind, each)}", "dim")


def _rules(rules: dict[str, dict[str, int]], one: str, many: str) -> Iterator[Line]:
    for source, counts in sorted(rules.items()):
        for rule, samples in sorted(counts.items()):
            told = f"{one if samples == 1 else many} {rule}"
            if rule == "absent":
                told = "not in the source" if samples else ""
            yield Line(f"    {source}: {samples:,} {told}")


def _moves(moves: Sequence[Move]) -> Iterator[Line]:
    rows = [
        (f"{move.samples:,}", move.source, " + ".join(move.a), "->", " + ".join(move.b), f"({rules(move)})")
        for move in moves
    ]
    yield from (Line(f"    {line.text}") for line in _table([("",) * 6, *rows]) if line.text)


def _composition(d: Difference) -> Iterator[Line]:
    if d.composition:
        yield from _table(composition(d), ["dim"])
    for stage in d.stages:
        if stage.a is None or stage.b is None:
            only, verb = (stage.b, "only in B") if stage.a is None else (stage.a, "only in A")
            assert only is not None
            yield Line(
                f"{stage.stage}: {verb}, {counted(only.steps, 'step')} of {counted(only.batch, 'pack')}, {counted(only.tokens, 'token')}"
            )
        else:
            yield Line(
                f"{stage.stage}: {count(stage.a.tokens, stage.b.tokens)} tokens, "
                f"{count(stage.a.supervised_tokens, stage.b.supervised_tokens)} supervised, "
                f"{count(stage.a.images, stage.b.images)} images, {count(stage.a.packs, stage.b.packs)} packs"
            )
    if d.distance is not None:
        yield Line(
            f"distance by tokens: total variation {d.distance.total_variation:.4f}, "
            f"Jensen-Shannon {d.distance.jensen_shannon:.4f} bits"
        )


def _signals(d: Difference) -> Iterator[Line]:
    if d.distributions:
        yield from _table(signals(d), ["dim"])


def _order(order: Order) -> Iterator[Line]:
    first = order.first_difference
    if first is not None:
        yield Line(f"first difference: stage {first.stage}, step {first.step:,}, pack {first.pack:,}", "changed")
    else:
        yield Line("every step trains the same packs")
    yield from _table(steps(order), ["dim"])
    yield from map(Line, continuation(order))
