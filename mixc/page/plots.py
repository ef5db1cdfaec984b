"""Numbers in, SVG out. Pure; every colour is a class of style.css, so that a plot follows the reader's light or dark.

Every plot has a role and a label for who cannot see it, and a tooltip a mark. Series are coloured by their place in the
list: give equal lists to plots of one page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLOURS = 8
"""Series beyond so many share colours again."""


def _svg(width: int, height: int, label: str, marks: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>').format(
        width, height, width, height, label, Markup("").join(marks)
    )


def share_bar(met: float, wished: float | None = None, *, width: int = 160, series: int = 0) -> Markup:
    """One share of a whole as a bar in a series' colour, with a line where it was wished to end."""
    label = f"{met:.1%}" if wished is None else f"met {met:.1%}, wished {wished:.1%}"
    marks = [Markup('<rect class="s{}" y="2" height="10" width="{:.1f}"/>').format(series % COLOURS, met * width)]
    if wished is not None:
        marks.append(Markup('<line class="wish" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="14"/>').format(wished * width))
    return _svg(width, 14, label, marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bar a series, over the same stretch of the axis."""

    label: str
    """Names the stretch, e.g. `0 to 128 tokens`."""
    counts: Sequence[int]
    """By series."""


def histogram(bins: Sequence[Bin], label: str, *, low: str, high: str, height: int = 120, width: int = 640) -> Markup:
    """Counts by bin, series side by side. `low` and `high` name the ends of the axis."""
    top = max((count for bin in bins for count in bin.counts), default=0) or 1
    series = max((len(bin.counts) for bin in bins), default=1)
    room = width / max(len(bins), 1)
    bar = max(1.0, (room - 1) / series)
    marks = [_axis(width, height)]
    for at, bin in enumerate(bins):
        for number, count in enumerate(bin.counts):
            if not count:
                continue
            tall = max(1.0, count / top * height)
            marks.append(
                Markup(
                    '<rect class="s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {:,}</title></rect>'
                ).format(
                    number % COLOURS,
                    at * room + number * bar,
                    height - tall,
                    max(0.5, bar - 0.5),
                    tall,
                    bin.label,
                    count,
                )
            )
    marks += _ends(width, height, low, high)
    return _svg(width, height + 18, label, marks)


def stacked(
    shares: Sequence[Sequence[float]],
    names: Sequence[str],
    label: str,
    *,
    low: str,
    high: str,
    height: int = 160,
    width: int = 640,
) -> Markup:
    """How a whole is divided, along an axis: `shares` [places][series], each row at most 1 in sum."""
    if not shares:
        return _svg(width, height, label, [])
    room = width / len(shares)
    below = [0.0] * len(shares)
    marks = []
    for number, name in enumerate(names):
        above = [base + row[number] for base, row in zip(below, shares, strict=True)]
        if above != below:
            upper = [(x, height - y * height) for at, y in enumerate(above) for x in (at * room, (at + 1) * room)]
            lower = [(x, height - y * height) for at, y in enumerate(below) for x in (at * room, (at + 1) * room)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
            marks.append(
                Markup('<path class="area s{}" d="M{} Z"><title>{}</title></path>').format(number % COLOURS, path, name)
            )
        below = above
    marks += [_axis(width, height), *_ends(width, height, low, high)]
    return _svg(width, height + 18, label, marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: str
    """Its own in the plot; two nodes may have one name."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`value` that goes from one node to another, in a later column. Ends are ids."""

    source: str
    target: str
    value: int


def flow(
    columns: Sequence[Sequence[Node]],
    links: Sequence[Link],
    label: str,
    *,
    unit: str,
    width: int = 880,
    height: int = 360,
) -> Markup:
    """A Sankey diagram: nodes by column, top to bottom as given, as tall as what passes through them. Links leave and reach a
    node in the order of `links`, and have the colour of the node that they leave. A node that none leaves has no series' colour. Names of the first column stand to its left,
    all others to the right of their nodes."""
    nodes = [node for column in columns for node in column]
    through = {
        node.id: max(
            sum(link.value for link in links if link.source == node.id),
            sum(link.value for link in links if link.target == node.id),
        )
        for node in nodes
    }
    names = {node.id: node.name for node in nodes}
    left_by = {link.source for link in links}
    colour = {
        node.id: f"s{place % COLOURS}" if node.id in left_by or column is columns[0] else "end"
        for column in columns
        for place, node in enumerate(column)
    }
    gap, box, names_left, names_right = 14, 12, 190, 230
    tallest = max((sum(through[node.id] for node in column) for column in columns), default=0) or 1
    scale = max(40, height - gap * max((len(column) for column in columns), default=1)) / tallest
    tall = {id: max(value * scale, 1.0) for id, value in through.items()}
    left: dict[str, float] = {}
    top: dict[str, float] = {}
    for place, column in enumerate(columns):
        y = 0.0
        for node in column:
            across = (width - names_left - names_right) / max(len(columns) - 1, 1)
            left[node.id], top[node.id] = names_left + place * across, y
            y += tall[node.id] + gap
    marks = []
    leaves, reaches = dict(top), dict(top)
    for link in links:
        thick = max(link.value * scale, 0.5)
        x1, x2 = left[link.source] + box, left[link.target]
        y1, y2 = leaves[link.source] + thick / 2, reaches[link.target] + thick / 2
        leaves[link.source] += thick
        reaches[link.target] += thick
        middle = (x1 + x2) / 2
        path = f"M{x1:.1f},{y1:.1f} C{middle:.1f},{y1:.1f} {middle:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
        told = f"{names[link.source]} → {names[link.target]}: {link.value:,} {unit}"
        marks.append(
            Markup(
                '<path class="link {}" style="fill:none" stroke-width="{:.1f}" d="{}"><title>{}</title></path>'
            ).format(colour[link.source], thick, path, told)
        )
    for id, x in left.items():
        marks.append(
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{}" height="{:.1f}"><title>{}</title></rect>').format(
                colour[id], x, top[id], box, tall[id], f"{names[id]}: {through[id]:,} {unit}"
            )
        )
        before = x == names_left
        marks.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{} <tspan class="dim">{:,}</tspan></text>').format(
                x - 5 if before else x + box + 5,
                top[id] + tall[id] / 2 + 4,
                "end" if before else "start",
                names[id],
                through[id],
            )
        )
    bottom = max((top[id] + tall[id] for id in top), default=0.0)
    return _svg(width, int(bottom) + 16, label, marks)


