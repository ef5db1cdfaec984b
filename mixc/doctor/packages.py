"""Python, and the packages that mixc asks for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from mixc.doctor.finding import Finding


def packages() -> Iterator[Finding]:
    yield Finding(state="ok", what=f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    try:
        asked = requires("mixc") or []
    except PackageNotFoundError:
        yield Finding(
            state="note",
            what="mixc is not installed, so what it asks for is not known",
            why="it runs from a folder",
            mend="pip install -e . in that folder",
        )
        return
    yield from compare(asked)


def compare(asked: list[str]) -> Iterator[Finding]:
    """What is asked for, as in pyproject.toml, against what is installed. Extras are nobody's duty."""
    wanted = [Requirement(text) for text in asked]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    fine = 0
    for one in wanted:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            yield Finding(
                state="problem",
                what=f"{one.name} is not installed",
                why=f"mixc asks for {one}",
                mend=f"pip install '{one}'",
            )
            continue
        if one.specifier.contains(found, prereleases=True):
            fine += 1
        else:
            yield Finding(
                state="note",
                what=f"{one.name} {found} is not a version that mixc is tested with",
                why=f"mixc asks for {one}",
                mend=f"pip install '{one}'",
            )
    yield Finding(state="ok", what=f"{fine} of {len(wanted)} packages are there as mixc asks for them")
