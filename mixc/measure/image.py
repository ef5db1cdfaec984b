"""Encoded images: what they are, by content, and whether they can be decoded at all.

An image is kept as it came; this only looks. The size is read from the header, and checked, before anything of that
size is allocated; then the image is decoded once, whole, so that a truncated file is found here and not in training.

What the runtime sees of an accepted image is Pillow's `Image.open(...).convert("RGB")` of the bytes as stored, as in
the released SAIL-VL code. That decides the following, with docs/tokens.md:

- EXIF orientation is not applied: width, height and tile grid are those of the stored raster.
- Animated files and multi-page TIFFs stand for their first frame.
- CMYK, palette, grey, 1-bit and alpha images are accepted. CMYK is converted without a colour profile; alpha is
  dropped, so transparent pixels show the colour stored under them.
- 16-bit RGB PNGs are accepted: Pillow keeps the high byte. Single-channel images of 16 or 32 bits, or floats, are
  rejected, since `convert("RGB")` clips them at 255, which is to say paints them white.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 89_478_485
"""Pixels of an image at most: a quarter GiB as RGB, where Pillow, too, begins to warn of decompression bombs
(`Image.MAX_IMAGE_PIXELS`, 2^30 / 4 / 3). Ours is a constant, so no setting of a process changes what is accepted."""

_EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
"""What is accepted, by Pillow's name. MPO is how Pillow calls a JPEG with further pictures behind the first, as phones
write them; it is asked for as JPEG."""
_ASK_FOR = tuple(name for name in _EXTENSIONS if name != "MPO")

_CLIPPED = ("I", "F")  # and I;16, I;16B, ...

ImageFault = Literal["image_empty", "image_undecodable", "image_bomb"]


class ImageError(Exception):
    """An image that cannot be trained on. `reason` is a Reject's; the message is its detail, the same on every run."""

    def __init__(self, reason: ImageFault, detail: str) -> None:
        super().__init__(detail)
        self.reason: ImageFault = reason


@dataclass(frozen=True, slots=True)
class ImageFacts:
    width: int
    height: int
    extension: str
    """By content: jpg, png, webp, gif, bmp, tif."""


def probe(data: bytes) -> ImageFacts:
    """Size and format of an encoded image that decodes. Raises ImageError when it does not, or is too large."""
    if not data:
        raise ImageError("image_empty", "0 bytes")
    _check_pixels(*_webp_canvas(data))
    with warnings.catch_warnings():
        # Pillow warns of sizes that are checked below, and of damaged metadata that does not touch a pixel.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=_ASK_FOR) as image:
                width, height = image.size
                _check_pixels(width, height)
                if width < 1 or height < 1:
                    raise ImageError("image_undecodable", f"{width} x {height} pixels")
                if image.mode.startswith(_CLIPPED):
                    raise ImageError("image_undecodable", f"mode {image.mode}: more than 8 bits a pixel, one channel")
                extension = _EXTENSIONS[image.format or ""]
                image.load()
        except (ImageError, MemoryError):  # what this machine has no room for is no fault of the image's
            raise
        except UnidentifiedImageError:  # its message holds a memory address
            raise ImageError("image_undecodable", "no known image format") from None
        except Image.DecompressionBombError:
            raise ImageError("image_bomb", f"more than {MAX_PIXELS} pixels") from None
        except Exception as error:  # a decoder that is fed damaged bytes raises whatever it likes
            raise ImageError("image_undecodable", f"{type(error).__name__}: {error}") from None
    return ImageFacts(width, height, extension)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError("image_bomb", f"{width} x {height} pixels; at most {MAX_PIXELS} are read")


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Canvas of a WebP file, else (0, 0). Pillow allocates two of them on opening, before it can be asked for the size.

    https://developers.google.com/speed/webp/docs/riff_container, "Extended File Format", and RFC 6386 section 9.1.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    match data[12:16]:
        case b"VP8X":  # 24-bit width - 1 and height - 1
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":  # after the signature byte 0x2f: 14 bits each, minus 1
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":  # after the frame tag and start code: 14 bits each, scale above
            width, height = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
            return width & 0x3FFF, height & 0x3FFF
    return 0, 0
