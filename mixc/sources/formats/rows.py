"""One way to the rows of a file, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mixc.sources.files import reading
from mixc.sources.formats import arrow, delimited, imagefolder, json_array, jsonl, parquet, webdataset
from mixc.sources.raw import RawRow
from mixc.sources.rename import rename
from mixc.sources.sample import Reject
from mixc.spec.schema import Source


def raw_rows(path: str, format: str, source: Source) -> Iterator[RawRow | Reject]:
    """The rows of the file at `path`, in file order, numbered from 0, in bounded memory.

    `format` is a fragment's (`detect.FORMATS`). Raises SourceError when the file cannot be read at all.
    """
    with reading(path):
        for row in _rows(path, format, source):
            # a tar has put the new names in itself, before it looked for its defaults
            if source.columns and format != "webdataset" and isinstance(row, RawRow):
                row = RawRow(row=row.row, values=rename(row.values, source.columns), unread=row.unread)
            yield row


def _rows(path: str, format: str, source: Source) -> Iterator[RawRow | Reject]:
    match format:
        case "parquet":
            return parquet.rows(path, source)
        case "arrow":
            return arrow.rows(path, source)
        case "jsonl" | "jsonl.gz" | "jsonl.zst":
            return jsonl.rows(path, format)
        case "csv" | "csv.gz" | "csv.zst" | "tsv" | "tsv.gz" | "tsv.zst":
            return delimited.rows(path, format)
        case "json":
            return json_array.rows(path)
        case "webdataset":
            return webdataset.rows(path, source)
        case "imagefolder":
            return imagefolder.rows(path)
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
