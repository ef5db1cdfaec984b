"""What lies in a cache, in few numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mixc.cache.inventory import Thing, inventory
from mixc.cache.leases import living


class Group(msgspec.Struct, kw_only=True):
    name: str = ""
    """Of a source or a signal; empty for damaged things, which the next compile that needs them makes again."""
    things: int = 0
    samples: int = 0
    tokens: int = 0
    """Of objects, image tokens expanded."""
    bytes: int = 0
    last_used: datetime | None = None
    """UTC; of the thing last used."""


class Summary(msgspec.Struct, kw_only=True):
    cache: str
    limit: int | None
    """Bytes."""
    processes: int
    """Compiles, plans and diffs that are using the cache now."""
    sources: list[Group]
    """Objects by source; by size, the largest first, as all lists."""
    signals: list[Group]
    others: dict[str, Group]
    """`tokenizer`, `scan`, `block`, `unfinished`."""
    total: Group


def summarise(cache: Path, limit: int | None) -> Summary:
    """Raises OSError when the cache cannot be listed. Writes nothing; an empty or missing cache is an empty summary."""
    sources: dict[str, Group] = {}
    signals: dict[str, Group] = {}
    others = {name: Group(name=name) for name in ("tokenizer", "scan", "block", "unfinished")}
    total = Group()
    newest: dict[int, int] = {}
    for thing in inventory(cache):
        if thing.kind == "object":
            group = sources.setdefault(thing.source, Group(name=thing.source))
        elif thing.kind == "signal":
            group = signals.setdefault(thing.signal, Group(name=thing.signal))
        else:
            group = others[thing.kind]
        for each in (group, total):
            _add(each, thing)
            newest[id(each)] = max(newest.get(id(each), 0), thing.used_ns)
    for group in (*sources.values(), *signals.values(), *others.values(), total):
        if used := newest.get(id(group)):
            group.last_used = datetime.fromtimestamp(used // 10**9, UTC)
    return Summary(
        cache=str(cache),
        limit=limit,
        processes=living(cache),
        sources=_by_size(sources),
        signals=_by_size(signals),
        others=others,
        total=total,
    )


def _add(group: Group, thing: Thing) -> None:
    group.things += 1
    group.samples += thing.samples
    group.tokens += thing.tokens
    group.bytes += thing.bytes


def _by_size(groups: dict[str, Group]) -> list[Group]:
    return sorted(groups.values(), key=lambda group: (-group.bytes, group.name))
