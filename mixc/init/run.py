"""`mixc init`: look at a folder, and write a spec that trains on what is there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from mixc.errors import SourceError, SpecError
from mixc.init.find import Candidate, PassedOver, find, pattern, relative
from mixc.init.guess import Guess, guess
from mixc.init.write import TINY, Named, can_be_said, source_names, write
from mixc.measure.family import FAMILIES, known
from mixc.measure.template import template_named
from mixc.reject_rate import KEY, likely_rate, rate_for
from mixc.rejects import Told, few_of, of_head
from mixc.sources import files
from mixc.sources.excerpt import excerpt, reason
from mixc.sources.folders import METADATA, huggingface, imagefolder
from mixc.sources.formats.detect import detect
from mixc.sources.formats.rows import all_names, raw_rows
from mixc.sources.fragment import Fragment
from mixc.sources.head import head
from mixc.sources.paths import instead
from mixc.sources.raw import RawRow
from mixc.sources.sample import Reject
from mixc.spec.schema import MAX_REJECT_RATE, Source
from shards.atomic import atomic_write
from shards.counted import counted

ROWS = 32
"""Of a file, so many rows are looked at."""
LOOKED = 8
"""Of the files of one folder and suffix, each of so many is looked at; of more, the first, the last and some between."""


class InitSource(msgspec.Struct, frozen=True, kw_only=True):
    """A source that was found."""

    name: str
    path: str | list[str]
    kind: str
    keys: dict[str, str]
    """Other keys of the source in the spec."""
    files: int
    bytes: int
    """Of its files, without images that they name."""
    columns: list[str]
    usable: int
    """Of the `rows` that were read, those that become samples."""
    rows: int
    rejects: Told
    """A few of the others by name."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    why: str


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    suffix: str
    count: int
    first: list[str]
    """Some of them."""


class Init(msgspec.Struct, frozen=True, kw_only=True):
    spec: str
    """Where it was written."""
    sources: list[InitSource]
    max_reject_rate: float | None
    """Written into the spec where the rows that were read, of one of the sources, go beyond its default."""
    warnings: list[str]
    left: list[Left]
    """What was found and is no source, and why."""
    ignored: list[Passed]
    """Files that are neither data nor belong to any, by suffix."""


def init(folder: Path, out: Path, *, model: str = TINY, seed: int = 1, force: bool = False) -> Init:
    """Write a spec at `out` over what `folder` holds. Raises SourceError when there is nothing to train on or the folder cannot be
    read, SpecError for a model that is not known, or when something stands at `out` and `force` is not set."""
    known(model, FAMILIES, noun="model", where="--model")
    if out.exists() and not force:
        raise SpecError(
            "this file is there already", where=str(out), mend="name another with -o, or replace it with --force"
        )
    if folder.exists() and not folder.is_dir():
        raise SourceError("this is no folder", where=str(folder), mend=f"name the folder it is in: {folder.parent}")
    if not folder.exists():
        raise SourceError("this folder is not there", where=str(folder), why=instead(os.path.abspath(folder)))  # noqa: PTH100
    base = out.absolute().parent
    candidates, passed, ignored = find(folder)
    base.mkdir(parents=True, exist_ok=True)  # a path that leads through it is only then a path
    named: list[tuple[Candidate, Guess]] = []
    for candidate in candidates:
        said = tuple(path for path in candidate.paths if can_be_said(path))
        unsaid = "its name holds a character that no spec can"
        passed += [PassedOver(path=path, why=unsaid) for path in candidate.paths if path not in said]
        for part, told in _guessed(dataclasses.replace(candidate, paths=said)) if said else ():
            if isinstance(told, Guess) and not all(map(can_be_said, told.keys.values())):
                told = "the name of a column holds a character that no spec can"
            if isinstance(told, Guess):
                named.append((part, told))
            else:
                passed.append(PassedOver(path=part.paths[0], why=told))
    sources: list[Named] = []
    found: list[InitSource] = []
    warnings: list[str] = []
    total, rate = 0, MAX_REJECT_RATE
    for name, (candidate, told) in zip(source_names([_hint(each) for each, _ in named]), named, strict=True):
        path = pattern(candidate, base)
        source = msgspec.convert({"path": path, "kind": told.kind, "format": candidate.format, **told.keys}, Source)
        try:
            seen = head(name, source, base)
        except SourceError as error:
            passed.append(PassedOver(path=candidate.paths[0], why=error.what))
            continue
        if seen.problems:
            passed.append(PassedOver(path=candidate.paths[0], why=str(seen.problems[0].what)))
            continue
        bad, rows = of_head(name, seen, source, base), len(seen.rows)
        usable = rows - len(bad)
        if not usable:
            why = f"none of its first {counted(rows, 'row')} can be used ({bad[0].reason}, {bad[0]})"
            passed.append(PassedOver(path=candidate.paths[0], why="\n".join([why, *bad[0].line])))
            continue
        if len(bad) > MAX_REJECT_RATE * rows:
            needed = rate_for(len(bad), rows) if seen.whole else likely_rate(len(bad), rows)
            rate = max(rate, needed)
            warnings.append(f"{len(bad)} of the first {counted(rows, 'row')} of {name} cannot be used")
        size = sum(stamp.size for stamp in seen.stamps)
        total += size
        count = len(seen.paths)
        about = f"{counted(count, 'file')}, {usable} of the first {counted(rows, 'row')} can be used"
        if candidate.format == "imagefolder" and not any(path.endswith(METADATA) for path in seen.paths):
            about = f"images with a .txt beside each; {usable} of the first {rows} can be used"
        sources.append(Named(name=name, path=path, format=candidate.format, guess=told, about=about))
        found.append(
            InitSource(
                name=name,
                path=path,
                kind=told.kind,
                keys=told.keys,
                files=count,
                bytes=size,
                columns=list(told.columns),
                usable=usable,
                rows=rows,
                rejects=few_of(bad),
            )
        )
    left = [Left(path=relative(each.path, base), why=each.why) for each in sorted(passed, key=lambda each: each.path)]
    unknown = [
        Passed(suffix=each.suffix, count=each.count, first=[relative(path, base) for path in each.first])
        for each in ignored
    ]
    if not sources:
        why = (
            "; ".join(f"{each.path}: {each.why.splitlines()[0]}" for each in left[:5])
            or "no file in it has a name that mixc knows"
        )
        raise SourceError(
            "there is nothing to train on in this folder",
            where=str(folder),
            why=why,
            mend="docs/sources.md lists the formats",
        )
    limit = rate if warnings else None
    if limit is not None:
        warnings.append(
            f"the spec lets that many pass, by `{KEY}: {limit:g}`: mend the data, and take the line out, when you can"
        )
    text = write(
        source_names([folder.absolute().name])[0],
        model,
        seed,
        sources,
        bytes=total,
        max_reject_rate=limit,
        system=template_named(FAMILIES[model].template).system,
    )
    with atomic_write(out) as file:
        file.write(text.encode())
    return Init(spec=str(out), sources=found, max_reject_rate=limit, warnings=warnings, left=left, ignored=unknown)


