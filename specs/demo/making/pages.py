"""Document pages drawn from real text, so that the text is known exactly: what OCR should read.

The truth of a page is its title and paragraphs as they were drawn, one blank line between them, without the
line breaks that the page's width made. Only whole paragraphs are drawn. Of two columns the left is first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from making.prose import Document

_CJK = frozenset(("ja", "zh"))
_NOT_FIRST = frozenset("、。，．：；！？）」』】〉》”’ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ,.:;!?)")
"""Characters that do not begin a line (a short form of the Japanese and Chinese rules)."""

_FONTS = {
    "DejaVu Sans": ("fonts-dejavu-core", "truetype/dejavu/DejaVuSans.ttf"),
    "DejaVu Serif": ("fonts-dejavu-core", "truetype/dejavu/DejaVuSerif.ttf"),
    "Liberation Sans": ("fonts-liberation2", "truetype/liberation2/LiberationSans-Regular.ttf"),
    "Liberation Serif": ("fonts-liberation2", "truetype/liberation2/LiberationSerif-Regular.ttf"),
    "Liberation Mono": ("fonts-liberation2", "truetype/liberation2/LiberationMono-Regular.ttf"),
    "Linux Libertine": ("fonts-linuxlibertine", "opentype/linux-libertine/LinLibertine_R.otf"),
    "EB Garamond": ("fonts-ebgaramond", "opentype/ebgaramond/EBGaramond12-Regular.otf"),
    "IPA Gothic": ("fonts-ipafont-gothic", "opentype/ipafont-gothic/ipag.ttf"),
    "IPA Mincho": ("fonts-ipafont-mincho", "opentype/ipafont-mincho/ipam.ttf"),
    "AR PL UMing CN": ("fonts-arphic-uming", "truetype/arphic/uming.ttc"),
    "AR PL UKai CN": ("fonts-arphic-ukai", "truetype/arphic/ukai.ttc"),
    "WenQuanYi Zen Hei": ("fonts-wqy-zenhei", "truetype/wqy/wqy-zenhei.ttc"),
}
FONT_LICENSES = {
    "fonts-dejavu-core": "Bitstream Vera (free), changes public domain",
    "fonts-liberation2": "OFL-1.1",
    "fonts-linuxlibertine": "OFL-1.1, or GPL-2.0-or-later with font exception",
    "fonts-ebgaramond": "OFL-1.1",
    "fonts-ipafont-gothic": "IPA Font License 1.0",
    "fonts-ipafont-mincho": "IPA Font License 1.0",
    "fonts-arphic-uming": "Arphic Public License",
    "fonts-arphic-ukai": "Arphic Public License",
    "fonts-wqy-zenhei": "GPL-2.0 with font embedding exception",
}
_LATIN = (
    "DejaVu Serif",
    "Liberation Sans",
    "Linux Libertine",
    "EB Garamond",
    "DejaVu Sans",
    "Liberation Serif",
    "Liberation Mono",
)
_FONTS_OF = {
    "ja": ("IPA Mincho", "IPA Gothic"),
    "zh": ("AR PL UMing CN", "WenQuanYi Zen Hei", "AR PL UKai CN"),
    "ru": ("DejaVu Serif", "Liberation Serif", "DejaVu Sans", "Linux Libertine", "Liberation Sans"),
}
_SIZES = (22, 24, 26, 28)
_SHEETS = ((848, 1200), (848, 1200), (900, 1200))
"""Pixels, width by height; two of three have nearly the ratio of A4."""


@dataclass(frozen=True, slots=True)
class Layout:
    font: str
    size: int
    columns: int
    sheet: tuple[int, int]
    noise: float
    """Standard deviation of the grey levels; 0 is a clean page, shipped as PNG."""
    skew: float
    """Degrees counter-clockwise."""

    @property
    def quality(self) -> float:
        """1 for a clean, straight page; 0.07 less a grey level of noise, 0.2 less a degree of skew."""
        return round(1 - 0.07 * self.noise - 0.2 * abs(self.skew), 2)


@dataclass(frozen=True, slots=True)
class Page:
    document: Document
    layout: Layout
    text: str
    image: bytes


def layout_of(number: int, language: str) -> Layout:
    """The n-th page's look: every choice cycles with its own period, so that they combine."""
    fonts = _FONTS_OF.get(language, _LATIN)
    noisy = number % 8 in (2, 5, 7)
    return Layout(
        font=fonts[number % len(fonts)],
        size=_SIZES[number * 3 % len(_SIZES)] + (2 if language in _CJK else 0),
        columns=2 if number % 5 == 4 else 1,
        sheet=_SHEETS[number // 2 % len(_SHEETS)],
        noise=(2.0, 3.0, 4.0, 8.0)[number // 3 % 4] if noisy else 0.0,
        skew=(0.4, -0.6, 0.8, -1.2, 0.3)[number // 3 % 5] if noisy else 0.0,
    )


def draw(document: Document, layout: Layout, number: int, roots: dict[str, Path]) -> Page | None:
    """A page with the document's title and as many whole paragraphs as fit; None when that is fewer than two,
    or when the font lacks one of the characters."""
    width, height = layout.sheet
    margin, gutter = 72, 36
    column_width = (width - 2 * margin - gutter * (layout.columns - 1)) // layout.columns
    package, file = _FONTS[layout.font]
    path = str(roots[package] / "usr/share/fonts" / file)
    body = ImageFont.truetype(path, layout.size, layout_engine=ImageFont.Layout.BASIC)
    head = ImageFont.truetype(path, layout.size * 4 // 3, layout_engine=ImageFont.Layout.BASIC)
    if _lacking(body, document.text):
        return None
    image = Image.new("L", layout.sheet, 255)
    pen = ImageDraw.Draw(image)
    y = margin
    for line in _wrap(document.blocks[0], head, width - 2 * margin, document.language):
        pen.text((margin, y), line, font=head, fill=10)
        y += layout.size * 7 // 4
    top = y = y + layout.size
    column, drawn = 0, [document.blocks[0]]
    step = layout.size * 3 // 2
    for block in document.blocks[1:]:
        lines = list(_wrap(block, body, column_width, document.language))
        if y + step * len(lines) > height - margin:
            column, y = column + 1, top
            if column == layout.columns or y + step * len(lines) > height - margin:
                break
        for line in lines:
            pen.text((margin + column * (column_width + gutter), y), line, font=body, fill=20)
            y += step
        y += step // 2
        drawn.append(block)
    if len(drawn) < 3:
        return None
    return Page(document, layout, "\n\n".join(drawn), _scan(image, layout, number))


def _lacking(font: ImageFont.FreeTypeFont, text: str) -> set[str]:
    """Characters that the font draws as it draws one that no font has."""

    def drawn(char: str) -> tuple[tuple[int, int], bytes]:
        mask = font.getmask(char)
        return mask.size, bytes(mask)

    missing = drawn("\U0010fffe")
    return {char for char in set(text) if not char.isspace() and drawn(char) == missing}


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, language: str) -> Iterator[str]:
    line = ""
    for unit in _units(text, language):
        if line and font.getlength((line + unit).rstrip()) > width and unit not in _NOT_FIRST:
            yield line.rstrip()
            line = unit.lstrip()
        else:
            line += unit
    if line.strip():
        yield line.rstrip()


def _units(text: str, language: str) -> Iterator[str]:
    """What a line may break between: words with the space after them, and in Chinese and Japanese single
    characters, but Latin words whole."""
    word = ""
    for char in text:
        if language in _CJK and ord(char) > 0x2E7F:
            if word:
                yield word
                word = ""
            yield char
        else:
            word += char
            if char == " ":
                yield word
                word = ""
    if word:
        yield word


def _scan(image: Image.Image, layout: Layout, number: int) -> bytes:
    """Clean: PNG of 16 greys. Otherwise turned a little, with noise: JPEG. The noise is a sum of twelve bytes
    a pixel from the Mersenne Twister, whose stream NumPy keeps fixed."""
    data = io.BytesIO()
    if not layout.noise and not layout.skew:
        image.quantize(16, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        return data.getvalue()
    turned = image.rotate(layout.skew, Image.Resampling.BICUBIC, fillcolor=255)
    pixels = np.asarray(turned, dtype=np.int64)
    stream = np.random.RandomState(number)
    total = sum(stream.randint(0, 256, pixels.shape, dtype=np.int64) for _ in range(12)) - 1530
    noisy = pixels * 240 // 255 + total * round(layout.noise * 256) // (256 * 256)  # total has deviation 256
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=60, optimize=True)
    return data.getvalue()
