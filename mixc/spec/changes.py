"""Differences between two nested values, by path. Pure."""

from __future__ import annotations

from typing import Any

import msgspec


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One value that differs. `path` is dotted, lists of named things by name; None stands for "not there"."""

    path: str
    a: Any
    b: Any


def changes(a: Any, b: Any, path: str = "") -> list[Change]:
    """What differs, leaf by leaf, in path order. Lists whose items all have a `name` are compared by name, and their
    order as one value more; other lists are leaves."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for key in sorted(a.keys() | b.keys(), key=str):
            found += changes(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
        return found
    if _named(a) and _named(b) and (a or b):
        by_name = changes({item["name"]: item for item in a}, {item["name"]: item for item in b}, path)
        before, after = ([item["name"] for item in side] for side in (a, b))
        common_before, common_after = ([n for n in x if n in y] for x, y in ((before, after), (after, before)))
        order = [Change(path=f"{path} (order)", a=before, b=after)] if common_before != common_after else []
        return by_name + order
    return [] if a == b and type(a) is type(b) else [Change(path=path, a=a, b=b)]


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value)
