"""The promise: the same spec over the same content gives the same bytes, whatever does not matter."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.compile.conftest import REPO, copy_demo, root, trained_files

pytestmark = pytest.mark.slow


def same(build: Path, demo: Path) -> None:
    assert root(build) == root(demo)
    got, expected = trained_files(build), trained_files(demo)
    assert got.keys() == expected.keys()
    assert [name for name in got if got[name] != expected[name]] == []


ROOT = "8106258043a17777a27c04d51dc48257d465cb98712cbaec6a31714259a66fac"
"""The demo's root, wherever and whenever it is compiled. A change of the demo, of what a token or a mask is, or of a rule
of the plan changes it, and is told in CHANGELOG.md; nothing else may."""


def test_the_root_of_the_demo_is_what_it_always_was(demo: Path) -> None:
    assert root(demo) == ROOT


@pytest.mark.parametrize(("workers", "seed"), [(2, "1"), (3, "77")])
def test_workers_and_hash_seed_do_not_matter(mixc, demo: Path, tmp_path: Path, workers: int, seed: str) -> None:
    build = tmp_path / "build"
    mixc("compile", REPO / "specs/demo.yaml", "-o", build, "--workers", str(workers), PYTHONHASHSEED=seed)
    same(build, demo)


# Rows of each format, read and written without mixc.


def parquet_rows(path: Path) -> pa.Table:
    return pq.read_table(path)


def write_parquet(path: Path, table: pa.Table, rows: list[int]) -> None:
    pq.write_table(table.take(rows), path, row_group_size=7)


def tar_rows(path: Path) -> list[list[tuple[tarfile.TarInfo, bytes]]]:
    groups: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file
            groups.setdefault(member.name.partition(".")[0], []).append((member, file.read()))
    return list(groups.values())


def write_tar(path: Path, samples: list, rows: list[int]) -> None:
    with tarfile.open(path, "w") as tar:
        for row in rows:
            for member, data in samples[row]:
                tar.addfile(member, io.BytesIO(data))


def json_rows(path: Path) -> list:
    return json.loads(path.read_text())


def write_json(path: Path, items: list, rows: list[int]) -> None:
    path.write_text(json.dumps([items[row] for row in rows], ensure_ascii=True, indent=3))


def line_rows(path: Path) -> list[bytes]:
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    return [line for line in data.split(b"\n") if line]


def write_lines(path: Path, lines: list[bytes], rows: list[int]) -> None:
    data = b"\n".join(lines[row] for row in rows)
    path.write_bytes(zstandard.compress(data, 9) if path.suffix == ".zst" else data)


Reader, Writer = Callable[[Path], object], Callable[[Path, object, list[int]], None]
FORMATS: dict[str, tuple[Reader, Writer]] = {
    ".parquet": (parquet_rows, write_parquet),
    ".tar": (tar_rows, write_tar),
    ".json": (json_rows, write_json),
    ".jsonl": (line_rows, write_lines),
    ".zst": (line_rows, write_lines),
}


def source_files(data: Path) -> Iterable[Path]:
    return [path for path in sorted(data.rglob("*")) if path.suffix in FORMATS]


def glob_everywhere(spec: Path) -> None:
    """Point each source that names one file at all files of that kind in a folder of its own, so that names are free."""
    text = spec.read_text()
    for path in source_files(spec.parent / "demo/data"):
        relative = path.relative_to(spec.parent).as_posix()
        if f"path: {relative}\n" in text:
            text = text.replace(
                f"path: {relative}\n", f"path: {relative.rpartition('/')[0]}/{path.stem}*{path.suffix}\n"
            )
    spec.write_text(text)


def test_another_folder_and_other_file_names_do_not_matter(mixc, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path / "deep" / "er")
    glob_everywhere(spec)
    for i, path in enumerate(source_files(spec.parent / "demo/data")):
        suffix = ".jsonl.zst" if path.name.endswith(".jsonl.zst") else path.suffix
        stem = path.name.removesuffix(suffix)
        path.rename(path.with_name(f"{stem}-{9 - i % 10} ü{suffix}"))
    mixc("compile", spec, "-o", tmp_path / "build", "--workers", "2")
    same(tmp_path / "build", demo)


def test_the_parts_of_a_large_file_do_not_matter(mixc, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path / "large")
    padding = [b" " * (1 << 20)] * 40  # blank lines: a part is 32 MiB
    large = [path for path in source_files(spec.parent / "demo/data") if path.suffix == ".jsonl"]
    for path in large:
        lines = line_rows(path)
        third = len(lines) // 3
        path.write_bytes(
            b"\n".join([*lines[:third], *padding, *lines[third : 2 * third], *padding, *lines[2 * third :]])
        )
    done = mixc.json("compile", spec, "-o", tmp_path / "build", "--workers", "2")
    same(tmp_path / "build", demo)
    whole = json.loads((demo / "mixture.lock").read_text())["sources"]
    parts = json.loads((tmp_path / "build/mixture.lock").read_text())["sources"]
    assert (
        sum(map(len, parts.values())) == sum(map(len, whole.values())) + 2 * len(large) > sum(map(len, whole.values()))
    )
    assert mixc.json("compile", spec, "-o", tmp_path / "again")["objects"] == {
        "measured": 0,
        "reused": done["objects"]["measured"],
    }


def test_the_order_of_rows_does_not_matter(mixc, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path / "shuffled")
    for path in source_files(spec.parent / "demo/data"):
        read, write = FORMATS[path.suffix]
        rows = read(path)
        order = list(range(len(rows)))
        random.Random(5).shuffle(order)
        write(path, rows, order)
    mixc("compile", spec, "-o", tmp_path / "build", "--workers", "2")
    same(tmp_path / "build", demo)


def test_the_division_into_files_does_not_matter(mixc, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path / "split")
    glob_everywhere(spec)
    for path in source_files(spec.parent / "demo/data"):
        read, write = FORMATS[path.suffix]
        rows = read(path)
        suffix = ".jsonl.zst" if path.name.endswith(".jsonl.zst") else path.suffix
        cut = len(rows) // 3
        write(path.with_name(path.name.removesuffix(suffix) + "-b" + suffix), rows, list(range(cut)))
        write(path, rows, list(range(cut, len(rows))))
    mixc("compile", spec, "-o", tmp_path / "build", "--workers", "1")
    same(tmp_path / "build", demo)


def test_adding_a_source_leaves_the_others_samples_as_they_were(mixc, demo: Path, tmp_path: Path) -> None:
    """With a tenth of the stage given to a new source, the others keep a prefix of what they had."""
    spec = copy_demo(tmp_path / "more")
    text = spec.read_text()
    text = text.replace(
        "  reasoning:\n    path",
        "  extra:\n    path: demo/data/prose/favourites.jsonl.zst\n    kind: text\n  reasoning:\n    path",
    ).replace(
        "mix: {photographs: 0.3, details: 0.3, pages: 0.4}",
        "mix: {photographs: 0.27, details: 0.27, pages: 0.36, extra: {weight: 0.1, max_epochs: 1000}}",
    )
    assert "extra: {weight" in text and "  extra:\n" in text
    spec.write_text(text)
    mixc("compile", spec, "-o", tmp_path / "build", "--workers", "2")

    def chosen(build: Path) -> dict[str, set]:
        table = pq.read_table(build / "plan/placements.parquet").to_pylist()
        found: dict[str, set] = {}
        for row in table:
            if row["stage"] == 0:
                found.setdefault(row["source"], set()).add((row["id"], row["epoch"]))
        return found

    before, after = chosen(demo), chosen(tmp_path / "build")
    assert after["extra"]
    for source in ("photographs", "details", "pages"):
        assert after[source] < before[source]


def test_a_cache_that_is_deleted_or_used_again_does_not_matter(mixc, demo: Path, tmp_path: Path) -> None:
    spec = REPO / "specs/demo.yaml"
    mixc("compile", spec, "-o", tmp_path / "a", "--workers", "2")
    second = mixc.json("compile", spec, "-o", tmp_path / "b", "--workers", "2")
    assert second["objects"]["measured"] == 0
    same(tmp_path / "b", demo)
    shutil.rmtree(mixc.cache / "objects")
    mixc("compile", spec, "-o", tmp_path / "b", "--workers", "2")
    same(tmp_path / "b", demo)


def test_adding_a_file_or_changing_a_weight_measures_only_what_is_new(mixc, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path / "spec")
    first = mixc.json("compile", spec, "-o", tmp_path / "build", "-j", "2")["objects"]
    assert first["reused"] == 0
    changed = mixc.json("compile", spec, "-o", tmp_path / "b", "--set", "stages.align.mix.pages=0.3")["objects"]
    assert changed == {"measured": 0, "reused": first["measured"]}
    write_lines(spec.parent / "demo/data/prose/new.jsonl.zst", [b'{"text": "Something new, and long enough."}'], [0])
    added = mixc.json("compile", spec, "-o", tmp_path / "c")["objects"]
    assert added == {"measured": 1, "reused": first["measured"]}
