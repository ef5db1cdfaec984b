"""The files of folders of images with texts, row by row: such a folder is one fragment, but people ask for a picture by its path.

    BUILD/pictures.parquet  fragment, row, file: sorted by fragment, row; only where a source is such a folder

For people alone. A picture's name is no part of its sample: a build of renamed pictures has the same root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixc.measure.facts import COLUMN_PREFIX
from mixc.measure.object import FACTS, read_rejects
from mixc.measure.run import ObjectRef
from mixc.spec.schema import Source

PICTURES = "pictures.parquet"
PICTURES_SCHEMA = pa.schema(
    [
        ("fragment", pa.uint32()),
        ("row", pa.uint64()),
        ("file", pa.string()),  # its name in the fragment's folder
    ]
)


def write_pictures(objects: Sequence[ObjectRef], sources: Mapping[str, Source], path: Path) -> bool:
    """Write the files of `objects`, which are numbered as they come. Returns whether there are any; else writes nothing."""
    folders = [(number, ref) for number, ref in enumerate(objects) if ref.fragment.format == "imagefolder"]
    if not folders:
        return False
    with pq.ParquetWriter(path, PICTURES_SCHEMA, compression="zstd") as writer:
        for number, ref in folders:
            files = _files(ref, name_column(sources[ref.fragment.source].columns))
            fragment = pa.array([number] * len(files), pa.uint32())
            writer.write_table(pa.table([fragment, files["row"], files["file"]], schema=PICTURES_SCHEMA))
    return True


def name_column(columns: Mapping[str, str] | None) -> str | None:
    """The column that has the name of a row's image (mixc/sources/formats/imagefolder.py), after a source's renaming; None when it
    has none."""
    renamed = columns or {}
    own = "file_name"
    return next((new for new, old in sorted(renamed.items()) if old == own), None if own in renamed else own)


def _files(ref: ObjectRef, column: str | None) -> pa.Table:
    """Rows and files of an object's samples and rejects, by row."""
    stored = f"{COLUMN_PREFIX}{column}"
    facts = pq.ParquetFile(ref.path / FACTS)
    rejects = read_rejects(ref.path)
    found = [pa.table({"row": rejects["row"], "file": rejects["place"]})]
    if stored in facts.schema_arrow.names and pa.types.is_string(facts.schema_arrow.field(stored).type):
        names = facts.read(columns=["row", stored])
        found.append(pa.table({"row": names["row"], "file": names[stored]}))
    table = pa.concat_tables(found)
    return table.filter(pc.not_equal(table["file"], "")).sort_by("row")
