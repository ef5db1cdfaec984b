"""An image in grey at a fixed size, and what is computed from it, in integers up to one last division.

Pillow's grey (ITU-R 601-2 luma in 16-bit fixed point) and its bilinear reduction are fixed-point too, so that values
are the same wherever the image decodes to the same pixels.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]

SIDE = 256


def grey(data: bytes) -> Grey:
    """uint8 [256, 256] of an encoded image that Pillow can decode; of an animation, the first frame."""
    from PIL import Image  # for who looks at images: others import this room with its neighbours

    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.uint8)


def laplacian_variance(image: Grey) -> float:
    """Variance, over the N inner pixels, of the Laplacian with the kernel 0 1 0 / 1 -4 1 / 0 1 0:
    (N sum(x^2) - sum(x)^2) / N^2, whose two sides are exact integers."""
    g = image.astype(np.int64)
    x = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return (x.size * int((x * x).sum()) - int(x.sum()) ** 2) / x.size**2


def commonest_level(image: Grey) -> float:
    """Part of the pixels that have the commonest of the 256 levels."""
    return int(np.bincount(image.reshape(-1), minlength=256).max()) / image.size
