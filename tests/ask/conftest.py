"""A small run, trained by the trainer on a small build, and what it has of a tokenizer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from mixc.ask.model import Model, find
from mixc.measure.template import TEMPLATES
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from shards.pack import Pack
from tests.runtime import small
from tests.runtime.launching import train

REPO = Path(__file__).resolve().parents[2]
GEOMETRY = msgspec.structs.replace(
    small.GEOMETRY, name="sail-vl-tiny-v1", image_start_id=151669, image_end_id=151670, image_context_id=151671
)
"""Of an InternViT, so that every form can be exported; ids as the tokenizer has them."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tokenizer(cache: Path) -> Tokenizer:
    return load_tokenizer("qwen2.5", base=REPO, cache=cache)


def steps_of(steps: int, seed: int) -> list[list[Pack]]:
    """Those of the small build, images at the tokenizer's ids."""
    shift = GEOMETRY.image_context_id - small.GEOMETRY.image_context_id

    def moved(pack: Pack) -> Pack:
        tokens = pack.tokens + np.where(pack.tokens >= small.GEOMETRY.image_start_id, shift, 0).astype(np.int32)
        return Pack(tokens=tokens, segments=pack.segments, spans=pack.spans, images=pack.images)

    return [[moved(pack) for pack in step] for step in small.steps_of(steps, seed)]


@pytest.fixture(scope="session")
def run(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages, trained. Not to be changed."""
    folder = tmp_path_factory.mktemp("asked")
    build = small.write_build(
        folder / "build",
        {"align": (small.ALIGN, steps_of(1, seed=1)), "tune": (small.SETTINGS, steps_of(2, seed=2))},
        geometry=GEOMETRY,
        model=GEOMETRY.name,
        tokenizer=tokenizer.digest,
        template=TEMPLATES["univl-chat"].digest,
    )
    train(build, "--out", folder / "run", "--workers", "0")
    return folder / "run"


@pytest.fixture(scope="session")
def model(run: Path, cache: Path) -> Model:
    return find(run, tokenizer=None, template=None, cache=cache)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: one.png of one tile, wide.png of three and a thumbnail, and others that are no images, or hardly."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "one.png").write_bytes(small.IMAGES[1])
    Image.linear_gradient("L").resize((1300, 440)).convert("RGB").save(folder / "wide.png")
    (folder / "half.png").write_bytes((folder / "wide.png").read_bytes()[:200])
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (70_000, 1_300)).save(folder / "huge.png")
    return folder


Mixc = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def environment(cache: Path) -> Mapping[str, str]:
    """Of a process that is to find this code, this cache and no GPU."""
    found = {"MIXC_CACHE": str(cache), "PYTHONPATH": str(REPO), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **found, "TERM": "dumb", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def mixc(environment: Mapping[str, str], tokenizer: Tokenizer) -> Mixc:
    """The command line: `mixc(*arguments, status=0, stdin="")`."""

    def start(*arguments: object, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mixc", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=REPO,
            env=dict(environment),
            timeout=120,
        )
        assert done.returncode == status and "Traceback" not in done.stderr, f"{done.stdout}\n{done.stderr}"
        return done

    return start
