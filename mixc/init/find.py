"""Which files of a folder could be a source: tables by folder and suffix, folders of images with their texts."""

from __future__ import annotations

import glob
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixc.errors import SourceError
from mixc.sources import files
from mixc.sources.folders import METADATA
from mixc.sources.formats.imagefolder import is_image, pairs, text_name
from shards.counted import counted

SUFFIXES = (
    *(".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".tar"),
    *(f".{text}{packed}" for text in ("csv", "tsv") for packed in ("", ".gz", ".zst")),
)
ARROW_STATE = ("state.json", "dataset_dict.json")
"""What `save_to_disk` of Hugging Face `datasets` leaves in a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Files that may be one source."""

    paths: tuple[str, ...]
    """Absolute, sorted: the files, or the folder that is the source."""
    format: Literal["imagefolder", "huggingface"] | None = None
    """As a spec says it; None for what the name tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    path: str
    """Absolute."""
    why: str


@dataclass(slots=True, kw_only=True)
class Ignored:
    """Files of one suffix that are neither data nor belong to any."""

    suffix: str
    """`.docx`, in lower case; empty of names that have none."""
    count: int = 0
    first: list[str] = field(default_factory=list)
    """Absolute paths of the first NAMED, in the order of folders and names."""


NAMED = 3


def find(folder: Path) -> tuple[list[Candidate], list[PassedOver], list[Ignored]]:
    """Candidates in `folder` and the folders in it, sorted by path; hidden ones and links to folders are passed over. Images
    without a text are told as passed over only where no table lies at or above them: a table may name them. Raises SourceError when
    the folder cannot be read. Told as ignored is what is left, by suffix; not of a folder that says itself what its files are."""
    candidates: list[Candidate] = []
    passed: list[PassedOver] = []
    tables: list[str] = []
    bare: list[tuple[str, int]] = []
    ignored: dict[str, Ignored] = {}
    with files.reading(str(folder)):
        for current, folders, names in _walk(str(folder.absolute())):
            if any(name in ARROW_STATE for name in names):
                candidates.append(Candidate(paths=(current,), format="huggingface"))
                folders.clear()
                continue
            if any(name in METADATA for name in names):
                candidates.append(Candidate(paths=(current,), format="imagefolder"))
                folders.clear()
                continue
            by_suffix: dict[str, list[str]] = {}
            for name in names:
                suffix = next(
                    (suffix for suffix in sorted(SUFFIXES, key=len)[::-1] if name.lower().endswith(suffix)), None
                )
                if suffix is not None:
                    by_suffix.setdefault(suffix, []).append(posixpath.join(current, name))
            texts = {text_name(name) for name in names if is_image(name)}
            for name in names:
                if not is_image(name) and name not in texts and not name.lower().endswith(SUFFIXES):
                    _ignore(ignored, posixpath.join(current, name))
            for _, group in sorted(by_suffix.items()):
                candidates.append(Candidate(paths=tuple(group)))
                tables.append(current)
            if any(is_image(name) for name in names):
                told = [text is not None for _, text in pairs(current)]
                if sum(told) * 2 >= len(told):
                    candidates.append(Candidate(paths=(current,), format="imagefolder"))
                else:
                    bare.append((current, len(told)))
    for current, count in bare:
        if not any(current == table or _above(table, current) or _above(current, table) for table in tables):
            why = f"{counted(count, 'image')} without a text: give each a .txt of its name, or a metadata.jsonl with `file_name` and `text`"
            passed.append(PassedOver(path=current, why=why))
    rest = [ignored[suffix] for suffix in sorted(ignored)]
    return sorted(_merged(candidates), key=lambda each: each.paths), passed, rest


def _ignore(ignored: dict[str, Ignored], path: str) -> None:
    suffix = posixpath.splitext(path)[1].lower()
    group = ignored.setdefault(suffix, Ignored(suffix=suffix))
    group.count += 1
    if len(group.first) < NAMED:
        group.first.append(path)


def _merged(candidates: list[Candidate]) -> list[Candidate]:
    """Folders of images in a folder of such folders (one a class, say) are one source; so is that folder's own."""
    images = sorted(each.paths[0] for each in candidates if each.format == "imagefolder")
    outer = [path for path in images if not any(_above(other, path) for other in images)]
    by_parent: dict[str, list[str]] = {}
    for path in outer:
        by_parent.setdefault(posixpath.dirname(path), []).append(path)
    merged = [tuple(group) for group in by_parent.values()]
    return [each for each in candidates if each.format != "imagefolder"] + [
        Candidate(paths=group, format="imagefolder") for group in merged
    ]


def pattern(candidate: Candidate, base: Path) -> str | list[str]:
    """`path:` of a spec in `base` that names these files, and no others of their folder: a file, a glob by suffix where all of the
    folder's files with it are meant, or a list."""
    paths = candidate.paths
    shown = [relative(path, base) for path in paths]
    if len(paths) == 1:
        return shown[0]
    if candidate.format is not None:
        return shown
    folder, suffix = posixpath.dirname(paths[0]), _suffix(paths[0])
    there = [name for name, is_folder in files.listing(folder) if not is_folder and not name.startswith(".")]
    if sorted(paths) == sorted(posixpath.join(folder, name) for name in there if name.endswith(suffix)):
        return posixpath.join(glob.escape(relative(folder, base)), f"*{suffix}")
    return shown


def relative(path: str, base: Path) -> str:
    """A path as a spec in `base` writes it: relative where it lies there or beside it, else as it is."""
    try:
        return posixpath.relpath(path, str(base.absolute()))
    except ValueError as error:  # another drive
        raise SourceError("this path has no relation to the spec's folder", where=path) from error


def _suffix(path: str) -> str:
    name = posixpath.basename(path)
    return next(suffix for suffix in sorted(SUFFIXES, key=len)[::-1] if name.lower().endswith(suffix))


def _above(folder: str, path: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders top down, sorted, with the names of the folders and files in them; what is taken out of the first list is not
    entered. Hidden names and links to folders are left out."""
    entries = sorted(files.listing(folder))
    folders = [name for name, is_folder in entries if is_folder and not name.startswith(".")]
    names = [name for name, is_folder in entries if not is_folder and not name.startswith(".")]
    yield folder, folders, names
    for name in folders:
        yield from _walk(posixpath.join(folder, name))
