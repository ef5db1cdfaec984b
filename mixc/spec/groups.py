"""What a mix reaches through its groups: names only; the shares are mixc.plan.groups's.

A group may hold groups. In one mix every name is reached at most once, so a walk that goes no further from a name that it
knows visits each once, however the groups are tangled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MAX_DEPTH = 32
"""Names of a route."""

Groups = Mapping[str, Mapping[str, float] | Sequence[str]]
"""By name: the members, sources or groups, with weights or in a list."""
Route = tuple[str, ...]
"""Names from an entry of the mix down: (`images`, `web`, `captions`)."""


@dataclass(slots=True)
class Reach:
    sources: dict[str, Route] = field(default_factory=dict)
    """What is no group, with the route that leads to it, in the order of the walk."""
    twice: list[tuple[Route, Route]] = field(default_factory=list)
    """Two routes to one name."""
    cycles: list[Route] = field(default_factory=list)
    """Routes whose last name stands in them before."""
    deep: list[Route] = field(default_factory=list)
    """Routes that go on beyond MAX_DEPTH."""


def reach(names: Iterable[str], groups: Groups) -> Reach:
    """All that `names` lead to, depth first, members in their order. Raises nothing."""
    found, seen = Reach(), dict[str, Route]()
    stack: list[Route] = [(name,) for name in reversed(list(names))]
    while stack:
        route = stack.pop()
        name = route[-1]
        if name in route[:-1]:
            found.cycles.append(route)
        elif name in seen:
            found.twice.append((seen[name], route))
        else:
            seen[name] = route
            if name in groups and len(route) >= MAX_DEPTH:
                found.deep.append(route)
            elif name in groups:
                stack += [(*route, member) for member in reversed(list(groups[name]))]
            else:
                found.sources[name] = route
    return found


def stage_sources(mix: Iterable[str], groups: Groups) -> tuple[str, ...]:
    """The sources of a stage, sorted by name. `mix` and `groups` have passed `check`."""
    return tuple(sorted(reach(mix, groups).sources))
