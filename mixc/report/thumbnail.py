"""Stored images made small, to be looked at. The header is checked as everywhere (shards/images.py) before a pixel is decoded."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.images import open_image

QUALITY = 80
"""Of a thumbnail's JPEG."""


def jpeg_thumbnail(data: bytes, side: int) -> tuple[bytes, int, int]:
    """An encoded image as a JPEG of at most `side` pixels a side, never enlarged; its width and height. Raises ImageError as
    `open_image`."""
    image = _small(data, side, side)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue(), image.width, image.height


def jpeg_uri(data: bytes, side: int) -> tuple[str, int, int]:
    """`jpeg_thumbnail` as a data: URI."""
    jpeg, width, height = jpeg_thumbnail(data, side)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(), width, height


def pixel_thumbnail(data: bytes, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3] of an encoded image, within width x height. Raises ImageError as `open_image`."""
    return np.asarray(_small(data, width, height))


def _small(data: bytes, width: int, height: int) -> Image.Image:
    with open_image(data) as image:
        image.draft("RGB", (2 * width, 2 * height))  # a JPEG is then decoded small
        image.load()
        small = image if image.mode == "RGB" else image.convert("RGB")
        small.thumbnail((width, height), Image.Resampling.BILINEAR)
        return small
