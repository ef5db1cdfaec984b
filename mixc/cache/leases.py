"""Leases: what each living compile is using, so that nothing of it is removed.

A lease is a file in CACHE/leases that its process holds an exclusive flock on. The kernel lets go of it when the process
ends, however it ends, so a lease of this host that can be locked is a dead one's. Of another host flock may not tell (a
network disk may keep locks to each host); there a lease counts for `FOREIGN_NS` after it was last written.

CACHE/lock orders two things that must not cross: "I shall use these; are they there?" takes it shared, "nobody uses these;
away with them" exclusively. So whoever has named what it uses before it looks either finds it and keeps it, or finds
nothing and makes it again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mixc.cache.folders import host, own_name, writing
from mixc.errors import BuildError

FOREIGN_NS = 7 * 86_400 * 10**9
"""7 days in ns: how long another host's lease counts. Ours: longer than a compile should take, short enough that what a
crashed machine held is not kept for good."""

_LEASES, _LOCK = "leases", "lock"
_NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lease(msgspec.Struct, kw_only=True):
    """What a process uses, by digests in hex."""

    since_ns: int
    """When it began, by the clock of the cache's file system. Scan entries of this time and later are in use."""
    objects: list[str] = []
    signals: list[str] | None = None
    """None: all of its objects."""
    tokenizers: list[str] | None = None
    """None: all that there are."""


@dataclass(slots=True)
class InUse:
    """What all living processes use."""

    processes: int = 0
    everything: bool = False
    """A lease of a living process could not be read."""
    since_ns: int | None = None
    objects: set[str] = field(default_factory=set)
    objects_with_signals: set[str] = field(default_factory=set)
    signals: set[str] = field(default_factory=set)
    all_tokenizers: bool = False
    tokenizers: set[str] = field(default_factory=set)

    def add(self, lease: Lease | None) -> None:
        """None for one that cannot be read."""
        self.processes += 1
        if lease is None:
            self.everything = True
            return
        self.since_ns = lease.since_ns if self.since_ns is None else min(self.since_ns, lease.since_ns)
        self.objects.update(lease.objects)
        if lease.signals is None:
            self.objects_with_signals.update(lease.objects)
        else:
            self.signals.update(lease.signals)
        if lease.tokenizers is None:
            self.all_tokenizers = True
        else:
            self.tokenizers.update(lease.tokenizers)


class Holder:
    """The lease of this process."""

    def __init__(self, cache: Path, file: int | None) -> None:
        self._cache, self._file = cache, file
        self.lease = Lease(since_ns=0 if file is None else os.fstat(file).st_mtime_ns)

    def write(self) -> None:
        """Make the lease say what `lease` says. Raises BuildError when the disk is full."""
        if self._file is None:
            return
        data = msgspec.json.encode(self.lease)
        with writing(self._cache), locked(self._cache, fcntl.LOCK_SH):
            os.ftruncate(self._file, 0)
            done = 0
            while done < len(data):
                done += os.pwrite(self._file, data[done:], done)


@contextmanager
def holding(cache: Path) -> Iterator[Holder]:
    """A lease until the end of the block, at first on every tokenizer and nothing else.

    A cache that may not be written to, or lies where there are no locks, is used without a lease. Raises BuildError when
    the disk is full.
    """
    place = cache / _LEASES / own_name()
    file = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache, fcntl.LOCK_SH):
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (*_NO_PERMISSION, *_NO_LOCKS, errno.ENOTDIR, errno.EEXIST):
            with writing(cache):
                raise
        if file is not None:
            place.unlink()
            os.close(file)
            file = None
    try:
        holder = Holder(cache, file)
        holder.write()
        yield holder
    finally:
        if file is not None:
            with suppress(OSError):
                place.unlink()
            os.close(file)


def living(cache: Path) -> int:
    """How many processes hold a lease now. Writes nothing."""
    return sum(not _is_dead_at(place) for place in _leases(cache))


def _is_dead_at(place: Path) -> bool:
    try:
        file = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return _is_dead(file, place.name)
    finally:
        os.close(file)


def _leases(cache: Path) -> list[Path]:
    with suppress(OSError), os.scandir(cache / _LEASES) as entries:
        return [Path(each.path) for each in entries if _is_lease(each.name) and each.is_file(follow_symlinks=False)]
    return []


def _in_use(cache: Path) -> InUse:
    """What living processes use. Removes the leases of dead ones. To be called with the cache locked."""
    found = InUse()
    for place in _leases(cache):
        _add(place, found)
    return found


def _add(place: Path, found: InUse) -> None:
    try:
        file = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # it has just ended
        return
    except OSError:  # another user's
        found.add(None)
        return
    try:
        if _is_dead(file, place.name):
            with suppress(OSError):
                place.unlink()
            return
        with open(file, "rb", closefd=False) as stream:
            found.add(msgspec.json.decode(stream.read(), type=Lease))
    except msgspec.MsgspecError:
        found.add(None)
    finally:
        os.close(file)


def _is_dead(file: int, name: str) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # not LOCK_EX: on NFS that needs a file open for writing
    except OSError:  # it is held; or this file system does not say, and then it had better be
        return False
    return name.split(".")[0] == host() or time.time_ns() - os.fstat(file).st_mtime_ns > FOREIGN_NS


def _is_lease(name: str) -> bool:
    fields = name.split(".")
    return len(fields) == 3 and bool(fields[0]) and fields[1].isdigit() and fields[2].isdigit()


@contextmanager
def locked(cache: Path, how: int) -> Iterator[None]:
    """Hold CACHE/lock, shared or exclusively. Raises OSError."""
    file = os.open(cache / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


@contextmanager
def alone(cache: Path) -> Iterator[InUse]:
    """Nobody takes a lease within the block, which gets what is in use. Raises BuildError when the
    cache cannot be locked."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(cache, fcntl.LOCK_EX))
        except OSError as error:
            raise BuildError(
                "the cache cannot be locked, so nobody can tell what a compile is using",
                where=str(cache),
                why=error.strerror or str(error),
                mend="use a cache that you may write to and whose file system has locks, or delete it when nothing runs",
            ) from error
        yield _in_use(cache)
