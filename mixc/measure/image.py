"""Encoded images: what they are, by content, and whether they can be decoded at all.

An image is kept as it came; this only looks. The size is read from the header, and checked, before anything of that
size is allocated; then the image is decoded once, whole, so that a truncated file is found here and not in training.
What is accepted, and what the runtime then sees of it, is said in shards/images.py, which both ask.
"""

from __future__ import annotations

from dataclasses import dataclass

from shards.images import EXTENSIONS, MAX_PIXELS, ImageError, open_image, prove

__all__ = ["MAX_PIXELS", "ImageError", "ImageFacts", "probe"]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    width: int
    height: int
    extension: str
    """By content: jpg, png, webp, gif, bmp, tif."""


def probe(data: bytes, *, decode: bool = True) -> ImageFacts:
    """Size and format of an encoded image that decodes. Raises ImageError when it does not, or is too large.

    Without `decode`, of one whose header can be read: whether its pixels can be is then for the runtime to find out.
    """
    with open_image(data) as image:
        facts = ImageFacts(*image.size, EXTENSIONS[image.format or ""])
        if decode:
            prove(data, image)
    return facts
