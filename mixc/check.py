"""`mixc check`: what can be known of a spec and its sources before anything runs, at a bounded cost.

The files of every source are listed; of the first few, the first rows are read as a compile would read them, and their
columns are held against what the spec asks for. No file is read whole: `mixc plan` counts every reject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mixc.errors import MixcError, SourceError, SpecError
from mixc.inputs import check_loaded
from mixc.measure.template import template_named
from mixc.plan.expressions import Use, parse_expressions, resolve
from mixc.reject_rate import mend
from mixc.rejects import Rejected, few_of, lines, of_head
from mixc.sources.head import Head, head, head_columns, same_files
from mixc.spec.groups import stage_sources
from mixc.spec.load import LoadedSpec, load
from mixc.spec.schema import Source
from shards.counted import counted


class CheckedSource(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    files: int
    bytes: int
    """Of the files, without the image files that they name."""
    columns: dict[str, str]
    """Scalar columns and their types, of the first files."""
    rows: int
    """That were read."""
    rejects: dict[str, int]
    """Of these, by reason: what would be rejected."""
    reject_examples: list[Rejected]
    """A few of them by name."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that would stop a compile."""

    source: str
    what: str
    where: str
    why: str
    mend: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    sources: list[CheckedSource]
    problems: list[Problem]
    warnings: list[str]


def check_spec(path: Path, overrides: Sequence[str] = ()) -> Checked:
    """Raises SpecError for what is wrong with the spec as such. What is wrong with sources is in the result, all of
    it, by source."""
    loaded = load(path, overrides)
    warnings = check_loaded(loaded)
    spec = loaded.spec
    heads: dict[str, Head] = {}
    checked, problems = [], []

    def note(name: str, error: MixcError) -> None:
        problems.append(Problem(source=name, what=error.what, where=error.where, why=error.why, mend=error.mend))

    uses = _uses(loaded)
    for name, source in sorted(spec.sources.items()):
        if source.template is not None:
            try:
                template_named(source.template)
            except SpecError as error:
                place = loaded.locate(f"sources.{name}.template")
                note(name, SpecError(error.what, where=place, mend=error.mend))
        try:
            found = heads[name] = head(name, source, loaded.base)
        except SourceError as error:
            note(name, error)
            continue
        for problem in found.problems:
            note(name, problem)
        columns: dict[str, str] = {}
        if found.fragments and not found.problems:
            try:
                columns = _resolved(found, source, name, uses[name], loaded)
            except MixcError as error:
                note(name, error)
        bad, rows = of_head(name, found, source, loaded.base), len(found.rows)
        reasons = Counter(reject.reason for reject in bad)
        named = few_of(bad)
        if bad:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            text = f"{len(bad)} of the first {counted(rows, 'row')} would be rejected: {told}"
            examples = "\n".join(lines(named, "`mixc plan` reads all rows"))
            all_read = found.whole and len(bad) > spec.max_reject_rate * rows
            if all_read or len(bad) == rows:  # else the rows that were not read may be better
                where = loaded.locate(f"sources.{name}")
                note(name, SourceError(text, where=where, why=f"such as\n{examples}", mend=mend(len(bad), rows)))
            else:
                warnings.append(f"{loaded.locate(f'sources.{name}')}: {text}\n{examples}")
        checked.append(
            CheckedSource(
                name=name,
                files=len(found.paths),
                bytes=sum(stamp.size for stamp in found.stamps),
                columns=columns,
                rows=rows,
                rejects=dict(sorted(reasons.items())),
                reject_examples=named.examples,
            )
        )
    for one, first_path, other, copy in same_files(heads):
        same = "the same file as" if first_path == copy else "the same content, it seems, as"
        warnings.append(f"{loaded.locate(f'sources.{other}.path')}: {copy} is {same} {first_path} of source {one}")
    return Checked(ok=not problems, sources=checked, problems=problems, warnings=warnings)


def _uses(loaded: LoadedSpec) -> dict[str, list[Use]]:
    spec = loaded.spec
    expressions = parse_expressions(spec, loaded.place)
    stages_of: dict[str, list[int]] = {name: [] for name in spec.sources}
    for number, stage in enumerate(spec.stages):
        for name in stage_sources(stage.mix, spec.groups):
            stages_of[name].append(number)
    return {name: list(expressions.of_source(name, stages)) for name, stages in stages_of.items()}


def _resolved(found: Head, source: Source, name: str, uses: list[Use], loaded: LoadedSpec) -> dict[str, str]:
    """The columns of the first files; of all files when the first lack one that an expression uses."""
    computed = [signal if isinstance(signal, str) else signal.name for signal in loaded.spec.signals]
    columns = head_columns(found, source)
    try:
        resolve(name, uses, columns, loaded.place, computed=computed)
    except SpecError:
        if len(found.fragments) == len(found.paths):
            raise
        columns = head_columns(found, source, all_files=True)
        resolve(name, uses, columns, loaded.place, computed=computed)
    return columns
