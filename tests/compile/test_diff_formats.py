"""`mixc diff` as text, Markdown and a page, on the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import check_page, needs_chromium
from tests.compile.conftest import REPO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(make_mixc, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    mixc = make_mixc()
    for name in ("diff.html", "diff.md", "diff.txt"):
        done = mixc("diff", demo, REPO / "specs/demo-b.yaml", "-o", folder / name, check=1)
        assert done.stdout == f"{folder / name}\n"
    return folder


def test_each_says_the_cause_and_the_first_difference(pages: Path) -> None:
    for name, arrow in (("diff.html", "-&gt;"), ("diff.md", "→"), ("diff.txt", "->")):
        text = (pages / name).read_text()
        assert f"weight of prose in stage advance: 0.35 {arrow} 0.5" in text
        assert "step 0, pack 0" in text


def test_formats_are_told_by_option_or_name(mixc, demo: Path, tmp_path: Path) -> None:
    assert mixc("diff", demo, demo, "--format", "md").stdout.startswith("### Mixture diff")
    assert "needs a place" in mixc("diff", demo, demo, "--format", "html", check=2).stderr
    assert "--json is a format of its own" in mixc("diff", demo, demo, "--json", "--format", "md", check=2).stderr
    mixc("diff", demo, demo, "--format", "md", "-o", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text().startswith("### Mixture diff")


@needs_chromium
def test_the_page_reads_well_in_a_browser(pages: Path) -> None:
    check_page(pages / "diff.html")
