"""A pack shows all of its tokens, marks what is supervised and nothing else, and what is hostile in it stays text."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from mixc.errors import BuildError
from mixc.report.inspect import Inspector, Run, Token, _tokens
from mixc.report.inspect_page import SIDE, page, write_page
from mixc.report.inspect_text import GRID, draw_grid, grid_box, half_blocks, show
from mixc.report.thumbnail import jpeg_thumbnail, pixel_thumbnail
from shards.errors import ShardError
from shards.images import ImageError
from tests.browser import check_page, needs_chromium, opened
from tests.report.conftest import HOSTILE, Small, picture

slow = pytest.mark.slow


@slow
def test_the_runs_of_a_pack_are_its_tokens(small: Small) -> None:
    inspector = Inspector(small.build, tokens=True)
    per_tile = small.manifest.geometry.tokens_per_tile
    for stage in small.stages:
        for number in range(inspector.build.stage(stage).entry.packs):
            pack, shown = inspector.build.stage(stage).pack(number), inspector.pack(stage, number)
            ids, supervised = [], []
            for run in (run for segment in shown.segments for run in segment.runs):
                if run.image:
                    own = [small.manifest.geometry.image_context_id] * (
                        (run.cols * run.rows + run.thumbnail) * per_tile
                    )
                else:
                    assert run.tokens is not None and "".join(token.text for token in run.tokens) == run.text
                    own = [id for token in run.tokens for id in token.ids]
                ids += own
                supervised += [run.supervised] * len(own)
            assert ids == pack.tokens.tolist()
            spans = np.zeros(len(pack.tokens), bool)
            for start, end in pack.spans.tolist():
                spans[start:end] = True
            assert supervised == spans.tolist()


@slow
def test_a_sample_is_shown_where_it_first_stands(small: Small) -> None:
    inspector = Inspector(small.build)
    rows = small.table("plan/placements.parquet")
    for row in rows[::17]:
        first = next(each for each in rows if each["id"] == row["id"])
        shown = inspector.sample(row["id"].hex)
        assert shown is not None and [s.place for s in shown.segments] == [first["place"]]
        assert (small.stages.index(shown.stage), shown.pack) == (first["stage"], first["pack"])
        assert shown.segments == inspector.pack(shown.stage, shown.pack).segments[first["place"] : first["place"] + 1]
    dropped = small.table("plan/drops.parquet")[0]
    assert inspector.sample(dropped["id"].hex) is None
    assert inspector.sample(rows[0]["id"].hex, "speak") is None or any(
        row["id"] == rows[0]["id"] and row["stage"] == 1 for row in rows
    )


@slow
def test_a_step_is_its_packs(small: Small) -> None:
    inspector = Inspector(small.build)
    for entry in small.manifest.stages:
        shown = [pack for step in range(entry.steps) for pack in inspector.step(entry.name, step)]
        assert shown == [inspector.pack(entry.name, number) for number in range(entry.packs)]
        with pytest.raises(BuildError, match="steps 0 to"):
            inspector.step(entry.name, entry.steps)
        with pytest.raises(BuildError, match="packs 0 to"):
            inspector.pack(entry.name, entry.packs)


class Page(HTMLParser):
    """What a page says, and within which elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.marked, self._marks, self._inside = "", [], 0, 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside += tag == "main"
        if tag == "mark":
            self._marks += 1
            self.marked.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag == "main"
        self._marks -= tag == "mark"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data
        if self._marks:
            self.marked[-1] += data


@slow
def test_a_page_says_all_and_runs_nothing(small: Small, tmp_path: Path) -> None:
    inspector = Inspector(small.build, tokens=True)
    packs = inspector.step("speak", 0) + inspector.step("speak", 1)
    write_page(packs, inspector.build.image, tmp_path / "page.html", mixture=HOSTILE)
    found = Page((tmp_path / "page.html").read_bytes().decode())
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "b", "img"}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    sources = [attributes[name] or "" for _, attributes in found.tags for name in ("src", "href") if name in attributes]
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    runs = [run for p in packs for s in p.segments for run in s.runs]
    for run in runs:
        assert run.text.replace("\r", "") in found.text
    assert found.marked[1:] == [run.text for run in runs if run.supervised]  # the first is the legend
    pictures = [attributes["href"] or "" for tag, attributes in found.tags if tag == "image"]
    assert len(pictures) == sum(run.image is not None for run in runs) > 0
    for source in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert image.format == "JPEG" and max(image.size) <= SIDE


@slow
@needs_chromium
def test_a_page_reads_well_and_shows_tokens_when_asked(small: Small, tmp_path: Path) -> None:
    inspector = Inspector(small.build, tokens=True)
    write_page(inspector.step("speak", 0), inspector.build.image, tmp_path / "page.html", mixture="small")
    check_page(tmp_path / "page.html")
    with opened(tmp_path / "page.html") as found:
        colour = "getComputedStyle(document.querySelector('.t')).backgroundColor"
        before = found.evaluate(colour)
        found.get_by_label("show where tokens begin and end").check()
        assert found.evaluate(colour) != before
        drawn = "[...document.querySelectorAll('.picture image')].every(i => i.getBoundingClientRect().width > 0)"
        assert found.evaluate(drawn)


def test_every_tile_has_its_lines_on_the_page() -> None:
    run = Run(text="", supervised=False, image="ab" * 32, grid="3 x 2 + thumbnail", cols=3, rows=2, thumbnail=True)
    html = page([_pack(run)], lambda _: picture(300, 200, "red"), mixture="m")
    svg = ElementTree.fromstring(re.findall(r'<svg class="picture".*?</svg>', html, re.S)[0].replace("href=", "h="))
    over = next(path.get("d") or "" for path in svg.iter("path") if path.get("class") == "over")
    assert over == "M100.0,0V200M200.0,0V200M0,100.0H300"
    assert [text.text for text in svg.iter("text")] == list("012345")
    assert "7 tiles: grid 3 x 2 + thumbnail" in html


