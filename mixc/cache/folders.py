"""Where finished things appear by one atomic rename, and unfinished ones are swept up after a process that died.

    CACHE/objects/<first two hex>/<digest>/     measured fragments (mixc/measure/object.py)
    CACHE/signals/<first two hex>/<digest>/     values of a signal of an object (mixc/signals/store.py)
    CACHE/tokenizers/<digest>/                  built tokenizers and what is known of them (mixc/measure/tokenizer.py)
    CACHE/scan/<first two hex>/<digest>         what a scan found in a file (mixc/sources/scan_cache.py)
    CACHE/blocks/<first two hex>/...            of builds in an object store (shards/blocks.py)
    CACHE/partial/<label>.<host>.<pid>.<n>/     being written by that process; removed by a later run once it is dead
    CACHE/leases/<host>.<pid>.<n>               what that process is using (leases.py)
    CACHE/lock                                  held for moments by who takes a lease and who removes (leases.py)

Everything is named by the digest of what went into it, so it is safe to delete the cache when nothing runs, and two
processes that make the same thing make equal bytes: whoever renames second throws its copy away. A folder of two hex
digits is never removed, or it could go just before something is renamed into it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from mixc.errors import BuildError

_PARTIAL = "partial"
_serial = itertools.count()


def own_name(*before: str) -> str:
    """A name in the cache that no other process has: `before`, host, process and a number."""
    return ".".join((*before, host(), str(os.getpid()), str(next(_serial))))


@contextlib.contextmanager
def partial(cache: Path, label: str) -> Iterator[Path]:
    """A fresh folder on the cache's file system, removed at the end if `publish` has not moved it."""
    folder = cache / _PARTIAL / own_name(label)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn an OSError of the block into a BuildError that names the cache."""
    try:
        yield
    except OSError as error:
        raise BuildError(
            "the cache folder cannot be written to",
            where=str(cache),
            why=error.strerror or str(error),
            mend="set MIXC_CACHE to a folder that can",
        ) from error


def publish(folder: Path, final: Path, whole: Callable[[Path], bool]) -> None:
    """Rename `folder` to `final`, all at once.

    If there is one already and it is `whole`, that one stays: it holds the same bytes. If it is damaged, it gives way.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            folder.rename(final)
            return
        except OSError:  # ENOTEMPTY or EEXIST: another is there
            if not final.exists():
                raise
        if whole(final):
            return
        aside = folder.with_name(f"{folder.name}.damaged.{next(_serial)}")
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            final.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def sweep(cache: Path) -> int:
    """Remove what dead processes of this host left unfinished. Returns how many folders went."""
    removed = 0
    for folder in (cache / _PARTIAL).glob("*"):
        owner, pid = _owner(folder.name)
        if owner == host() and not alive(pid):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _owner(name: str) -> tuple[str, int]:
    fields = name.split(".")
    return (fields[1], int(fields[2])) if len(fields) >= 4 and fields[2].isdigit() else ("", 0)


def host() -> str:
    return socket.gethostname().replace(".", "-")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    try:  # a process that is dead, but of which its parent has not heard yet, still has its number
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # not Linux, or gone by now
        return True
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
