"""From an encoded image to the tiles that the vision tower sees.

The rule is the family's dynamic resolution, which follows InternVL2: the whole image is resized to the grid,
ignoring its aspect ratio, and cut row by row; a thumbnail of the whole image comes last. Which grid an image
gets is decided by the compiler and read from the pack. Tiles stay bytes until they are on the device: a
quarter of the traffic, and normalising there costs nothing.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch

from runtime.resize import resize_into
from shards.images import decode

MEAN = (0.485, 0.456, 0.406)
"""ImageNet, as in SAIL-VL2-2B's preprocessor_config.json and in InternVL."""
STD = (0.229, 0.224, 0.225)


def tile(encoded: bytes, *, cols: int, rows: int, thumbnail: bool, side: int) -> npt.NDArray[np.uint8]:
    """Decode an image and cut it: uint8 [M, 3, side, side] with M = cols * rows + thumbnail.

    Colour is Pillow's RGB conversion (transparency dropped, EXIF rotation not applied, as in the reference); the filter
    is Pillow's bicubic; both bit for bit. Raises ImageError, a ValueError, for bytes that the compiler would not have
    accepted (shards/images.py), too many pixels among them.
    """
    pixels_HW4 = decode(encoded)
    tiles_M3SS = np.empty((cols * rows + thumbnail, 3, side, side), np.uint8)
    resize_into(pixels_HW4, tiles_M3SS[: cols * rows], cols=cols, rows=rows)
    if thumbnail:
        resize_into(pixels_HW4, tiles_M3SS[cols * rows :], cols=1, rows=1)
    return tiles_M3SS


def normalise(tiles_M3SS: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 tiles to the tower's input, on the tiles' device: scaled to [0, 1], less the mean, over the
    deviation.

    Computed in float32, returned as `dtype`.
    """
    mean_311, std_311 = _moments(tiles_M3SS.device)
    scaled = tiles_M3SS.float().div_(255).sub_(mean_311).div_(std_311)  # in place: room for the tiles once, not thrice
    return scaled.to(dtype)


@functools.cache
def _moments(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (MEAN, STD))
    return mean, std
