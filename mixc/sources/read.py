"""Reading a fragment: its rows as Samples, or as Rejects that say why not; and which columns its rows
have."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from itertools import islice

from mixc.errors import SourceError
from mixc.sources.files import printable, reading
from mixc.sources.formats import arrow, imagefolder, parquet
from mixc.sources.formats.rows import all_names, raw_rows
from mixc.sources.fragment import Fragment
from mixc.sources.images import ImageFolder, Problem, evenly, load
from mixc.sources.names import Names, names, require
from mixc.sources.normalise import normalise, scalar_columns
from mixc.sources.raw import RawRow, reject
from mixc.sources.sample import Reject, Sample, Scalar
from mixc.spec.schema import Source

COLUMNS_LIMIT = 4096
"""Different names in the rows of a fragment at most. More means that keys are data."""

_SAMPLED_ROWS = 1000


def read(fragment: Fragment, source: Source) -> Iterator[Sample | Reject]:
    """Every row of the fragment in file order, as a Sample or a Reject that has the row's number. Streams.

    Raises SourceError: the file cannot be read or is not of its format; no row has a column that the source
    needs (at the end, except for Parquet, since the rows themselves say which columns there are; not of a part, for another
    may have it: `check_columns`).
    """
    used = names(source, fragment.format)
    folder = ImageFolder(fragment.image_root or posixpath.dirname(fragment.path))
    plain = fragment.format == "imagefolder" and used.text == "text" and not source.columns
    found: set[str] = set()
    parsed = False
    for raw in raw_rows(fragment.path, fragment.format, source, fragment.part):
        if isinstance(raw, Reject):
            yield raw
            continue
        parsed = True
        found.update(raw.values)
        found.update(raw.unread)
        if len(found) > COLUMNS_LIMIT:
            raise SourceError(
                f"the rows of this file have more than {COLUMNS_LIMIT} different columns",
                where=printable(fragment.path),
                why="data seems to be used as keys",
                mend="put such data into one nested column, which is passed over",
            )
        sample = _sample(raw, source, used, folder)
        if isinstance(sample, Reject) and sample.reason in ("missing_value", "empty_text") and plain:
            sample = reject(sample.row, sample.reason, imagefolder.no_caption(raw.place, sample.detail), raw.place)
        yield sample
    if parsed and fragment.part is None:
        require(printable(fragment.path), source, fragment.format, found)


def check_columns(fragment: Fragment, source: Source) -> None:
    """Raises SourceError when the first 1,000 rows of the fragment's file lack a column that the source needs. To be asked
    when every row of every part of a file was rejected for want of a value."""
    found = all_names(fragment.path, fragment.format, source)
    require(printable(fragment.path), source, fragment.format, found)


def columns(fragment: Fragment, source: Source) -> dict[str, str]:
    """The scalar columns of a fragment, by name, sorted, and their types: bool, int64, uint64, double, string
    or null.

    Parquet, Arrow: from the schema. Other formats: from the first 1,000 rows; ints and floats mixed are double, any
    other mix is string. Raises SourceError as `read` does for files that cannot be read.
    """
    if fragment.format in ("parquet", "arrow"):
        typed = parquet.columns if fragment.format == "parquet" else arrow.columns
        with reading(fragment.path):
            return dict(sorted(typed(fragment.path, source).items()))
    used = names(source, fragment.format)
    kinds: dict[str, set[str]] = {}
    for raw in islice(raw_rows(fragment.path, fragment.format, source), _SAMPLED_ROWS):
        if isinstance(raw, Reject):
            continue
        row = scalar_columns(raw, used)
        for name, value in row.items() if isinstance(row, dict) else ():
            kinds.setdefault(name, set()).add(_kind(value))
    return {name: _merged(kinds[name]) for name in sorted(kinds)}


def _sample(raw: RawRow, source: Source, used: Names, folder: ImageFolder) -> Sample | Reject:
    if used.image is None:
        return normalise(raw, source, used)
    images = load(evenly(raw.values.get(used.image), source.max_frames if source.frames else None), folder)
    if isinstance(images, Problem):
        return reject(raw.row, images.reason, images.detail, raw.place)
    return normalise(raw, source, used, images)


def _kind(value: Scalar) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int64" if value < 0 else "natural" if value < 1 << 63 else "uint64"
        case float():
            return "double"
        case str():
            return "string"


def _merged(kinds: set[str]) -> str:
    """The type of a column whose values are of these kinds, as `mixc/measure` will store it."""
    kinds = kinds - {"null"} or {"null"}
    if kinds <= {"int64", "natural"}:
        return "int64"
    if kinds <= {"uint64", "natural"}:
        return "uint64"
    if kinds <= {"int64", "natural", "uint64", "double"}:
        return "double"
    return min(kinds) if len(kinds) == 1 else "string"
