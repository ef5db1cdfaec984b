"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadlines: machines are shared, and speed is measured in benchmarks/, never by a test. In CI the same examples every
# time, so that a red run says something of the change; at a desk new ones, so that bugs are still found.
settings.register_profile("mixc", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("mixc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: one that comes last keeps one process busy while the others have nothing left to do."""
    ranks: dict[Path, int] = {}
    for item in items:
        rank = 0 if item.get_closest_marker("dist") else 1 if item.get_closest_marker("slow") else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """The port of a server that speaks S3's protocol."""
    from tests.s3 import free_port, start

    port = free_port()
    process = start(port)
    yield port
    process.kill()
    process.wait()
