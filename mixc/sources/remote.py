"""Files at a URL, through fsspec: S3 and what speaks its protocol, and whatever else fsspec has a package for.

Keys and endpoint come from the environment alone (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, ...), as for
every tool of S3: never from the spec, so that none ever stands in a lock.

What a library says of a failure becomes an OSError where it is about one file (not there, not allowed), so that an
image that is missing is a reject; and a SourceError where the store itself fails, since then no row can be judged.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from mixc.errors import SourceError
from shards.store import is_passing, options

BLOCK = 4 << 20
"""Bytes that a read asks the store for at a time, at least."""
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "fsspec")


def file_system_of(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises SourceError: unknown scheme, package not
    installed."""
    import fsspec.core  # type: ignore[import-untyped]

    try:
        file_system, inner = fsspec.core.url_to_fs(url, **options(url))
    except (ImportError, ValueError) as error:
        raise SourceError(
            "this URL cannot be opened",
            where=url,
            why=str(error),
            mend="install the fsspec package for its scheme (s3fs, gcsfs, adlfs), or copy the files here",
        ) from None
    return file_system, str(inner)


def open_remote(url: str) -> BinaryIO:
    """Opens the file at a URL for reading; seeks are ranged reads. Raises OSError, SourceError."""
    file_system, inner = file_system_of(url)
    with failures(url):
        file = file_system.open(inner, "rb", block_size=BLOCK)
    return cast(BinaryIO, io.BufferedReader(_File(file, url), BLOCK >> 2))


def info(url: str) -> dict[str, Any]:
    """What the store knows of a file now: `type`, `size` and, of S3, `ETag`. Raises as `open_remote`."""
    file_system, inner = file_system_of(url)
    with failures(url):
        return dict(file_system.info(inner))


def listing(url: str) -> list[tuple[str, bool]]:
    """The names in a folder, unsorted, and whether each is a folder. Raises as `open_remote`."""
    file_system, inner = file_system_of(url)
    with failures(url):
        entries = file_system.ls(inner, detail=True)
    names = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in entries]
    return [(name.rsplit("/", 1)[-1], folder) for name, folder in names if name != inner.rstrip("/")]


@contextmanager
def failures(url: str) -> Iterator[None]:
    """Turns what the libraries raise into OSError or SourceError."""
    try:
        yield
    except (SourceError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in _LIBRARIES and not isinstance(error, OSError):
            raise
        raise SourceError(
            _what(error),
            where=url if url.isprintable() else ascii(url),
            why=" ".join(str(error).split())[:500] or type(error).__name__,
            mend=_mend(error),
        ) from None


def _what(error: Exception) -> str:
    name = type(error).__name__
    if "Credential" in name:
        return "there are no keys for this store"
    if _changed(error):
        return "this file changed while it was read"
    return "the store does not answer" if is_passing(error) else "the store refuses"


def _mend(error: Exception) -> str:
    if "Credential" in type(error).__name__:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if _changed(error):
        return "wait until its writer is done, and start again"
    return "check the network, AWS_ENDPOINT_URL and AWS_REGION, and start again: what is done is kept"


def _changed(error: Exception) -> bool:
    return "PreconditionFailed" in str(error) or type(error).__name__ == "FileExpired" or "precondition" in str(error)


class _File(io.RawIOBase):
    """A file of fsspec's, whose failures are told in our words."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with failures(self._url):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with failures(self._url):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
