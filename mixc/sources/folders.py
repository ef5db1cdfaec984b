"""Folders that are data sets: what `save_to_disk` of Hugging Face `datasets` wrote, and folders of images."""

from __future__ import annotations

import posixpath
from typing import TypeVar

import msgspec

from mixc.errors import SourceError
from mixc.sources import files
from mixc.sources.files import printable
from mixc.sources.formats.imagefolder import is_image

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_STATE_LIMIT = 64 << 20


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class _DataFile(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    """`state.json`, as datasets/arrow_dataset.py writes it."""

    data_files: list[_DataFile] = msgspec.field(name="_data_files")
    indices_files: list[_DataFile] | None = msgspec.field(name="_indices_files", default=None)


class _Splits(msgspec.Struct):
    """`dataset_dict.json`, as datasets/dataset_dict.py writes it."""

    splits: list[str]


def huggingface(folder: str, where: str) -> list[str]:
    """The Arrow files of a folder that `save_to_disk` wrote. Raises OSError, and SourceError for any other folder, one
    of several splits among them: which of them is to be trained on is for the spec to say."""
    names = {name for name, _ in files.listing(folder)}
    if "dataset_dict.json" in names:
        splits = _decode(posixpath.join(folder, "dataset_dict.json"), _Splits).splits
        if len(splits) != 1:
            raise SourceError(
                f"this data set has {len(splits)} splits",
                where=printable(folder),
                why=", ".join(sorted(splits)),
                mend=f"name one in {where}: {posixpath.join(folder, min(splits, key=lambda s: s != 'train'))}"
                if splits
                else f"leave it out of {where}",
            )
        return huggingface(_inside(folder, splits[0]), where)
    if "state.json" not in names:
        parquet = f"its Parquet files are read as they are: {posixpath.join(folder, '**/*.parquet')}"
        raise SourceError(
            "this folder was not written by `save_to_disk`",
            where=printable(folder),
            why="it has neither state.json nor dataset_dict.json",
            mend=f"name another folder in {where}, or, for a clone from the hub, {parquet} and no `format:`",
        )
    state = _decode(posixpath.join(folder, "state.json"), _State)
    if state.indices_files:
        raise SourceError(
            "this data set is a selection by indices",
            where=printable(folder),
            mend="save it again with a later `datasets`, or after `flatten_indices()`",
        )
    return [_inside(folder, each.filename) for each in state.data_files]


def imagefolder(folder: str) -> list[str]:
    """Of a folder and the folders in it, hidden ones and links to folders passed over: its metadata files; without
    any, the folders that hold images. Raises OSError."""
    metadata, plain, stack = [], [], [folder.rstrip("/") or "/"]
    while stack:
        current = stack.pop()
        has_images = False
        for name, is_folder in files.listing(current):
            if is_folder and not name.startswith("."):
                stack.append(posixpath.join(current, name))
            elif not is_folder and name in METADATA:
                metadata.append(posixpath.join(current, name))
            elif not is_folder:
                has_images = has_images or is_image(name)
        if has_images:
            plain.append(current)
    return metadata or plain


def _inside(folder: str, name: str) -> str:
    if posixpath.isabs(name) or "\0" in name or posixpath.normpath(name).split("/", 1)[0] in ("..", "."):
        raise SourceError(
            f"{name!r} is no file of this folder", where=printable(folder), mend="save the data set again"
        )
    return posixpath.join(folder, posixpath.normpath(name))


def _decode(path: str, kind: type[_Kind]) -> _Kind:
    try:
        with files.reading(path), files.open_binary(path) as file:
            return msgspec.json.decode(b"".join(files.at_most(file, _STATE_LIMIT)), type=kind)
    except msgspec.DecodeError as error:
        raise SourceError(
            "this file is not what `save_to_disk` writes",
            where=printable(path),
            why=str(error),
            mend="save the data set again",
        ) from None
