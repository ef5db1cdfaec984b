"""What a stored image stands for: the pixels that Pillow's `Image.open(...).convert("RGB")` makes of its bytes, as in the
released SAIL-VL code. The compiler proves with it that an image decodes, and the trainer sees what it gives: by one
function, so that what was accepted is what is decoded.

Pillow reads the header of every image. The pixels of a plain JPEG then come from simplejpeg, which has the same
libjpeg-turbo below it with the same settings (slow DCT, smooth upsampling of chroma), and gives the same bits in less
time. Whenever it has anything to remark, Pillow decides.

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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""Pixels of an image at most: a quarter GiB as RGB, where Pillow, too, begins to warn of decompression bombs
(`Image.MAX_IMAGE_PIXELS`, 2^30 / 4 / 3). Ours is a constant, so no setting of a process changes what is accepted."""
MAX_SIDE = 65_535
"""Pixels of a side at most: JPEG's own limit. Resizing an image of one column to a tile's width holds `tile_size` times
its pixels, which MAX_PIXELS alone would let grow to 120 GB."""

EXTENSIONS = {
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
_ASK_FOR = tuple(name for name in EXTENSIONS if name != "MPO")

_CLIPPED = ("I", "F")  # and I;16, I;16B, ...

ImageFault = Literal["image_empty", "image_undecodable", "image_bomb"]


class ImageError(ValueError):
    """An image that cannot be trained on. `reason` is a Reject's; the message is its detail, the same on every run."""

    def __init__(self, reason: ImageFault, detail: str) -> None:
        super().__init__(detail)
        self.reason: ImageFault = reason


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """An encoded image, of which only the header has been read and found acceptable.

    Raises ImageError when it is not, before anything of the image's size is allocated, and in the place of whatever a
    decoder raises inside the block. MemoryError stays: what this machine has no room for is no fault of the image's.
    """
    if not data:
        raise ImageError("image_empty", "0 bytes")
    _check_size(*_webp_canvas(data))
    with warnings.catch_warnings():
        # Pillow warns of sizes that are checked below, and of damaged metadata that does not touch a pixel.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=_ASK_FOR) as image:
                width, height = image.size
                _check_size(width, height)
                if width < 1 or height < 1:
                    raise ImageError("image_undecodable", f"{width} x {height} pixels")
                if image.mode.startswith(_CLIPPED):
                    raise ImageError("image_undecodable", f"mode {image.mode}: more than 8 bits a pixel, one channel")
                yield image
        except (ImageError, MemoryError):
            raise
        except UnidentifiedImageError:  # its message holds a memory address
            raise ImageError("image_undecodable", "no known image format") from None
        except Image.DecompressionBombError:
            raise ImageError("image_bomb", f"more than {MAX_PIXELS} pixels") from None
        except Exception as error:  # a decoder that is fed damaged bytes raises whatever it likes
            raise ImageError("image_undecodable", f"{type(error).__name__}: {error}") from None


def prove(data: bytes, image: Image.Image) -> None:
    """Decode an open image, whose bytes `data` are, for nothing but the error that this may raise."""
    if _plain_jpeg(data, image) is None:
        _as_rgb(image)


def decode(data: bytes) -> Pixels:
    """Pixels of an encoded image: uint8 [H, W, 4], red, green, blue and a byte without meaning. Raises ImageError."""
    with open_image(data) as image:
        pixels = _plain_jpeg(data, image)
        if pixels is None:
            image = _as_rgb(image)
            pixels = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(image.height, image.width, 4)
    return pixels


def _as_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _plain_jpeg(data: bytes, image: Image.Image) -> Pixels | None:
    """Pixels of a JPEG of three colours or grey, uint8 [H, W, 4]; None for anything that is Pillow's to decide.

    Pillow passes over libjpeg's warnings and gives what pixels there are; simplejpeg, when strict, refuses at the first.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    # Of the size that Pillow read and that was checked: a second header inside the file cannot make it larger.
    room = np.empty((image.height, image.width, 4), np.uint8)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "RGBX", fastdct=False, fastupsample=False, buffer=room, strict=True
        )
    except ValueError:
        return None
    return pixels if pixels.shape == room.shape else None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError("image_bomb", f"{width} x {height} pixels; at most {MAX_PIXELS} are read")
    if max(width, height) > MAX_SIDE:
        raise ImageError("image_bomb", f"{width} x {height} pixels; a side of at most {MAX_SIDE} is read")


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
