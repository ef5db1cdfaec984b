"""Builds in an object store: S3 and what speaks its protocol, and whatever else fsspec has a package for.

Keys and endpoint come from the environment alone (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, ...). A store that
does not answer is asked again for about a minute, as an outage of seconds must not end a run of weeks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from shards.errors import ShardError

T = TypeVar("T")

WAITS = (1, 2, 4, 8, 16, 32)
"""Seconds between attempts."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A file or folder in a store, with as much of a Path's face as a build needs."""

    url: str

    def __truediv__(self, name: str) -> StoreUrl:
        return StoreUrl(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url if self.url.isprintable() else ascii(self.url)

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


Place = Path | StoreUrl
"""Where a build, or a file of one, is."""


def place(text: str) -> Place:
    """A URL if it has a scheme, else a path."""
    return StoreUrl(text) if "://" in text else Path(text)


@dataclass(frozen=True, slots=True)
class Found:
    """What a store says of a file."""

    size: int
    """Bytes."""
    version: str
    """Another one if the file is written anew: of S3, its ETag."""


def look(at: StoreUrl) -> Found:
    """Raises ShardError, by name, when there is no such file or the store does not say."""

    def ask() -> Found:
        system, path = _system(at)
        info = system.info(path)
        if info["type"] != "file":
            raise ShardError(f"{at}: not a file")
        return Found(int(info["size"]), str(system.ukey(path)))

    return _patiently(at, "", ask)


def fetch(at: StoreUrl, start: int, end: int, what: str) -> bytes:
    """Bytes [start, end) of a file, at most; `what` names them in the error. Raises ShardError."""

    def ask() -> bytes:
        system, path = _system(at)
        data: bytes = system.cat_file(path, start=start, end=end)
        return data

    return _patiently(at, f" {what}:", ask)


def options(url: str) -> dict[str, object]:
    """What fsspec's file system for a URL is made with."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    # a listing that was kept would hide that a file changed while it was read; and without limits a store that is gone is asked
    # again for minutes
    limits = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}}
    return {"use_listings_cache": False, "config_kwargs": limits}


_systems: dict[tuple[int, str], Any] = {}


def _system(at: StoreUrl) -> tuple[Any, str]:
    """fsspec's file system, of this process: none can be used after a fork. And the path in it."""
    import fsspec.core  # type: ignore[import-untyped]

    scheme = at.url.partition("://")[0]
    key = os.getpid(), scheme
    try:
        if key not in _systems:
            _systems[key] = fsspec.core.url_to_fs(at.url, skip_instance_cache=True, **options(at.url))[0]
        return _systems[key], _systems[key]._strip_protocol(at.url)
    except (ImportError, ValueError) as error:
        raise ShardError(
            f"{at}: this URL cannot be opened: {error}; fsspec needs a package for its scheme (s3fs, gcsfs, adlfs)"
        ) from None


def _patiently(at: StoreUrl, what: str, ask: Callable[[], T]) -> T:
    for wait in (*WAITS, None):
        try:
            return ask()
        except ShardError:
            raise
        except FileNotFoundError:
            raise ShardError(f"{at}: missing") from None
        except Exception as error:
            # what a library of a store raises is its own affair: botocore's, aiohttp's, OSError
            why = " ".join(str(error).split())[:300] or type(error).__name__
            if not is_passing(error) or wait is None:
                raise ShardError(f"{at}:{what} cannot be read: {why}") from error
            time.sleep(wait)
    raise AssertionError


def is_passing(error: Exception) -> bool:
    """Whether a store, or the way to it, failed as it may not in a minute."""
    name = type(error).__name__
    return isinstance(error, ConnectionError | TimeoutError) or any(
        part in name for part in ("Connect", "Timeout", "Disconnected", "Payload", "Incomplete")
    )
