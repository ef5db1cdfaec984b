"""What lies in a cache: everything that has the layout of folders.py, and nothing else. No symbolic link is followed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from mixc.cache.folders import alive, host
from mixc.cache.leases import FOREIGN_NS

Kind = Literal["object", "signal", "tokenizer", "scan", "block", "unfinished"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{2}")
_PARTIAL = re.compile(
    r"(?:[0-9a-f]{64}|jobs|signals|tokenizer|parity|pruned)\.([A-Za-z0-9_-]+)\.([0-9]+)\.[0-9]+(?:\.damaged\.[0-9]+)?"
)
_BLOCK = re.compile(r"[0-9a-f]{64}\.[0-9]+")
_NEW_ENTRY_NS = 86_400 * 10**9
"""1 day in ns: a scan entry or a block that is still being written after so long is nobody's."""
INFO = {"object": "object.json", "signal": "signal.json", "tokenizer": "tokenizer.json"}
"""By kind, the file whose mtime is when the thing was last used. It is the last to be written."""


class Thing(msgspec.Struct, frozen=True, gc=False):
    kind: Kind
    name: str
    """Of the file or folder: a digest, but for what is unfinished."""
    path: str
    bytes: int
    """Of its files as they are read, not of the disk's blocks."""
    used_ns: int
    """When it was last used (mtime)."""
    source: str = ""
    """Of an object; empty when it is damaged."""
    samples: int = 0
    tokens: int = 0
    object: str = ""
    """Of a signal's values: the object's digest."""
    signal: str = ""


class _ObjectInfo(msgspec.Struct):
    """Of object.json, what every version has (mixc/measure/facts.py)."""

    source: str
    samples: int
    tokens: int
    files: dict[str, int]


class _SignalInfo(msgspec.Struct):
    """Of signal.json (mixc/signals/store.py)."""

    object: str
    signal: str
    bytes: int


_object_info = msgspec.json.Decoder(_ObjectInfo)
_signal_info = msgspec.json.Decoder(_SignalInfo)


def inventory(cache: Path) -> Iterator[Thing]:
    """Everything in the cache, in no order. What goes while it is looked at is left out. Of an object or a signal one file
    is read: 100,000 in some seconds (benchmarks/cache.py). Raises OSError when the cache cannot be listed."""
    for entry in _below_prefixes(cache / "objects"):
        if thing := _object(entry):
            yield thing
    for entry in _below_prefixes(cache / "signals"):
        if thing := _signal(entry):
            yield thing
    for entry in _entries(cache / "tokenizers"):
        if _DIGEST.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield _measured("tokenizer", entry)
    for entry in _below_prefixes(cache / "scan"):
        with suppress(FileNotFoundError):
            if thing := _single("scan", _DIGEST, entry):
                yield thing
    for entry in _below_prefixes(cache / "blocks"):
        with suppress(FileNotFoundError):
            if thing := _single("block", _BLOCK, entry):
                yield thing
    for entry in _entries(cache / "partial"):
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False) and _is_left(entry):
                yield _measured("unfinished", entry)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Of a folder that is one itself; none of a link to a folder."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):  # ENOTDIR for a link too
        return []
    os.close(file)
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _below_prefixes(folder: Path) -> Iterator[os.DirEntry[str]]:
    for prefix in _entries(folder):
        if _PREFIX.fullmatch(prefix.name) and prefix.is_dir(follow_symlinks=False):
            for entry in _entries(prefix.path):
                if entry.name.startswith((prefix.name, ".new-")):
                    yield entry


def _object(entry: os.DirEntry[str]) -> Thing | None:
    if not _DIGEST.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
        return None
    try:
        data, used = _read(entry.path + "/" + INFO["object"])
        info = _object_info.decode(data)
    except (OSError, msgspec.MsgspecError):
        return _measured("object", entry)
    size = len(data) + sum(info.files.values())
    return Thing("object", entry.name, entry.path, size, used, info.source, info.samples, info.tokens)


def _signal(entry: os.DirEntry[str]) -> Thing | None:
    if not _DIGEST.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
        return None
    try:
        data, used = _read(entry.path + "/" + INFO["signal"])
        info = _signal_info.decode(data)
    except (OSError, msgspec.MsgspecError):
        return _measured("signal", entry)
    size = len(data) + info.bytes
    return Thing("signal", entry.name, entry.path, size, used, object=info.object, signal=info.signal)


def _single(kind: Kind, name: re.Pattern[str], entry: os.DirEntry[str]) -> Thing | None:
    """What is one file, and written under another name."""
    if not entry.is_file(follow_symlinks=False):
        return None
    status = entry.stat(follow_symlinks=False)
    if name.fullmatch(entry.name):
        return Thing(kind, entry.name, entry.path, status.st_size, status.st_mtime_ns)
    if entry.name.startswith(".new-") and time.time_ns() - status.st_mtime_ns > _NEW_ENTRY_NS:
        return Thing("unfinished", entry.name, entry.path, status.st_size, status.st_mtime_ns)
    return None


def _is_left(entry: os.DirEntry[str]) -> bool:
    """Whether the process that was writing this is dead; of another host, whether it has written nothing for long."""
    owner = _PARTIAL.fullmatch(entry.name)
    if owner is None:
        return False
    if owner[1] == host():
        return not alive(int(owner[2]))
    return time.time_ns() - _newest(entry) > FOREIGN_NS


def _measured(kind: Kind, entry: os.DirEntry[str]) -> Thing:
    """A folder whose files are looked at one by one: it does not say of itself what is in it, or is damaged."""
    size = sum(_sizes(entry.path))
    return Thing(kind, entry.name, entry.path, size, last_used(entry.path, kind))


def last_used(path: str, kind: Kind) -> int:
    """The mtime of the file that says so, or else of the thing itself; 0 when it is gone."""
    for place in (f"{path}/{INFO[kind]}", path) if kind in INFO else (path,):
        with suppress(OSError):
            return os.stat(place, follow_symlinks=False).st_mtime_ns  # noqa: PTH116  a Path costs more than the call
    return 0


def _newest(entry: os.DirEntry[str]) -> int:
    newest = 0
    for folder, _, names in os.walk(entry.path):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            with suppress(OSError):
                newest = max(newest, os.stat(path, follow_symlinks=False).st_mtime_ns)  # noqa: PTH116
    return newest


def _sizes(path: str) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                yield os.stat(f"{folder}/{name}", follow_symlinks=False).st_size  # noqa: PTH116


def _read(path: str) -> tuple[bytes, int]:
    """The content of a small file and its mtime."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        data = os.read(file, status.st_size)
    finally:
        os.close(file)
    return data, status.st_mtime_ns
