"""`mixc check`: all that can be known of a spec and its sources before anything runs.

Every file of every source is opened and digested, its columns are read, and each expression is held against them. No
row is measured, so a broken row is not found here: those are rejects, counted by `mixc plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mixc.compile import cache_folder, check_loaded, scan_source
from mixc.plan.expressions import parse_expressions, resolve
from mixc.sources.read import columns
from mixc.spec.groups import stage_sources
from mixc.spec.load import load


class CheckedSource(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    files: int
    bytes: int
    """Of the files and the image files that they name."""
    columns: dict[str, str]
    """Scalar columns and their types, over all files."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    sources: list[CheckedSource]
    warnings: list[str]


def check_spec(path: Path, overrides: Sequence[str] = ()) -> Checked:
    """Raises SpecError for what is wrong with the spec, SourceError for a source that cannot be read."""
    loaded = load(path, overrides)
    warnings = check_loaded(loaded)
    spec = loaded.spec
    expressions = parse_expressions(spec, loaded.place)
    stages_of: dict[str, list[int]] = {name: [] for name in spec.sources}
    for number, stage in enumerate(spec.stages):
        for name in stage_sources(stage.mix, spec.groups):
            stages_of[name].append(number)
    checked = []
    for name, source in sorted(spec.sources.items()):
        fragments = scan_source(loaded, name, cache_folder())
        found: dict[str, str] = {}
        for fragment in fragments:
            for column, kind in columns(fragment, source).items():
                found[column] = kind if found.get(column, kind) == kind else f"{found[column]} | {kind}"
        resolve(name, expressions.of_source(name, stages_of[name]), found, loaded.place)
        checked.append(
            CheckedSource(
                name=name,
                files=len(fragments),
                bytes=sum(fragment.bytes for fragment in fragments),
                columns=dict(sorted(found.items())),
            )
        )
    return Checked(sources=checked, warnings=warnings)
