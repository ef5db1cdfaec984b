"""An inspected pack on a terminal: supervised text marked, images as small pictures with their grids where there is colour and
room, else as boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from mixc.report.inspect import InspectedPack, Run, Segment
from mixc.report.thumbnail import pixel_thumbnail
from shards.counted import counted
from shards.errors import ShardError
from shards.images import ImageError

WIDE = 60
"""Columns that a terminal must have for pictures."""
PICTURE = (48, 40)
"""Pixels of a picture at most: a character is one wide and two high."""
GRID = (255, 64, 160)
"""Colour of the lines between tiles."""
BOX = 5
"""Columns of a tile drawn as a box."""

ReadImage = Callable[[bytes], bytes]
"""Encoded bytes by digest."""


def show(pack: InspectedPack, read_image: ReadImage, console: Console) -> None:
    """Supervised text is bold green; without colour it stands between ⟦ and ⟧. Tokens, where the pack has them, are underlined by
    turns, or end with │."""
    console.print(
        f"stage {pack.stage}, step {pack.step}, pack {pack.pack}: {counted(len(pack.segments), 'sample')}, "
        f"{pack.tokens:,} of {counted(pack.capacity, 'token')}",
        highlight=False,
    )
    for segment in pack.segments:
        _segment(segment, read_image, console)


def _segment(segment: Segment, read_image: ReadImage, console: Console) -> None:
    piece = f", piece {segment.piece}" if segment.piece else ""
    console.rule(
        f"{segment.place}: {segment.source} {segment.id[:12]} epoch {segment.epoch}{piece}, {counted(segment.tokens, 'token')}, "
        f"{segment.supervised_tokens:,} supervised, weight {segment.weight:.4g}",
        align="left",
    )
    text = Text()
    for run in segment.runs:
        if run.image is None:
            text.append_text(_text(run, colour=console.color_system is not None))
            continue
        size = f"{run.width} x {run.height} pixels, " if run.width else ""
        text.append(f"[image {run.image[:12]}, {size}grid {run.grid}]", style="cyan")
        text.append("\n")
        text.append_text(_picture(run, read_image, console))
    console.print(text, soft_wrap=True, highlight=False)


def _text(run: Run, *, colour: bool) -> Text:
    style = "bold green" if run.supervised else "dim"
    if run.tokens is None:
        body = Text(_visible(run.text), style)
    else:
        body = Text()
        for number, token in enumerate(run.tokens):
            if colour:
                body.append(_visible(token.text), f"{style} underline" if number % 2 else style)
            else:
                body.append(_visible(token.text) + "│", style)
    return body if colour or not run.supervised else Text.assemble("⟦", body, "⟧")


def _visible(text: str) -> str:
    """Control characters, which could move a terminal's cursor or colour it, as pictures of them."""
    return "".join(_shown(c) for c in text)


def _shown(c: str) -> str:
    if c in "\n\t":
        return c
    if c < " ":
        return chr(0x2400 + ord(c))
    return "\N{SYMBOL FOR DELETE}" if c == "\x7f" else "\N{REPLACEMENT CHARACTER}" if "\x80" <= c < "\xa0" else c


def _picture(run: Run, read_image: ReadImage, console: Console) -> Text:
    if console.color_system not in ("256", "truecolor", "windows") or console.width < WIDE:
        return Text(grid_box(run.cols, run.rows, thumbnail=run.thumbnail) + "\n", "cyan")
    assert run.image is not None
    try:
        pixels = pixel_thumbnail(read_image(bytes.fromhex(run.image)), *PICTURE)
    except (ImageError, ShardError) as error:
        return Text(f"[it cannot be shown: {_visible(str(error))}]\n", "red")
    text = half_blocks(draw_grid(pixels, run.cols, run.rows))
    return text.append("and the whole image once more, as a thumbnail\n", "dim") if run.thumbnail else text


def draw_grid(pixels: npt.NDArray[np.uint8], cols: int, rows: int) -> npt.NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3] with a line of one pixel between tiles, of which the image has cols x rows of equal size."""
    drawn = pixels.copy()
    height, width = pixels.shape[:2]
    for k in range(1, cols):
        drawn[:, min(width - 1, round(k * width / cols))] = GRID
    for k in range(1, rows):
        drawn[min(height - 1, round(k * height / rows))] = GRID
    return drawn


def half_blocks(pixels: npt.NDArray[np.uint8]) -> Text:
    """Pixels uint8 [H, W, 3] as characters whose upper half is one pixel and whose lower half the next."""
    text = Text()
    for y in range(0, len(pixels), 2):
        for x in range(pixels.shape[1]):
            upper = Color.from_rgb(*pixels[y, x].tolist())
            lower = Color.from_rgb(*pixels[y + 1, x].tolist()) if y + 1 < len(pixels) else None
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


def grid_box(cols: int, rows: int, *, thumbnail: bool) -> str:
    """A grid in lines, its tiles numbered in their order; the thumbnail comes last."""
    line = "─" * BOX
    lines = ["┌" + "┬".join([line] * cols) + "┐"]
    for row in range(rows):
        lines.append("│" + "│".join(f"{row * cols + col:^{BOX}}" for col in range(cols)) + "│")
        lines.append("├" + "┼".join([line] * cols) + "┤")
    lines[-1] = "└" + "┴".join([line] * cols) + "┘"
    return "\n".join(lines) + (f" and {cols * rows}, the whole as a thumbnail" if thumbnail else "")
