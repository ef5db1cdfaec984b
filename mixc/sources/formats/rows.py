"""One way to the rows of a file, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mixc.sources.files import Opener, open_binary, reading
from mixc.sources.formats import arrow, delimited, imagefolder, json_array, jsonl, parquet, webdataset
from mixc.sources.fragment import Part
from mixc.sources.raw import RawRow
from mixc.sources.rename import rename
from mixc.sources.sample import Reject
from mixc.spec.schema import Source


def raw_rows(
    path: str, format: str, source: Source, part: Part | None = None, opener: Opener = open_binary
) -> Iterator[RawRow | Reject]:
    """The rows of the file at `path`, or of a part of it, in file order, in bounded memory. Rows are numbered from 0 in the
    file.

    `format` is a fragment's (`detect.FORMATS`). `opener` opens what is read from start to end: all but Parquet and
    tars. Raises SourceError when the file cannot be read at all.
    """
    with reading(path):
        for row in _rows(path, format, source, part, opener):
            # a tar has put the new names in itself, before it looked for its defaults
            if source.columns and format != "webdataset" and isinstance(row, RawRow):
                row = RawRow(row=row.row, values=rename(row.values, source.columns), unread=row.unread, place=row.place)
            yield row


def _rows(path: str, format: str, source: Source, part: Part | None, opener: Opener) -> Iterator[RawRow | Reject]:
    match format:
        case "parquet":
            return parquet.rows(path, source, part)
        case "arrow":
            return arrow.rows(path, source)
        case "jsonl" | "jsonl.gz" | "jsonl.zst":
            return jsonl.rows(path, format, part, opener)
        case "csv" | "csv.gz" | "csv.zst" | "tsv" | "tsv.gz" | "tsv.zst":
            return delimited.rows(path, format, opener)
        case "json":
            return json_array.rows(path, opener)
        case "webdataset":
            return webdataset.rows(path, source)
        case "imagefolder":
            return imagefolder.rows(path, opener)
        case _:
            raise ValueError(f"no such format: {format!r}")


def all_names(path: str, format: str, source: Source) -> set[str]:
    """The columns of a file, nested ones too, for a message: of Parquet and Arrow all, of others those of the first
    1,000 rows."""
    with reading(path):
        if format in ("parquet", "arrow"):
            return parquet.all_names(path) if format == "parquet" else arrow.all_names(path)
    rows = islice(raw_rows(path, format, source), 1000)
    return {name for raw in rows if isinstance(raw, RawRow) for name in (*raw.values, *raw.unread)}
