"""One way to the rows of a file, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mixc.sources.files import reading
from mixc.sources.formats import json_array, jsonl, parquet, webdataset
from mixc.sources.raw import RawRow
from mixc.sources.sample import Reject
from mixc.spec.schema import Source


def raw_rows(path: str, format: str, source: Source) -> Iterator[RawRow | Reject]:
    """The rows of the file at `path`, in file order, numbered from 0, in bounded memory.

    `format` is a fragment's (`detect.FORMATS`). Raises SourceError when the file cannot be read at all.
    """
    with reading(path):
        match format:
            case "parquet":
                yield from parquet.rows(path, source)
            case "jsonl" | "jsonl.gz" | "jsonl.zst":
                yield from jsonl.rows(path, format)
            case "json":
                yield from json_array.rows(path)
            case "webdataset":
                yield from webdataset.rows(path, source)
            case _:
                raise ValueError(f"no such format: {format!r}")


def all_names(path: str, format: str, source: Source) -> set[str]:
    """The columns of a file, nested ones too, for a message: of Parquet all, of others those of the first
    1,000 rows."""
    with reading(path):
        if format == "parquet":
            return parquet.all_names(path)
    rows = islice(raw_rows(path, format, source), 1000)
    return {name for raw in rows if isinstance(raw, RawRow) for name in (*raw.values, *raw.unread)}
