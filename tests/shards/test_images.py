"""One meaning of an image's bytes: Pillow's pixels, whoever decodes them, and Pillow's verdict on damaged ones."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from pytest import MonkeyPatch, mark, raises

import shards.images
from shards.images import MAX_PIXELS, MAX_SIDE, ImageError, decode, open_image, prove

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "specs" / "demo" / "data" / "chat" / "images"
SIZES = [(1, 1), (8, 8), (17, 9), (37, 61), (160, 121)]
SUBSAMPLINGS = ["4:4:4", "4:2:2", "4:2:0"]
RARE_SUBSAMPLINGS = ["440", "411"]  # which Pillow reads and cannot write
WRITTEN: list[dict[str, object]] = [
    {},
    {"progressive": True},
    {"optimize": True},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "progressive": True},
]

MODES = {
    "JPEG": "1 L RGB CMYK YCbCr",
    "MPO": "1 L RGB CMYK YCbCr",
    "PNG": "1 L LA P RGB RGBA",
    "WEBP": "1 L LA P RGB RGBA CMYK",
    "GIF": "1 L LA P RGB RGBA",
    "BMP": "1 L P RGB RGBA",
    "TIFF": "1 L LA P RGB RGBA CMYK YCbCr LAB",
}


def pixels_by_pillow(data: bytes) -> np.ndarray | None:
    """RGB [H, W, 3] by Pillow alone; None for what it cannot decode."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # a decoder raises whatever it likes
        return None


def pixels_of_ours(data: bytes) -> np.ndarray | None:
    try:
        return decode(data)[:, :, :3]
    except ImageError:
        return None


def saved(image: Image.Image, format: str = "JPEG", **save: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **save)
    return file.getvalue()


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    with Image.open(PHOTOGRAPHS / "china.jpg") as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def jpegs(photograph: Image.Image) -> list[bytes]:
    """JPEGs of three colours and of grey, written in every way that Pillow can write them."""
    made = []
    for size, written, quality in product(SIZES, WRITTEN, (5, 90, 100)):
        small = photograph.resize(size)
        made += [saved(small, quality=quality, subsampling=each, **written) for each in SUBSAMPLINGS]
        made.append(saved(small, quality=quality, keep_rgb=True, **written))
        made.append(saved(small.convert("L"), quality=quality, **written))
    for size, quality, each in product(SIZES, (5, 90, 100), RARE_SUBSAMPLINGS):
        small = np.array(photograph.resize(size))
        made.append(simplejpeg.encode_jpeg(small, quality=quality, colorsubsampling=each))
    return made


def test_a_jpeg_has_pillows_pixels_and_pillow_does_not_make_them(jpegs: list[bytes], monkeypatch: MonkeyPatch) -> None:
    expected = [pixels_by_pillow(data) for data in jpegs]

    def refuse(image: Image.Image) -> Image.Image:
        raise AssertionError("left to Pillow")

    monkeypatch.setattr(shards.images, "_as_rgb", refuse)
    for data, pixels in zip(jpegs, expected, strict=True):
        assert np.array_equal(decode(data)[:, :, :3], pixels)


def test_photographs_and_pages_have_pillows_pixels() -> None:
    files = sorted(PHOTOGRAPHS.iterdir())
    assert len(files) > 20
    for file in files:
        data = file.read_bytes()
        assert np.array_equal(pixels_of_ours(data), pixels_by_pillow(data)), file.name


@mark.parametrize(
    ("format", "mode"),
    [(format, mode) for format, modes in MODES.items() for mode in modes.split()],
)
def test_every_other_image_is_pillows(photograph: Image.Image, format: str, mode: str) -> None:
    data = saved(photograph.resize((37, 23)).convert(mode), format)
    assert np.array_equal(pixels_of_ours(data), pixels_by_pillow(data))


@mark.parametrize("format", ["PNG", "TIFF"])
def test_one_channel_of_16_bits_is_refused(photograph: Image.Image, format: str) -> None:
    data = saved(photograph.resize((37, 23)).convert("L").convert("I;16"), format)
    with raises(ImageError, match="more than 8 bits") as caught:
        decode(data)
    assert caught.value.reason == "image_undecodable"


