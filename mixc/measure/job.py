"""What a task of measuring is given. Apart from the step, which loads Datatrove: who measures nothing need not."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from mixc.sources.fragment import Fragment
from mixc.spec.schema import Source


class Job(msgspec.Struct, frozen=True):
    fragment: Fragment
    source: Source
    digest: str
    """Of the object to make."""


def write_jobs(path: Path, jobs: list[Job]) -> None:
    path.write_bytes(msgspec.msgpack.encode(jobs))


@lru_cache(maxsize=1)
def read_jobs(path: Path) -> list[Job]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Job])
