"""A difference as one static page, with plots of what counts do not show: shares before and after, signals, equal steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from mixc.diff.difference import BINS, Difference, Distribution
from mixc.diff.tables import about, became, composition, continuation, example, pair, selection, signals, steps
from mixc.page.plots import Bin, histogram, share_bar
from mixc.page.render import render
from shards.atomic import atomic_write

ROWS = 500
"""Of a table: a page of a hundred thousand rows helps nobody. JSON has all."""


def write_page(difference: Difference, out: Path) -> None:
    """Write the page to the file `out`, whole or not at all."""
    with atomic_write(out) as file:
        file.write(page(difference).encode(errors="replace"))


def page(d: Difference) -> str:
    return render(
        "diff/diff.html.j2",
        d=d,
        about=about,
        became=became,
        continuation=list(continuation(d.order)) if d.order else [],
        selection=selection(d.samples)[: ROWS + 1] if d.samples else [],
        examples=[example(kind, each) for kind, some in d.samples.examples.items() for each in some]
        if d.samples
        else [],
        composition=_composition(d),
        signals=signals(d),
        distributions=[(each, _histogram(each)) for each in d.distributions],
        steps=_steps(d),
        pair=pair,
        most=ROWS,
    )


def _composition(d: Difference) -> list[list[Any]]:
    """The table, with a bar of the share met before and after behind each source."""
    head, *rows = composition(d)
    found: list[list[Any]] = [[*head[:2], "share met, A above B", *head[2:]]]
    for row, each in zip(rows, d.composition, strict=True):
        sides = enumerate((each.a, each.b))
        bars = Markup("<br>").join(share_bar(side.met if side else 0.0, width=140, series=n) for n, side in sides)
        found.append([*row[:2], bars, *row[2:]])
    return found[: ROWS + 1]


def _steps(d: Difference) -> list[list[Any]]:
    if d.order is None:
        return []
    head, *rows = steps(d.order)
    found: list[list[Any]] = [[*head[:3], "the same", ""]]
    for row, stage in zip(rows, d.order.stages.values(), strict=True):
        found.append([*row[:3], share_bar(stage.equal_share), row[3]])
    return found


def _histogram(each: Distribution) -> Markup:
    width = (each.high - each.low) / BINS
    bins = [
        Bin(label=f"{each.low + place * width:.4g} to {each.low + (place + 1) * width:.4g}", counts=counts)
        for place, counts in enumerate(zip(each.a.bins, each.b.bins, strict=True))
    ]
    return histogram(
        bins,
        f"{each.signal} of {each.source}: uses by value, A beside B",
        low=f"{each.low:.4g}",
        high=f"{each.high:.4g}",
        width=360,
    )
