"""Tiles against the rule said plainly, in Pillow: resize to the grid, crop box by box, thumbnail last."""

from __future__ import annotations

import io

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import mark, raises

from runtime.images import MEAN, STD, normalise, tile
from shards.images import MAX_SIDE, ImageError

torch.set_num_threads(1)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Along the rows first, as Pillow did for all images before 13.0."""
    rows = image.convert("RGB").resize((width, image.height), Image.Resampling.BICUBIC)
    return rows.resize((width, height), Image.Resampling.BICUBIC)


def plain(image: Image.Image, cols: int, rows: int, thumbnail: bool, side: int) -> list[np.ndarray]:
    resized = resize(image, side * cols, side * rows)
    boxes = [(x * side, y * side, (x + 1) * side, (y + 1) * side) for y in range(rows) for x in range(cols)]
    tiles = [resized.crop(box) for box in boxes]
    if thumbnail:
        tiles.append(resize(image, side, side))
    return [np.asarray(t) for t in tiles]


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    cols=st.integers(1, 4),
    rows=st.integers(1, 4),
    thumbnail=st.booleans(),
    side=st.sampled_from([14, 28]),
    seed=st.integers(0, 9),
)
def test_tiles_are_the_crops_of_the_resized_image(
    width: int, height: int, cols: int, rows: int, thumbnail: bool, side: int, seed: int
) -> None:
    image = picture(width, height, seed)
    found = tile(encode(image), cols=cols, rows=rows, thumbnail=thumbnail, side=side)
    assert found.dtype == np.uint8 and found.shape == (cols * rows + thumbnail, 3, side, side)
    expected = np.stack(plain(image, cols, rows, thumbnail, side))
    assert np.array_equal(found.transpose(0, 2, 3, 1), expected)


@mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_of_any_format_is_cut_alike(kind: str) -> None:
    encoded = encode(picture(300, 200), kind)
    found = tile(encoded, cols=3, rows=2, thumbnail=True, side=56)
    expected = np.stack(plain(Image.open(io.BytesIO(encoded)), 3, 2, True, 56))
    assert np.array_equal(found.transpose(0, 2, 3, 1), expected)


@mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb_as_pillow_does_it(mode: str) -> None:
    image = picture(20, 12).convert(mode)
    encoded = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    found = tile(encoded, cols=2, rows=1, thumbnail=True, side=14)
    expected = np.stack(plain(Image.open(io.BytesIO(encoded)), 2, 1, True, 14))
    assert np.array_equal(found.transpose(0, 2, 3, 1), expected)


def test_bytes_that_are_no_image() -> None:
    whole = encode(picture(64, 64), "JPEG")
    large = encode(Image.new("1", (MAX_SIDE + 1, 1)))
    for bad, why in ((b"", "0 bytes"), (whole[: len(whole) // 2], "truncated"), (large, "at most 65535")):
        with raises(ImageError, match=why):
            tile(bad, cols=1, rows=1, thumbnail=False, side=14)


@mark.parametrize("size", [(1, MAX_SIDE), (MAX_SIDE, 1)])
def test_the_longest_images_are_cut(size: tuple[int, int]) -> None:
    cols, rows = (12, 1) if size[0] > size[1] else (1, 12)
    found = tile(encode(Image.new("1", size, 1)), cols=cols, rows=rows, thumbnail=True, side=448)
    assert found.shape == (13, 3, 448, 448) and (found == 255).all()


def test_normalise_is_imagenets() -> None:
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8))
    found = normalise(tiles)
    assert found.dtype == torch.float32
    for channel in range(3):
        expected = (tiles[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found[:, channel].double(), expected, atol=1e-6, rtol=0)
    assert normalise(tiles, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(normalise(tiles, torch.bfloat16), found.bfloat16())
