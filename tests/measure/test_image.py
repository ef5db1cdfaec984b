"""What is accepted as an image, under what name, and why not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixc.measure.image import MAX_PIXELS, ImageError, ImageFacts, probe

Picture = Callable[..., bytes]


@pytest.mark.parametrize(
    ("format", "extension"),
    [
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("MPO", "jpg"),
    ],
)
def test_size_and_format_are_told_by_content(picture: Picture, format: str, extension: str) -> None:
    assert probe(picture(37, 23, format)) == ImageFacts(37, 23, extension)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}])
def test_every_kind_of_webp_header_is_read(picture: Picture, options: dict) -> None:
    """Lossy, lossless, and extended (with metadata)."""
    assert probe(picture(201, 103, "WEBP", **options)) == ImageFacts(201, 103, "webp")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_modes_that_become_rgb_without_loss_of_meaning(picture: Picture, mode: str) -> None:
    format = "TIFF" if mode == "CMYK" else "PNG"
    assert probe(picture(20, 10, format, mode=mode)).width == 20


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_single_channel_images_are_rejected(picture: Picture, mode: str) -> None:
    with pytest.raises(ImageError, match="more than 8 bits") as caught:
        probe(picture(20, 10, "TIFF", mode=mode))
    assert caught.value.reason == "image_undecodable"


def test_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
    assert probe(file.getvalue()) == ImageFacts(40, 20, "jpg")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_stands_for_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    assert probe(file.getvalue()).width == 30


def test_no_bytes() -> None:
    with pytest.raises(ImageError) as caught:
        probe(b"")
    assert caught.value.reason == "image_empty"


@pytest.mark.parametrize(
    "data",
    [b"\0", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff"],
)
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        probe(data)
    assert caught.value.reason == "image_undecodable"
    assert "0x" not in str(caught.value)  # no memory address: details are the same on every run


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated(picture: Picture, format: str, kept: float) -> None:
    data = picture(300, 200, format)
    with pytest.raises(ImageError) as caught:
        probe(data[: int(len(data) * kept)])
    assert caught.value.reason == "image_undecodable"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_facts_without_decoding(picture: Picture, format: str) -> None:
    """From the header alone: the same, and of a file whose pixels are damaged too."""
    data = bytearray(picture(300, 200, format))
    whole = probe(bytes(data))
    assert probe(bytes(data), decode=False) == whole
    if format in ("PNG", "JPEG", "GIF"):  # the header comes first, and each has more than half of its bytes behind it
        data[len(data) // 2 :] = b""
        assert probe(bytes(data), decode=False) == whole
        with pytest.raises(ImageError):
            probe(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "image_empty"), (b"<svg/>", "image_undecodable"), (b"\xff\xd8\xff", "image_undecodable")]
)
def test_what_has_no_header_is_refused_without_decoding(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        probe(data, decode=False)
    assert caught.value.reason == reason


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def webp_bomb(width: int, height: int) -> bytes:
    """An extended WebP: Pillow would allocate two canvases to open it."""
    body = (
        b"VP8X" + struct.pack("<IB3x", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("data", [bomb(30_000, 30_000), bomb(9460, 9460), webp_bomb(16_383, 16_383)])
def test_a_bomb_is_told_by_its_header(data: bytes, decode: bool) -> None:
    with pytest.raises(ImageError, match=f"at most {MAX_PIXELS}|more than {MAX_PIXELS}") as caught:
        probe(data, decode=decode)
    assert caught.value.reason == "image_bomb"


def test_a_bomb_is_never_allocated(tmp_path: Path) -> None:
    """30,000 x 30,000 are 2.7 GB as RGB; the whole process gets 400 MB more than it has after its imports."""
    (tmp_path / "bomb.png").write_bytes(bomb(30_000, 30_000))
    (tmp_path / "bomb.webp").write_bytes(webp_bomb(16_383, 16_383))
    program = """
import resource, sys
from pathlib import Path
from mixc.measure.image import ImageError, probe
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    try:
        probe(Path(name).read_bytes())
    except ImageError as error:
        print(error.reason)
"""
    files = [str(tmp_path / "bomb.png"), str(tmp_path / "bomb.webp")]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["image_bomb", "image_bomb"]


def test_the_limit_itself_is_accepted() -> None:
    file = io.BytesIO()
    Image.new("1", (9459, 9459)).save(file, "PNG")  # 89,472,681 pixels
    assert probe(file.getvalue()).width == 9459
    assert 9459**2 <= MAX_PIXELS < 9460**2


@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_raise_nothing_else(picture: Picture, data: st.DataObject) -> None:
    image = bytearray(picture(40, 30, data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = probe(bytes(image))
    except ImageError as error:
        assert error.reason in ("image_undecodable", "image_bomb")
    else:
        with Image.open(io.BytesIO(bytes(image))) as opened:
            assert np.asarray(opened.convert("RGB")).shape == (facts.height, facts.width, 3)
