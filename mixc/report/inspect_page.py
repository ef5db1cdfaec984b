"""Inspected packs as one static page: images small and inside it, nothing that is loaded, no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from mixc.page.render import render
from mixc.report.inspect import InspectedPack, Run
from mixc.report.thumbnail import jpeg_uri
from shards.atomic import atomic_write
from shards.errors import ShardError
from shards.images import ImageError

SIDE = 320
"""Pixels of an image's longer side on the page."""

ReadImage = Callable[[bytes], bytes]
"""Encoded bytes by digest."""


def write_page(packs: Sequence[InspectedPack], read_image: ReadImage, out: Path, *, mixture: str) -> None:
    """Write the page to the file `out`, whole or not at all."""
    with atomic_write(out) as file:
        file.write(page(packs, read_image, mixture=mixture).encode(errors="replace"))


def page(packs: Sequence[InspectedPack], read_image: ReadImage, *, mixture: str) -> str:
    """An image that a page shows twice is in it once for each."""
    digests = dict.fromkeys(run.image for p in packs for s in p.segments for run in s.runs if run.image)
    grids = {
        (run.image, run.cols, run.rows): run
        for p in packs
        for s in p.segments
        for run in s.runs
        if run.image is not None
    }
    small = {digest: _small(digest, read_image) for digest in digests}
    pictures = {key: _picture(run, *small[run.image or ""]) for key, run in grids.items()}
    return render("report/inspect.html.j2", packs=packs, pictures=pictures, mixture=mixture)


def _small(digest: str, read_image: ReadImage) -> tuple[str, int, int, str]:
    """An image as a data: URI, its width and height; or why there is none."""
    try:
        return *jpeg_uri(read_image(bytes.fromhex(digest)), SIDE), ""
    except (ImageError, ShardError) as error:
        return "", 0, 0, str(error)


def _picture(run: Run, uri: str, width: int, height: int, fault: str) -> Markup:
    """The image with the lines between its tiles, and the tiles' numbers."""
    if fault:
        return Markup('<p class="bad">It cannot be shown: {}</p>').format(fault)
    xs = [k * width / run.cols for k in range(1, run.cols)]
    ys = [k * height / run.rows for k in range(1, run.rows)]
    path = "".join([*(f"M{x:.1f},0V{height}" for x in xs), *(f"M0,{y:.1f}H{width}" for y in ys)])
    lines = Markup('<path class="under" d="{0}"/><path class="over" d="{0}"/>').format(path) if path else Markup("")
    numbers = Markup("").join(
        Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(
            (k % run.cols) * width / run.cols + 4, (k // run.cols) * height / run.rows + 14, k
        )
        for k in range(run.cols * run.rows if path else 0)
    )
    label = f"image {run.image}, grid {run.grid}"
    return Markup(
        '<svg class="picture" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<image href="{3}" width="{0}" height="{1}"/>{4}{5}</svg>'
    ).format(width, height, label, uri, lines, numbers)
