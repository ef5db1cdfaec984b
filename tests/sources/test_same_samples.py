"""The same samples have the same content ids in whatever format, file layout and row order they are stored."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixc.measure.identity import content_digest, image_digest
from mixc.sources.read import read
from mixc.sources.sample import Sample
from mixc.sources.scan import scan
from mixc.spec.schema import Source

Rows = list[tuple[str, bytes]]
# a .txt member begins with a byte order mark only where its writer put one
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), min_size=1, max_size=20).filter(str.strip)


def contents(folder: Path, path: str, **fields: object) -> list[bytes]:
    source = Source(path=path, kind="caption", **fields)  # type: ignore[arg-type]
    found = []
    for fragment in scan("s", source, folder, folder / ".cache"):
        for row in read(fragment, source):
            assert isinstance(row, Sample), row
            found.append(content_digest(row.text, row.turns, [image_digest(image) for image in row.images]))
    return sorted(found)


def write_images(folder: Path, rows: Rows) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, image) in enumerate(rows):
        (folder / f"{number}.png").write_bytes(image)
    return [f"{number}.png" for number in range(len(rows))]


def as_csv(folder: Path, rows: Rows, text: str, images: list[str], name: str = "part.csv") -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows(
        [
            ["image", "file_name", text],
            *[[image, image, caption] for image, (caption, _) in zip(images, rows, strict=True)],
        ]
    )
    (folder / name).write_bytes(buffer.getvalue().encode())


def as_tar(path: Path, rows: Rows) -> None:
    with tarfile.open(path, "w") as archive:
        for number, (text, image) in enumerate(rows):
            for suffix, data in (("png", image), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def as_table(rows: Rows) -> pa.Table:
    return pa.table(
        {
            "image": pa.array(
                [{"bytes": image, "path": None} for _, image in rows],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "text": pa.array([text for text, _ in rows], pa.string()),
        }
    )


def save_to_disk(folder: Path, parts: list[pa.Table]) -> None:
    """As `datasets.Dataset.save_to_disk` does."""
    folder.mkdir()
    names = [f"data-{number:05}-of-{len(parts):05}.arrow" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with pa.ipc.new_stream(str(folder / name), part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, st.binary(min_size=1, max_size=20)), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    at=st.integers(0, 5),
)
def test_whatever_the_format(rows: Rows, seed: int, at: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("same")
    shuffled = random.Random(seed).sample(rows, len(rows))
    images = write_images(folder / "csv", shuffled)
    as_csv(folder / "csv", shuffled[:at], "text", images[:at], "1.csv")
    as_csv(folder / "csv", shuffled[at:], "text", images[at:], "2.csv")
    expected = contents(folder, "csv/*.csv")
    assert len(expected) == len(rows)

    images = write_images(folder / "jsonl", rows)
    lines = [{"meta": {"caption": [text]}, "image": name} for (text, _), name in zip(rows, images, strict=True)]
    (folder / "jsonl/a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert contents(folder, "jsonl/a.jsonl", columns={"text": "meta.caption.0"}) == expected

    pq.write_table(
        pa.Table.from_pylist(lines).append_column("b", pa.array([1] * len(rows))), folder / "jsonl/a.parquet"
    )
    assert contents(folder, "jsonl/a.parquet", columns={"text": "meta.caption.0"}) == expected

    pq.write_table(as_table(rows).rename_columns(["picture", "text"]), folder / "b.parquet")
    assert contents(folder, "b.parquet", columns={"image": "picture"}) == expected

    as_tar(folder / "a.tar", shuffled)
    assert contents(folder, "a.tar") == expected

    save_to_disk(folder / "hf", [as_table(rows[:at]), as_table(rows[at:])])
    assert contents(folder, "hf", format="huggingface") == expected

    images = write_images(folder / "tree/inner", rows)
    as_csv(folder / "tree/inner", rows, "text", images, "metadata.csv")
    assert contents(folder, "tree", format="imagefolder") == expected

    for (text, _), name in zip(rows, write_images(folder / "plain/x", rows), strict=True):
        (folder / "plain/x" / name).with_suffix(".txt").write_bytes(text.encode())
    assert contents(folder, "plain", format="imagefolder") == expected