def _hint(candidate: Candidate) -> str:
    """Words for a source's name: the file's, when it is alone, else the folder's."""
    path = Path(candidate.paths[0])
    if candidate.format is None and len(candidate.paths) == 1:
        return path.name.split(".")[0]
    return path.parent.name if candidate.format is None or len(candidate.paths) > 1 else path.name


def _guessed(candidate: Candidate) -> Iterator[tuple[Candidate, Guess | str]]:
    """What the candidate is. Files of one suffix that are of different kinds become several."""
    if candidate.format is not None:
        yield candidate, _look_into_folder(candidate)
        return
    paths = list(candidate.paths)
    if len(paths) > LOOKED:  # shards of one set, in all likelihood; a head of each would be slow
        looked = [paths[place * (len(paths) - 1) // (LOOKED - 1)] for place in range(LOOKED)]
        told = [_look_into(path, candidate.format) for path in looked]
        if all(isinstance(each, Guess) and _same(each, told[0]) for each in told):
            yield candidate, told[0]
            return
    groups: list[tuple[list[str], Guess | str]] = []
    for path in paths:
        told_of = _look_into(path, candidate.format)
        group = next((members for members, one in groups if isinstance(told_of, Guess) and _same(told_of, one)), None)
        if group is None:
            groups.append(([path], told_of))
        else:
            group.append(path)
    for members, told_of in groups:
        yield Candidate(paths=tuple(members), format=candidate.format), told_of


def _same(one: Guess, other: Guess | str) -> bool:
    return isinstance(other, Guess) and (one.kind, one.keys) == (other.kind, other.keys)


def _look_into_folder(candidate: Candidate) -> Guess | str:
    folder = candidate.paths[0]
    try:
        with files.reading(folder):
            inside = huggingface(folder, "`path`") if candidate.format == "huggingface" else imagefolder(folder)
    except SourceError as error:
        return f"{error.what}{f' ({error.why})' if error.why else ''}"
    return _look_into(inside[0], candidate.format) if inside else "it is empty"


def _look_into(path: str, format: Any) -> Guess | str:
    source = Source(path=path, kind="text", format=format)
    folder = format == "imagefolder"
    try:
        plain = folder and not path.endswith(METADATA)
        actual = "imagefolder" if plain else detect(path, format)
        if actual in ("parquet", "arrow"):  # of these only columns are read that a spec asks for: ask for all of them
            names = sorted(all_names(path, actual, source))
            if not names:
                return "it has no column"
            source = msgspec.structs.replace(source, text=names[0], columns={name: name for name in names})
        read = list(islice(raw_rows(path, actual, source), ROWS))
    except SourceError as error:
        return f"{error.what}{f': {error.why}' if error.why else ''}"
    rows = [row for row in read if isinstance(row, RawRow)]
    bad = next((row for row in read if isinstance(row, Reject)), None)
    if not rows and bad is not None:
        where = Fragment(source="", path=path, format=actual, digest="", bytes=0)
        return "\n".join([f"it holds no row that can be read ({reason(bad)})", *excerpt(where, source, bad)])
    return (
        guess(rows, tar=actual == "webdataset", folder=folder and not plain, hint=path) if not plain else _folder(rows)
    )


def _folder(rows: list[RawRow]) -> Guess | str:
    """Images with their texts beside them."""
    if not any(row.values.get("text") for row in rows):
        return "none of its first images has a text"
    return Guess(kind="caption", columns=("file_name", "label"))
