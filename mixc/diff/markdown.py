"""A difference as Markdown, for a pull request: the verdict and the causes in sight, the levels folded below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mixc.diff.difference import Cause, Difference
from mixc.diff.tables import Row, about, became, composition, continuation, example, selection, signals, steps
from shards.counted import counted

ROWS = 40
"""Of a table; a comment on a forge has a limit, and a reader too. JSON has all."""
EXAMPLES = 6


def markdown(d: Difference) -> str:
    """The document. What a spec or a file says is shown as text, whatever it holds."""
    return "\n".join(_document(d)) + "\n"


def _document(d: Difference) -> Iterator[str]:
    yield f"### Mixture diff: {_text(d.a.path)} → {_text(d.b.path)}"
    yield ""
    first = d.order.first_difference if d.order else None
    if d.equal:
        yield "**Equal**: a training run sees the same in both."
    elif first is not None:
        yield f"**They differ**, first in stage `{first.stage}`, step {first.step:,}, pack {first.pack:,}."
    else:
        yield "**They differ.**"
    yield ""
    yield f"A: {_text(about(d.a))}  \nB: {_text(about(d.b))}"
    yield from _causes("Causes", d.causes)
    yield from _causes("May have a part in it", d.possible)
    yield from _folded(f"Changes nothing ({len(d.no_effect)})", [_cause(each) for each in d.no_effect])
    if not d.equal:
        yield from _folded("Sources", _sources(d))
        if d.samples is not None:
            examples = [(kind, each) for kind, some in d.samples.examples.items() for each in some][:EXAMPLES]
            told = [f"- {_text(example(kind, each))}" for kind, each in examples]
            yield from _folded("Selection", [became(d.samples), "", *_table(selection(d.samples)), "", *told])
        distance = (
            [
                f"Distance by tokens: total variation {d.distance.total_variation:.4f}, Jensen-Shannon {d.distance.jensen_shannon:.4f} bits."
            ]
            if d.distance
            else []
        )
        yield from _folded("Composition", [*_table(composition(d)), "", *distance])
        yield from _folded("Signals", _table(signals(d)))
        if d.order is not None:
            on = [f"- {_text(line)}" for line in continuation(d.order)]
            yield from _folded("Order", [*_table(steps(d.order)), "", *on])
    yield from _folded("Unknown", [f"- {level}: {_text(why)}" for level, why in d.unknown.items()])


def _causes(title: str, causes: Sequence[Cause]) -> Iterator[str]:
    if causes:
        yield from ("", f"**{title}**", "", *(map(_cause, causes)))


def _cause(cause: Cause) -> str:
    return f"- {_text(cause.text)}" + (f" ({_text(cause.why)})" if cause.why else "")


def _sources(d: Difference) -> list[str]:
    found = []
    for name, change in d.sources.items():
        found.append(
            f"- **{_text(name)}**: {change.samples_a:,} → {change.samples_b:,} samples, {counted(change.kept, 'file')} kept"
        )
        for sign, paths in (("changed", change.changed), ("added", change.added), ("removed", change.removed)):
            found += [f"  - {sign} {_text(path)}" for path in paths[:ROWS]]
            found += [f"  - and {len(paths) - ROWS:,} more {sign}"] if len(paths) > ROWS else []
        if change.rows is not None:
            rows = change.rows
            found.append(
                f"  - rows: {rows.changed:,} changed, {rows.added:,} added, {rows.removed:,} removed, {rows.kept:,} kept"
            )
    return found


def _folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    if any(lines):
        yield from ("", f"<details><summary>{title}</summary>", "", *lines, "", "</details>")


def _table(rows: Sequence[Row]) -> list[str]:
    if len(rows) < 2:
        return []
    head, *body = rows
    right = [all(row[place][:1] in "0123456789+-" for row in body) for place in range(len(head))]
    lines = [_row(head), _row(["---:" if to_right else "---" for to_right in right], raw=True), *map(_row, body[:ROWS])]
    return [*lines, *([f"\nand {len(body) - ROWS:,} more"] if len(body) > ROWS else [])]


def _row(cells: Sequence[str], *, raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else _text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is: on one line, with nothing in it that marks, links, mentions or opens a tag."""
    flat = " ".join(text.replace("->", "→").split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")
    return re.sub(r"([\\`*_{}\[\]|~#!$])", r"\\\1", flat)
