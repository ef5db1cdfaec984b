"""Parquet files of equal bytes for equal rows: fixed row groups, codec and encodings, nothing of the
moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 1 << 17


class TableWriter:
    """Writes a table piece by piece; how it is cut into pieces leaves no trace in the file."""

    def __init__(self, path: Path, schema: pa.Schema, *, sorted_by: Sequence[str] = ()) -> None:
        """`sorted_by`: columns to keep minima and maxima of, so that a reader can skip row groups."""
        self._schema = schema
        ids = {field.name for field in schema if field.type == pa.uuid()}
        whole = [f.name for f in schema if pa.types.is_integer(f.type) and f.type.bit_width >= 32]
        self._held: list[pa.Table] = []
        self._rows = 0
        self._writer = pq.ParquetWriter(
            path,
            schema,
            # Ids are digests and compress to nothing. Counts and places do, and better with their bytes apart, as the
            # upper ones are alike.
            compression={f.name: "none" if f.name in ids else "zstd" for f in schema},
            compression_level={f.name: 1 for f in schema if f.name not in ids},
            column_encoding=dict.fromkeys(whole, "BYTE_STREAM_SPLIT") or None,
            use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
            version="2.6",
            data_page_version="1.0",
            write_statistics=list(sorted_by) or False,
        )

    def write(self, columns: dict[str, Any]) -> None:
        """Add rows: arrays by column name, all of the schema's columns."""
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._held.append(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows += len(arrays[0])
        if self._rows >= ROW_GROUP:
            self._flush(self._rows // ROW_GROUP * ROW_GROUP)

    def _flush(self, rows: int) -> None:
        table = pa.concat_tables(self._held).combine_chunks()
        self._writer.write_table(table.slice(0, rows), row_group_size=ROW_GROUP)
        self._held, self._rows = [table.slice(rows)], table.num_rows - rows

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows:
                self._flush(self._rows)
        finally:
            self._writer.close()


def uuids(hi: npt.NDArray[np.uint64], lo: npt.NDArray[np.uint64]) -> pa.ExtensionArray:
    """Ids as a column, from their halves."""
    ids = np.empty((len(hi), 2), ">u8")
    ids[:, 0], ids[:, 1] = hi, lo
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(ids)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)
