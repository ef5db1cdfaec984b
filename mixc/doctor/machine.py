"""Cores, memory, disk and open files, as far as a run or a compile would meet their end."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from mixc.doctor.finding import Finding
from shards.cache_folder import cache_folder
from shards.counted import counted

_GIB = 1 << 30
_GROUP = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")

LEAST_DISK = 10 * _GIB
LEAST_SHARED = 1 * _GIB
"""Docker gives 64 MiB unless told otherwise, and a loader process that finds no room there dies by SIGBUS."""
LEAST_FILES = 1024


def machine() -> Iterator[Finding]:
    yield _cores()
    yield _memory()
    yield from _shared_memory()
    yield _disk(cache_folder())
    yield _files()


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    quota = _limit("cpu.max")
    if quota is not None:
        allowed = quota[0] / quota[1]
        if allowed < cores:
            return Finding(
                state="note",
                what=f"{counted(allowed, 'core', format(allowed, 'g'))}, of the {cores} that programs see",
                why="a limit of the container's",
                mend="set OMP_NUM_THREADS, and give --workers",
            )
    return Finding(state="ok", what=counted(cores, "core"))


def _memory() -> Finding:
    facts = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts[name] = int(value.split()[0]) * 1024
    total, free = facts["MemTotal"], facts["MemAvailable"]
    limit = _limit("memory.max")
    if limit is not None and limit[0] < total:
        return Finding(
            state="ok",
            what=f"{limit[0] / _GIB:.1f} GiB of memory, of the machine's {total / _GIB:.1f}",
            why="a limit of the container's",
        )
    return Finding(state="ok", what=f"{total / _GIB:.1f} GiB of memory, {free / _GIB:.1f} free")


def _limit(name: str) -> list[int] | None:
    """The numbers in a file of this container's control group (version 2), if there are."""
    try:
        words = (_GROUP / name).read_text().split()
    except OSError:
        return None
    return [int(word) for word in words] if words and all(word.isdigit() for word in words) else None


def _shared_memory() -> Iterator[Finding]:
    if not _SHARED.is_dir():
        return
    free = shutil.disk_usage(_SHARED).free
    few = free < LEAST_SHARED
    yield Finding(
        state="note" if few else "ok",
        what=f"{free / _GIB:.2f} GiB free in {_SHARED}",
        why="loader processes hand batches over there" if few else "",
        mend="docker run --ipc=host, or --shm-size=8g; or train with --workers 0" if few else "",
    )


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            state="note",
            what=f"the cache {folder} cannot be written to",
            why=f"{there} is another's; `mixc compile` needs a cache, a run from an object store is slow without",
            mend="set MIXC_CACHE to a folder that can",
        )
    usage = shutil.disk_usage(there)
    few = usage.free < LEAST_DISK or usage.free < usage.total / 10
    return Finding(
        state="note" if few else "ok",
        what=f"{usage.free / _GIB:.1f} GiB of {usage.total / _GIB:.1f} free at the cache, {folder}",
        why="of a build in a store blocks are kept only while a tenth of the disk is free" if few else "",
        mend="`mixc cache prune`, or set MIXC_CACHE to another disk" if few else "",
    )


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < LEAST_FILES
    return Finding(
        state="note" if few else "ok",
        what=f"{'any number of' if soft == resource.RLIM_INFINITY else soft} open files",
        why="shards, loader processes and connections are files" if few else "",
        mend="ulimit -n 65536" if few else "",
    )
