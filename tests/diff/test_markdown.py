"""A difference as Markdown: what a spec or a path says is shown as it is, and a long list is cut, aloud."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mixc.diff.difference import (
    Cause,
    Composition,
    Difference,
    Move,
    Order,
    Place,
    SampleCounts,
    SideLabel,
    SourceChange,
    StageOrder,
)
from mixc.diff.markdown import ROWS, markdown
from mixc.diff.page import page
from mixc.plan.tables import SourcePlan

HOSTILE = "<script>alert(1)</script> [a](javascript:b) `c` **d** | e\\ @team #1 ~~f~~ &lt; $x$ ![i](j)"


def label(path: str) -> SideLabel:
    return SideLabel(path=path, root="ab" * 32, kind="build", mixture="m", planned=True)


def share(tokens: int) -> SourcePlan:
    return SourcePlan(
        wished=0.5,
        met=0.5,
        epochs=1,
        eligible=1,
        samples=1,
        tokens=tokens,
        supervised_tokens=1,
        images=0,
        tiles=0,
    )


def difference(text: str, *, moves: int = 1, equal: bool = False) -> Difference:
    """A difference that says `text` wherever a user's words can stand."""
    cause = Cause(kind="threshold", text=text, why=text)
    move = Move(source=text, a=[], b=[text], samples=3, tokens=1200, rules={text: 3})
    return Difference(
        a=label(text),
        b=label(text),
        equal=equal,
        causes=[cause],
        possible=[cause],
        no_effect=[cause],
        unknown={"signals": text},
        spec=[],
        settings=[],
        sources={
            text: SourceChange(
                added=[text] * moves,
                removed=[],
                changed=[],
                renamed=[],
                kept=1,
                samples_a=1,
                samples_b=2,
                rejects_a=0,
                rejects_b=0,
                rows=None,
            )
        },
        samples=SampleCounts(
            added=3,
            removed=0,
            moved=0,
            repeated=0,
            more=0,
            less=0,
            kept=9,
            added_tokens=1200,
            removed_tokens=0,
            added_by_rule={},
            removed_by_rule={},
            moves=[move] * moves,
            examples={},
        ),
        stages=[],
        composition=[Composition(stage=text, source=text, a=share(5), b=None)],
        distance=None,
        distances={},
        distributions=[],
        order=Order(
            first_difference=Place(stage="one", step=1, pack=4),
            stages={
                text: StageOrder(first_difference=None, steps_a=2, steps_b=2, equal_steps=2, equal_share=1.0),
            },
            steps=2,
            equal_steps=2,
            equal_share=1.0,
            continuation=None,
        ),
    )


def rendered(text: str) -> str:
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60) | st.just(HOSTILE)
)
def test_what_is_said_is_shown_as_it_is(text: str) -> None:
    html = rendered(markdown(difference(text)))
    tags = set(re.findall(r"<(/?[a-z0-9]+)", html)) - {"br", "/p"}
    assert {tag.lstrip("/") for tag in tags} <= {
        *("h3", "p", "strong", "code", "ul", "li", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
    }
    shown = " ".join(unescape(re.sub(r"<[^>]+>", "", html)).replace("\u200b", "").split())
    said = " ".join(text.replace("->", "→").replace("\u200b", "").split())
    assert shown.count(said) >= 9


def test_the_verdict_comes_first() -> None:
    lines = markdown(difference("x")).splitlines()
    assert lines[2] == "**They differ**, first in stage `one`, step 1, pack 4."
    equal = markdown(difference("x", equal=True)).splitlines()
    assert equal[2] == "**Equal**: a training run sees the same in both."
    assert "Selection" not in "".join(equal)


def test_a_long_table_is_cut_and_says_so() -> None:
    text = markdown(difference("x", moves=ROWS + 3))
    assert text.count("| 3 | x | out | x | x | 1,200 |") == ROWS
    assert "and 3 more" in text and "and 3 more added" in text


@pytest.mark.parametrize("text", [HOSTILE, "{{ 7 * 7 }}", "</style><img src=x onerror=alert(1)>"])
def test_on_the_page_it_stays_text(text: str) -> None:
    html = page(difference(text))
    assert "<script" not in html and "<img" not in html and "49" not in html.replace("149", "")
    assert unescape(html).count(text) >= 12


def test_the_page_of_equal_sides_says_so() -> None:
    html = page(difference("x", equal=True))
    assert "Equal: a training run sees the same in both." in html and 'id="selection"' not in html
