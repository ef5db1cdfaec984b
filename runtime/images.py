"""From an encoded image to the tiles that the vision tower sees.

The rule is the family's dynamic resolution, which follows InternVL2: the whole image is resized to the grid,
ignoring its aspect ratio, and cut row by row; a thumbnail of the whole image comes last. Which grid an image
gets is decided by the compiler and read from the pack. Tiles stay bytes until they are on the device: a
quarter of the traffic, and normalising there costs nothing.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
"""ImageNet, as in SAIL-VL2-2B's preprocessor_config.json and in InternVL."""
STD = (0.229, 0.224, 0.225)


def tile(encoded: bytes, *, cols: int, rows: int, thumbnail: bool, side: int) -> npt.NDArray[np.uint8]:
    """Decode an image and cut it: uint8 [M, 3, side, side] with M = cols * rows + thumbnail.

    Colour is Pillow's RGB conversion (transparency dropped, EXIF rotation not applied, as in the reference);
    the filter is Pillow's bicubic. Raises OSError (PIL.UnidentifiedImageError among them), SyntaxError or
    ValueError as Pillow does when the bytes are no image that it can read.
    """
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert("RGB")
    tiles_M3SS = np.empty((cols * rows + thumbnail, 3, side, side), np.uint8)
    grid = np.asarray(image.resize((side * cols, side * rows), Image.Resampling.BICUBIC))
    blocks = grid.reshape(rows, side, cols, side, 3).transpose(0, 2, 4, 1, 3)  # row, column, channel, y, x
    tiles_M3SS[: cols * rows] = blocks.reshape(cols * rows, 3, side, side)
    if thumbnail:
        whole = image.resize((side, side), Image.Resampling.BICUBIC)
        tiles_M3SS[-1] = np.asarray(whole).transpose(2, 0, 1)
    return tiles_M3SS


def normalise(tiles_M3SS: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 tiles to the tower's input, on the tiles' device: scaled to [0, 1], less the mean, over the
    deviation.

    Computed in float32, returned as `dtype`.
    """
    mean_311, std_311 = _moments(tiles_M3SS.device)
    return ((tiles_M3SS.float() / 255 - mean_311) / std_311).to(dtype)


@functools.cache
def _moments(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (MEAN, STD))
    return mean, std
