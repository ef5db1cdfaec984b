"""Pages and plots: whatever a name holds stays text, and every plot is well-formed and says its numbers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from mixc.page import plots
from mixc.page.render import _environment, render

HOSTILE = """</title><script>alert("1")</script>&amp;'{{ 7 * 7 }}{0}"""
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), max_size=12)


def parsed(svg: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def titles(svg: Markup) -> list[str]:
    return [title.text or "" for title in parsed(svg).iter("title")]


def test_a_template_escapes_what_it_is_given() -> None:
    page = _environment().from_string(
        '{% extends "page/base.html.j2" %}{% block title %}{{ name }}{% endblock %}'
        "{% block content %}{{ parts.table(name, [name], [[name]], [0]) }}"
        "{{ parts.figure(plots.share_bar(0.5), name, [name]) }}{% endblock %}"
    )
    html = page.render(name=HOSTILE)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 7  # title, region, caption, head, cell, key, caption


def test_a_page_loads_nothing() -> None:
    page = _environment().from_string(
        '{% extends "page/base.html.j2" %}{% block title %}t{% endblock %}{% block content %}c{% endblock %}'
    )
    html = page.render()
    assert not any(loads in html for loads in ("src=", "http", "url(", "@import", "<script", "<link"))


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        _environment().from_string("{{ absent }}").render()
    with pytest.raises(Exception, match="nowhere"):
        render("report/nowhere.html.j2")


def test_a_share_says_what_was_wished() -> None:
    svg = parsed(plots.share_bar(0.25, 0.5))
    assert svg.get("aria-label") == "met 25.0%, wished 50.0%"
    bar, line = list(svg)
    assert float(bar.get("width", "")) * 2 == float(line.get("x1", ""))


@given(st.lists(st.tuples(names, st.lists(st.integers(0, 10**9), min_size=2, max_size=2)), max_size=40), names)
def test_a_histogram_has_a_bar_for_every_count(rows: list[tuple[str, list[int]]], label: str) -> None:
    bins = [plots.Bin(label=name, counts=counts) for name, counts in rows]
    svg = plots.histogram(bins, label, low=label, high="1")
    assert titles(svg) == [f"{bin.label}: {count:,}" for bin in bins for count in bin.counts if count]
    assert all(0 <= float(bar.get("y", "")) <= 120 for bar in parsed(svg).iter("rect"))


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), max_size=30), st.lists(names, min_size=3, max_size=3)
)
def test_stacked_areas_keep_within_the_whole(rows: list[list[float]], series: list[str]) -> None:
    shares = [[value / max(sum(row), 1.0) for value in row] for row in rows]
    svg = plots.stacked(shares, series, "l", low="0", high="1")
    for path in parsed(svg).iter("path"):
        points = [point.split(",") for point in path.get("d", "").removeprefix("M").removesuffix(" Z").split()]
        assert all(-0.1 <= float(y) <= 160.1 and -0.1 <= float(x) <= 640.1 for x, y in points)


def test_a_flow_joins_its_nodes() -> None:
    columns = [
        [plots.Node(id="s:a", name="budget"), plots.Node(id="s:b", name=HOSTILE)],
        [plots.Node(id="r:budget", name="budget"), plots.Node(id="t:x", name="x")],
    ]
    links = [
        plots.Link(source="s:a", target="r:budget", value=1),
        plots.Link(source="s:a", target="t:x", value=2),
        plots.Link(source="s:b", target="t:x", value=3000),
    ]
    svg = plots.flow(columns, links, HOSTILE, unit="tokens")
    assert titles(svg)[:3] == [
        "budget → budget: 1 tokens",
        "budget → x: 2 tokens",
        f"{HOSTILE} → x: 3,000 tokens",
    ]
    assert parsed(svg).get("aria-label") == HOSTILE
    # a colour is a source's: what it flows to has none
    assert [box.get("class") for box in parsed(svg).iter("rect")] == ["s0", "s1", "end", "end"]


def test_curves_end_at_the_largest_value() -> None:
    svg = plots.curves({"a": [0, 2, 4], "b": [1]}, "l", low="0", high="2")
    lines = [line.get("points", "") for line in parsed(svg).iter("polyline")]
    assert lines == ["0.0,140.0 320.0,70.0 640.0,0.0", "0.0,105.0"]
    assert parsed(plots.curves({}, "l", low="", high="")).get("role") == "img"