def test_orientation_is_not_applied(photograph: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    assert decode(saved(photograph.resize((40, 20)), exif=exif)).shape == (20, 40, 4)


def damaged(data: bytes, random: Random) -> bytes:
    """Cut off, cut out, put in, overwritten: anywhere, in the header, or with a marker."""
    changed = bytearray(data)
    place = random.randrange(len(data))
    match random.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[: -random.randrange(1, min(20, len(data)))]
        case 2:
            del changed[place : place + random.randrange(1, 30)]
        case 3:
            changed[place:place] = random.randbytes(random.randrange(1, 9))
        case 4:
            changed[random.randrange(min(650, len(data)))] = random.randrange(256)
        case 5:
            changed[place : place + 2] = bytes([0xFF, random.randrange(256)])
    return bytes(changed)


def test_a_damaged_jpeg_has_pillows_verdict_and_pixels(jpegs: list[bytes]) -> None:
    """Whatever simplejpeg passes without a remark, Pillow reads too, and as the same pixels."""
    random = Random(20250110)
    seen = {"ours": 0, "pillow": 0, "neither": 0}
    for _ in range(20_000):
        data = damaged(random.choice(jpegs), random)
        try:
            with open_image(data) as image:
                if image.width * image.height > 1 << 20:  # only slow
                    continue
                pixels = shards.images._plain_jpeg(data, image)
        except ImageError:
            continue
        expected = pixels_by_pillow(data)
        if pixels is not None:
            assert np.array_equal(pixels[:, :, :3], expected)
        seen["ours" if pixels is not None else "neither" if expected is None else "pillow"] += 1
    assert min(seen.values()) > 500, seen


def test_what_is_proven_is_what_is_decoded(jpegs: list[bytes]) -> None:
    """And Pillow's verdict decides where simplejpeg has none."""
    random = Random(1)
    verdicts = set()
    for _ in range(2_000):
        data = damaged(random.choice(jpegs), random)
        try:
            with open_image(data) as image:
                if image.width * image.height > 1 << 20:
                    continue
                prove(data, image)
            proven = True
        except ImageError:
            proven = False
        pixels = pixels_of_ours(data)
        assert proven == (pixels is not None)
        if proven:
            assert np.array_equal(pixels, pixels_by_pillow(data))
        verdicts.add(proven)
    assert verdicts == {True, False}


def test_a_second_header_cannot_enlarge_what_is_allocated(photograph: Image.Image, monkeypatch: MonkeyPatch) -> None:
    """As if simplejpeg read another size than Pillow did and was checked."""
    data, other = saved(photograph.resize((16, 16))), saved(photograph.resize((64, 64)))
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(shards.images.simplejpeg, "decode_jpeg", lambda _, *rest, **more: real(other, *rest, **more))
    assert np.array_equal(pixels_of_ours(data), pixels_by_pillow(data))
    other = saved(photograph.resize((8, 8)))
    assert np.array_equal(pixels_of_ours(data), pixels_by_pillow(data))


def png(width: int, height: int) -> bytes:
    """Whole, of one bit a pixel, all black: few bytes for any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    lines = zlib.compress(bytes((1 + (width + 7) // 8) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


@mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (9460, 9460), (10_000, 12_000)])
def test_what_is_too_large_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with raises(ImageError, match=f"{size[0]} x {size[1]} pixels") as caught:
        decode(png(*size))
    assert caught.value.reason == "image_bomb"
    limit = MAX_PIXELS if size[0] * size[1] > MAX_PIXELS else MAX_SIDE
    assert f"at most {limit}" in str(caught.value)


def test_the_page_says_how_large() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tokens.md").read_text()
    assert f"more than {MAX_PIXELS:,} pixels, or {MAX_SIDE:,} on a side" in page


@mark.parametrize("size", [(MAX_SIDE, 1), (1, MAX_SIDE)])
def test_the_longest_side_is_accepted(size: tuple[int, int]) -> None:
    assert decode(png(*size)).shape == (size[1], size[0], 4)
