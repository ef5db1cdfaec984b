"""What a task of computing signals is given. Apart from the step, which loads Datatrove: who computes none need not."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from mixc.signals.store import signal_digest
from mixc.sources.fragment import Fragment
from mixc.spec.schema import Source


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A signal as a spec asks for it."""

    name: str
    version: str
    function: str | None = None
    """Of the user's own."""
    settings: dict[str, str | int | float | bool] = {}
    benchmark: str | None = None
    """Digest of what it compares with."""

    def key(self, object: str) -> str:
        """Of its values of an object, in the cache."""
        return signal_digest(
            object,
            name=self.name,
            version=self.version,
            function=self.function,
            settings=self.settings,
            benchmark=self.benchmark,
        )


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An object, and what is to be computed of it, by the digest of the values."""

    fragment: Fragment
    source: Source
    object: str
    facts: str
    """Folder of the object."""
    wanted: dict[str, Wanted]


def write_jobs(path: Path, jobs: list[Job]) -> None:
    path.write_bytes(msgspec.msgpack.encode(jobs))


@lru_cache(maxsize=1)
def read_jobs(path: Path) -> list[Job]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Job])
