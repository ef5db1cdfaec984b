"""A flipped byte anywhere in a build, or a file cut anywhere, is found by `verify` with the file's name; and
a reader refuses it with the file's name or gives what was written: never anything else."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from shards.build import Build
from shards.errors import ShardError
from shards.verify import verify

SMALL = 350
SAMPLED = 50
"""Bytes flipped in a file of more than SMALL bytes; `test_everywhere` flips them all."""


def everything(path: Path) -> dict[object, bytes]:
    """All that the runtime can read from a build."""
    build = Build.open(path)
    found: dict[object, bytes] = {"root": build.manifest.root.encode()}
    for entry in build.manifest.stages:
        stage = build.stage(entry.name)
        found[entry.name] = stage.steps.tobytes()
        for i in range(len(stage)):
            found[entry.name, i] = stage.pack_bytes(i)
            for image in stage.pack(i).images["digest"]:
                found[image.tobytes()] = build.image(image.tobytes())
    return found


def names(build: Path) -> list[str]:
    return sorted(p.relative_to(build).as_posix() for p in build.rglob("*") if p.is_file())


def check(build: Path, name: str, expected: dict[object, bytes]) -> None:
    """With something wrong in the file `name`."""
    assert name in {problem.file for problem in verify(build)}
    try:
        assert everything(build) == expected
    except ShardError as error:
        assert str(error).startswith(f"{build}")
        # A fault of the index can show as an image that is not where it says, so under the shard's name.
        assert name in str(error) or (name == "media/index" and "media/" in str(error))


def flip_at(build: Path, places: list[tuple[str, int, int]], flipped: Any) -> None:
    expected = everything(build)
    for name, at, mask in places:
        with flipped(build / name, at, mask):
            check(build, name, expected)
    assert verify(build) == []


def test_flipped_bytes(build_copy: Path, flipped: Any) -> None:
    chosen = random.Random(1)
    places = []
    for name in names(build_copy):
        size = (build_copy / name).stat().st_size
        bytes_ = range(size) if size <= SMALL else chosen.sample(range(size), SAMPLED)
        places += [(name, at, chosen.randrange(1, 256)) for at in bytes_]
    assert {name for name, _, _ in places} == set(names(build_copy))
    flip_at(build_copy, places, flipped)


@pytest.mark.slow
def test_everywhere(build_copy: Path, flipped: Any) -> None:
    places = [(name, at, 1 << at % 8) for name in names(build_copy) for at in range((build_copy / name).stat().st_size)]
    flip_at(build_copy, places, flipped)


def test_truncation(build_copy: Path) -> None:
    expected = everything(build_copy)
    for name in names(build_copy):
        path = build_copy / name
        good = path.read_bytes()
        step = 1 if len(good) <= SMALL else 61
        for size in range(len(good) - 1, -1, -step):
            os.truncate(path, size)
            check(build_copy, name, expected)
        path.write_bytes(good)
    assert verify(build_copy) == []


def test_a_byte_too_many(build_copy: Path) -> None:
    expected = everything(build_copy)
    for name in names(build_copy):
        path = build_copy / name
        good = path.read_bytes()
        path.write_bytes(good + b"\0")
        check(build_copy, name, expected)
        path.write_bytes(good)