def _pack(*runs: Run):
    from mixc.report.inspect import InspectedPack, Segment

    segment = Segment(
        place=0, id="0" * 32, source="s", epoch=0, piece=0, tokens=1, supervised_tokens=0, weight=1.0, runs=list(runs)
    )
    return InspectedPack(stage="a", step=0, pack=0, tokens=1, capacity=8, segments=[segment])


def shown(pack, read, *, width: int = 100, colour: bool = False, tokens: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    show(pack, read, console)
    return out.getvalue()


@slow
def test_a_terminal_is_not_steered_by_what_it_shows(small: Small) -> None:
    inspector = Inspector(small.build, tokens=True)
    plain = shown(inspector.pack("speak", 0), inspector.build.image)
    assert "\x1b" not in plain and "␛[31mred" in plain.replace("│", "")
    coloured = shown(inspector.pack("speak", 0), inspector.build.image, colour=True)
    assert "\x1b[31m" not in coloured and "⟦" not in coloured and "⟦" in plain


def test_pictures_need_colour_and_room() -> None:
    run = Run(text="", supervised=False, image="ab" * 32, grid="2 x 1", cols=2, rows=1)
    read = lambda _: picture(64, 32, "#0000ff")  # noqa: E731
    coloured = shown(_pack(run), read, colour=True)
    assert "▀" in coloured and f"38;2;{';'.join(map(str, GRID))}" in coloured and "38;2;0;0;255" in coloured
    for without in (shown(_pack(run), read), shown(_pack(run), read, width=50, colour=True)):
        assert "▀" not in without and "│  0  │  1  │" in without


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, in a hundred bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_an_image_that_cannot_be_shown_is_a_line(tmp_path: Path) -> None:
    def missing(_: bytes) -> bytes:
        raise ShardError("media/0.tar: <b>gone</b>")

    run = Run(text="", supervised=False, image="ab" * 32, grid="1 x 1", cols=1, rows=1)
    for read in (missing, lambda _: bomb(60_000, 60_000), lambda _: b"\x89PNG nothing", lambda _: b""):
        html = page([_pack(run)], read, mixture="m")
        assert "It cannot be shown" in html and "<b>" not in html
        assert "it cannot be shown" in shown(_pack(run), read, colour=True)
    with pytest.raises(ImageError):
        jpeg_thumbnail(bomb(60_000, 60_000), 10)


@given(
    width=st.integers(1, 90), height=st.integers(1, 90), mode=st.sampled_from(["RGB", "L", "CMYK", "RGBA", "P", "1"])
)
def test_thumbnails_fit_and_are_never_enlarged(width: int, height: int, mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "TIFF")
    pixels = pixel_thumbnail(out.getvalue(), 48, 40)
    assert pixels.shape[0] <= min(40, height) and pixels.shape[1] <= min(48, width) and pixels.shape[2] == 3
    _, w, h = jpeg_thumbnail(out.getvalue(), 60)
    assert max(w, h) == min(60, max(width, height))


@given(cols=st.integers(1, 12), rows=st.integers(1, 12), width=st.integers(24, 48), height=st.integers(24, 40))
def test_a_grid_has_a_line_between_any_two_tiles(cols: int, rows: int, width: int, height: int) -> None:
    black = np.zeros((height, width, 3), np.uint8)
    lines = (draw_grid(black, cols, rows) == GRID).all(axis=2)
    assert lines.all(axis=0).sum() == cols - 1 and lines.all(axis=1).sum() == rows - 1
    assert not black.any()
    box = grid_box(cols, rows, thumbnail=True)
    assert len(box.splitlines()) == 2 * rows + 1 and [int(n) for n in re.findall(r"\d+", box)] == list(
        range(cols * rows + 1)
    )


def test_half_blocks_show_two_rows_a_line() -> None:
    pixels = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    text = half_blocks(pixels)
    assert text.plain == "▀▀▀\n" * 3
    styles = [span.style for span in text.spans]
    for at, style in enumerate(styles):
        y, x = 2 * (at // 3), at % 3
        assert style.color.triplet == tuple(pixels[y, x])
        assert style.bgcolor is None if y == 4 else style.bgcolor.triplet == tuple(pixels[y + 1, x])


@given(text=st.text(max_size=40), cuts=st.sets(st.integers(1, 150)))
def test_tokens_that_share_a_character_stay_together(text: str, cuts: set[int]) -> None:
    data = text.encode(errors="replace")
    ends = np.array([*sorted(cut for cut in cuts if cut < len(data)), len(data)])
    tokens = _tokens(np.arange(len(ends), dtype=np.int32), data, ends)
    assert "".join(token.text for token in tokens) == data.decode()
    assert [id for token in tokens for id in token.ids] == list(range(len(ends)))
    whole = {len(text[:k].encode(errors="replace")) for k in range(len(text) + 1)}
    assert len(tokens) == len([end for end in ends.tolist() if end in whole])


def test_broken_bytes_are_shown_as_such() -> None:
    data = b"a\xff\xfe\xfdb\xe6\x96"
    tokens = _tokens(np.arange(6, dtype=np.int32), data, np.array([1, 2, 4, 5, 6, 7]))
    assert [id for token in tokens for id in token.ids] == list(range(6))
    assert tokens[0] == Token(ids=[0], text="a") and "b" in "".join(token.text for token in tokens)
