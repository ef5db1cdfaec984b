"""Make room in a cache: what was used least recently goes first, and nothing that a living compile is using.

A folder goes by one rename to CACHE/partial and is removed there, so that nobody ever sees half of it; what a killed prune
leaves there is swept up as any dead process's.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

from mixc.cache.folders import own_name, writing
from mixc.cache.inventory import Kind, Thing, inventory, last_used
from mixc.cache.leases import InUse, alone

_BATCH = 4096
"""Things renamed while the cache is locked: some 0.3 s on a local disk (benchmarks/cache.py), for which a compile that
begins waits."""
_SLACK_NS = 2 * 60 * 10**9
"""2 min in ns: a scan entry last touched so shortly before a compile began may be one that it took as it was (`touch`)."""
_OUR_FILE = re.compile(r"[a-z_]+\.(?:json|parquet|bin)")
_OUR_FOLDER = re.compile(r"parity-[0-9a-f]{32}")


class Removed(msgspec.Struct, kw_only=True):
    things: int = 0
    bytes: int = 0


class Pruned(msgspec.Struct, kw_only=True):
    """What a prune did, or with `dry_run` would do."""

    removed: dict[Kind, Removed]
    freed: int
    """Bytes."""
    left: int
    """Bytes that are still there."""
    in_use: int
    """Of these, bytes that would have gone if no compile were using them."""
    not_ours: list[str]
    """Folders that hold something that mixc did not put there, and so were left."""
    failed: list[str]
    """What the system would not remove, with its words."""
    enough: bool
    """Whether the cache is as small as was asked for."""


def prune(
    cache: Path, *, to: int | None = None, before_ns: int | None = None, everything: bool = False, dry_run: bool = False
) -> Pruned:
    """Remove what dead processes left unfinished; what was last used before `before_ns`; and then the least recently used
    until no more than `to` bytes are left, or `everything`.

    A thing that a compile has come to use since the cache was looked at stays. Raises BuildError when the cache cannot be
    locked or written to, and OSError when it cannot be listed.
    """
    result = Pruned(removed={}, freed=0, left=0, in_use=0, not_ours=[], failed=[], enough=True)
    if not cache.is_dir():
        return result
    things = sorted(inventory(cache), key=lambda thing: (thing.kind != "unfinished", thing.used_ns, thing.name))
    result.left = sum(thing.bytes for thing in things)

    def wanted(thing: Thing) -> bool:
        return (
            everything
            or thing.kind == "unfinished"
            or (before_ns is not None and thing.used_ns < before_ns)
            or (to is not None and result.left > to)
        )

    at = 0  # in the order in which they go: after one that is not wanted, none is
    while at < len(things) and wanted(things[at]):
        away: list[Path] = []
        try:
            with writing(cache), alone(cache) as using:
                for thing in things[at : at + _BATCH]:
                    at += 1
                    if not wanted(thing):
                        break
                    if _is_used(thing, using):
                        result.in_use += thing.bytes
                    elif (
                        (everything or _is_unchanged(thing))
                        and _may_go(thing, result)
                        and (dry_run or _take_away(thing, cache, away, result))
                    ):
                        _count(thing, result)
        finally:
            for folder in away:
                shutil.rmtree(folder, ignore_errors=True)
                if os.path.lexists(folder):
                    result.failed.append(f"{folder}: some of it cannot be removed")
    result.enough = to is None or result.left <= to
    return result


def _count(thing: Thing, result: Pruned) -> None:
    removed = result.removed.setdefault(thing.kind, Removed())
    removed.things += 1
    removed.bytes += thing.bytes
    result.freed += thing.bytes
    result.left -= thing.bytes


def _is_used(thing: Thing, using: InUse) -> bool:
    if using.everything:
        return thing.kind not in ("block", "unfinished")
    match thing.kind:
        case "object":
            return thing.name in using.objects
        case "signal":
            return thing.name in using.signals or thing.object in using.objects_with_signals
        case "tokenizer":
            return using.all_tokenizers or thing.name in using.tokenizers
        case "scan":
            return using.since_ns is not None and thing.used_ns >= using.since_ns - _SLACK_NS
        case "block" | "unfinished":  # who reads a block that has gone fetches it again
            return False


def _is_unchanged(thing: Thing) -> bool:
    """Whether nobody has used it since it was looked at, by a compile that has ended meanwhile."""
    return last_used(thing.path, thing.kind) == thing.used_ns


def _may_go(thing: Thing, result: Pruned) -> bool:
    """Whether there is nothing in it that mixc did not put there."""
    if thing.kind in ("scan", "block", "unfinished"):
        return True
    try:
        with os.scandir(thing.path) as entries:
            ours = all(_is_ours(entry) for entry in entries)
    except OSError:  # gone
        return False
    if not ours:
        result.not_ours.append(thing.path)
    return ours


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir(follow_symlinks=False):
        return _OUR_FOLDER.fullmatch(entry.name) is not None and all(map(_is_ours, os.scandir(entry.path)))
    return _OUR_FILE.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)


def _take_away(thing: Thing, cache: Path, away: list[Path], result: Pruned) -> bool:
    path = Path(thing.path)
    try:
        if path.is_dir():
            # no folder of ours is made for it: on a full disk that fails, and there it must not
            folder = cache / "partial" / own_name("pruned")
            folder.parent.mkdir(exist_ok=True)
            path.rename(folder)
            away.append(folder)
        else:
            path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        result.failed.append(f"{path}: {error.strerror or error}")
        return False
    return True
