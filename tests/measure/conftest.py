"""One tokenizer for all tests of the room (it is built once, in seconds), and makers of small samples."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from shards.manifest import Geometry


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer("qwen2.5", base=Path(), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shape() -> Geometry:
    """sail-vl-2b's geometry, written out."""
    return Geometry(
        name="sail-vl-2b",
        tile_size=448,
        tokens_per_tile=256,
        max_tiles=12,
        min_tiles=1,
        thumbnail=True,
        vocab_size=151936,
        image_start_id=151669,
        image_end_id=151670,
        image_context_id=151671,
        pad_id=151643,
    )


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """`picture(width, height, format="PNG", seed=0, mode="RGB", **save)`: an encoded image of smooth colours."""

    def make(width: int, height: int, format: str = "PNG", seed: int = 0, mode: str = "RGB", **save: object) -> bytes:
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        pixels = np.stack([x * 3 + seed, y * 5 + seed, x + y + 7 * seed], axis=-1).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, format, **save)
        return file.getvalue()

    return make
