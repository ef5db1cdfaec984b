"""A page in headless Chromium: what a static page must hold wherever a reader opens it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


@contextmanager
def opened(path: Path, *, dark: bool = False, width: int = 1280) -> Iterator[Any]:
    """The page at `path`, opened from the disk. At the end: it asked for nothing but itself, and nothing in it failed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
            )
            asked: list[str] = []
            wrong: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda message: wrong.append(message.text))
            page.goto(path.resolve().as_uri())
            yield page
            assert [url for url in asked if not url.startswith("data:")] == [path.resolve().as_uri()]
            assert wrong == []
        finally:
            browser.close()


def check_page(path: Path) -> None:
    """What holds of every page: it fits a telephone and a desk, can be read in light and dark, is reached by keyboard, has every
    figure named, and every link within it leads somewhere."""
    for dark in (False, True):
        for width in (390, 1280):
            with opened(path, dark=dark, width=width) as page:
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{wide} pixels wide on {width}"
                low = page.evaluate(_CONTRASTS)
                assert low == [], f"{'dark' if dark else 'light'}: hard to read {low[:5]}"
    with opened(path) as page:
        assert page.evaluate(_BROKEN) == []
        assert page.evaluate(_UNNAMED) == 0
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = 0
        for _ in range(400):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
            reached += 1
        assert reached >= page.evaluate("document.querySelectorAll('nav a').length")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.querySelector('nav') ?? document.body).display") in (
            "none",
            "block",
        )
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


_BROKEN = """[...document.querySelectorAll('a[href^="#"]')].map(a => decodeURIComponent(a.getAttribute('href').slice(1)))
    .filter(id => !document.getElementById(id))"""
_UNNAMED = """[...document.querySelectorAll('svg[role=img], img')].filter(e => !(e.getAttribute('aria-label') ?? e.alt)).length"""
# WCAG 2.1: relative luminance, and a contrast of 4.5 for text of normal size.
_CONTRASTS = """(() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                      if (rgb(c).length === 3 || rgb(c)[3] > 0) return c; } return 'rgb(255, 255, 255)'; };
  const found = new Set();
  for (const e of document.querySelectorAll('main *, header *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || e.closest('title') || !e.checkVisibility()) continue;
    const own = getComputedStyle(e), ink = e.closest('svg') ? own.fill : own.color;
    if (!ink.startsWith('rgb')) continue;
    const [a, b] = [light(ink), light(back(e))];
    if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) found.add(`${e.tagName}.${e.getAttribute('class')}: ${ink} on ${back(e)}`);
  }
  return [...found];
})()"""