def curves(
    series: Mapping[str, Sequence[float]],
    label: str,
    *,
    low: str,
    high: str,
    height: int = 140,
    width: int = 640,
) -> Markup:
    """Lines over one axis, from 0 to the largest value of all."""
    top = max((value for values in series.values() for value in values), default=0.0) or 1.0
    marks = [_axis(width, height)]
    for number, (name, values) in enumerate(series.items()):
        step = width / max(len(values) - 1, 1)
        points = " ".join(f"{at * step:.1f},{height - value / top * height:.1f}" for at, value in enumerate(values))
        marks.append(
            Markup(
                '<polyline class="s{}" style="fill:none" stroke-width="2" points="{}"><title>{}</title></polyline>'
            ).format(number % COLOURS, points, name)
        )
    marks += _ends(width, height, low, high)
    return _svg(width, height + 18, label, marks)


def _axis(width: int, height: int) -> Markup:
    return Markup('<line class="axis" x1="0" x2="{0}" y1="{1}" y2="{1}"/>').format(width, height)


def _ends(width: int, height: int, low: str, high: str) -> list[Markup]:
    return [
        Markup('<text class="dim" x="0" y="{}">{}</text>').format(height + 14, low),
        Markup('<text class="dim" x="{}" y="{}" text-anchor="end">{}</text>').format(width, height + 14, high),
    ]
