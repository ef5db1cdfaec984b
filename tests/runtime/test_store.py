"""Training from a build in an object store."""

from __future__ import annotations

import uuid
from pathlib import Path

import msgspec
import pytest
import torch

from runtime.loader import Division, Play, play
from shards.store import StoreUrl
from tests.runtime.launching import train
from tests.runtime.test_loader import assert_equal


@pytest.fixture
def there(build: Path, s3_server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A copy of the build in a bucket of its own."""
    from tests.s3 import point_to, s3fs

    point_to(s3_server, monkeypatch)
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "cache"))
    bucket = "b-" + uuid.uuid4().hex
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.mkdir(bucket)
    system.put(str(build), f"{bucket}/small", recursive=True)
    return f"s3://{bucket}/small"


@pytest.mark.parametrize("workers", [0, 2])
def test_micro_batches_are_those_of_the_build_here(build: Path, there: str, workers: int) -> None:
    division = Division(batch=4, world=1, micro_batch=2)
    steps = range(1, 4)
    here = play(Play(build, "tune", division, 0), steps, workers=0, device=torch.device("cpu"))
    # the process that trains has asked the store, too, when it starts its loaders
    far = Play(StoreUrl(there), "tune", division, 0)
    first = far[0]
    assert first.packs == (0, 1)
    for one, other in zip(here, play(far, steps, workers=workers, device=torch.device("cpu")), strict=True):
        assert (one.packs, one.digests, one.weights) == (other.packs, other.digests, other.weights)
        assert_equal(one.row.expand(), other.row.expand())


def test_a_run_from_there_is_the_run_from_here_and_goes_on_here(build: Path, there: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(build, "--out", whole, "--max-steps", 4)
    train(there, "--out", parts, "--max-steps", 2, "--workers", 1)
    train(build, "--out", parts, "--max-steps", 4, "--resume")
    assert losses(whole) == losses(parts)


def losses(folder: Path) -> list[object]:
    lines = [msgspec.json.decode(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [(line["stage"], line["step"], line["loss"], line["packs"]) for line in lines]


def test_a_build_that_is_not_there_is_a_mistake_that_is_told(there: str, tmp_path: Path) -> None:
    told = train(there + "-none", "--out", tmp_path / "run", status=2)
    assert f"{there}-none/manifest.json: missing" in told and "Traceback" not in told
