"""From `path:` in a spec to files: globs, near misses, and no file twice."""

from __future__ import annotations

import difflib
import fnmatch
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixc.errors import SourceError
from mixc.sources import remote
from mixc.sources.files import is_url, kind_of, local, printable, reason
from mixc.sources.folders import huggingface, imagefolder
from mixc.spec.schema import Source

FOLDERS = ("huggingface", "imagefolder")
"""Formats whose `path` names folders."""
_MAGIC = re.compile(r"[*?[]")


def expand(name: str, source: Source, base: Path) -> list[str]:
    """The files of the source `name`, sorted by path. Local paths are absolute; relative ones are relative to
    `base`.

    `*`, `?` and `[...]` match inside a folder, `**` any number of folders; as in a shell, none of them
    matches a leading dot. `**` does not follow symbolic links to folders, so that a loop of links is no loop
    here. A path that exists as it is written is that file, whatever characters it has. Folders that a glob
    matches are passed over. A file that is reached by several names, be it through links, counts once, under
    the name that sorts first.

    Raises SourceError: a pattern without a match, a folder, what is not a regular file, what cannot be read.
    """
    patterns = [source.path] if isinstance(source.path, str) else source.path
    if not patterns:
        raise SourceError("this source has no path", where=f"sources.{name}.path", mend="name a file or a glob")
    found: set[str] = set()
    for pattern in patterns:
        where = f"sources.{name}.path"
        try:
            if source.format in FOLDERS:
                found.update(_in_folders(pattern, source.format, base, where))
            else:
                found.update(_remote(pattern, where) if is_url(pattern) else _local(pattern, base, where))
        except OSError as error:
            raise SourceError(f"{error.filename or pattern} cannot be read", where=where, why=reason(error)) from None
    return _once(sorted(found))


def _in_folders(pattern: str, format: str, base: Path, where: str) -> list[str]:
    """The files, or folders of images, of the data sets that lie in the folders that `pattern` names."""
    folders = _remote(pattern, where, "directory") if is_url(pattern) else _local(pattern, base, where, folders=True)
    found = []
    for folder in folders:
        inside = huggingface(folder, where) if format == "huggingface" else imagefolder(folder)
        if not inside:
            raise SourceError(
                "there are no images in this folder" if format == "imagefolder" else "this data set has no files",
                where=printable(folder),
                mend=f"name another folder in {where}",
            )
        for path in inside:
            if not is_url(path) and not Path(path).is_dir():
                _check(path, where)
        found += inside
    return found


def _local(pattern: str, base: Path, where: str, *, folders: bool = False) -> list[str]:
    if "\0" in pattern:
        raise SourceError(f"{pattern!r} holds a NUL character", where=where, mend="write the path without it")
    whole = str(base.absolute() / local(pattern))
    if os.path.lexists(whole):
        if Path(whole).is_dir() and not folders:
            raise SourceError(
                f"{pattern!r} is a folder",
                where=where,
                mend=f"name its files: {posixpath.join(pattern, '*' + _commonest_suffix(whole))}",
            )
        matches = [whole]
    else:
        parts = [part for part in whole.split("/")[1:] if part not in ("", ".")]
        matches = [match for match in _match("/", parts) if Path(match).is_dir() == folders]
    if not matches:
        raise _no_match(pattern, whole, where)
    for match in matches:
        if folders and not Path(match).is_dir():
            raise SourceError("this is a file, not a folder", where=printable(match), mend="leave `format:` out")
        if not folders:
            _check(match, where)
    return matches


def _check(path: str, where: str) -> None:
    """Refuses what is not a readable regular file, and names that no table of ours could hold."""
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        why = "a symbolic link to nothing" if Path(path).is_symlink() and not Path(path).exists() else reason(error)
        raise SourceError("this file cannot be read", where=printable(path), why=why, mend=f"see {where}") from None
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"this is {kind_of(mode)}, not a file",
            where=printable(path),
            mend=f"leave it out of {where}, or write its content to a file",
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceError("this file's name is not UTF-8", where=ascii(path), mend="rename it") from None


def _match(folder: str, parts: list[str]) -> Iterator[str]:
    """Paths below `folder` that match the parts of a pattern, in no order; some may come twice."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        while rest and rest[0] == "**":
            rest = rest[1:]
        for inner in _folders(folder):
            yield from _match(inner, rest or ["*"])
    elif _MAGIC.search(head):
        matches = re.compile(fnmatch.translate(head)).match
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not head.startswith(".")
                if hidden or not matches(entry.name):
                    continue
                if not rest:
                    yield entry.path
                elif entry.is_dir():
                    yield from _match(entry.path, rest)
    else:
        path = posixpath.join(folder, head)
        if not rest:
            if os.path.lexists(path):
                yield path
        elif Path(path).is_dir():
            yield from _match(path, rest)


def _folders(folder: str) -> Iterator[str]:
    """`folder` and every folder in it, at any depth; symbolic links are not followed, hidden folders passed
    over."""
    stack = [folder]
    while stack:
        current = stack.pop()
        yield current
        with os.scandir(current) as entries:
            stack.extend(
                entry.path
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )


def _once(paths: list[str]) -> list[str]:
    """Leaves out the further names of a file. Two names are one file when device and inode are equal."""
    seen: set[tuple[int, int] | str] = set()
    kept = []
    for path in paths:
        key: tuple[int, int] | str = path
        if not is_url(path):
            status = Path(path).stat()
            # some network and FUSE file systems give no inode numbers
            key = (status.st_dev, status.st_ino) if status.st_ino else str(Path(path).resolve())
        if key not in seen:
            seen.add(key)
            kept.append(path)
    return kept


def instead(whole: str) -> str:
    """Of an absolute path or pattern that matches nothing: where it stops matching, and what is there."""
    folder, missing = "/", "*"
    for part in (part for part in whole.split("/") if part):
        missing = part
        if _MAGIC.search(part) or not (inner := Path(folder, part)).is_dir():
            break
        folder = str(inner)
    try:
        there = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))  # noqa: PTH208
    except OSError as error:
        return f"{folder} cannot be read: {reason(error)}"
    near = difflib.get_close_matches(missing, there, n=5, cutoff=0.4)
    shown = near or there[:5]
    more = len(there) - len(shown)
    why = f"in {printable(folder)} there is " + (", ".join(map(_quoted, shown)) or "nothing")
    return why + (f", and {more} more" if more and shown else "")


def _no_match(pattern: str, whole: str, where: str) -> SourceError:
    braces = "braces are not expanded: give a list of paths" if "{" in pattern else ""
    what = "no file matches" if _MAGIC.search(pattern) else "there is no file"
    return SourceError(
        f"{what} {pattern!r}", where=where, why=instead(whole), mend=braces or "paths are relative to the spec's folder"
    )


def _quoted(name: str) -> str:
    return name if name.isprintable() and " " not in name else ascii(name)


def _commonest_suffix(folder: str) -> str:
    """The suffix that most files of a folder have, for a suggestion."""
    try:
        suffixes = ["".join(Path(entry).suffixes[-2:]) for entry in os.listdir(folder)]  # noqa: PTH208
    except OSError:
        return ""
    return max(sorted(set(suffixes)), key=suffixes.count, default="")


def _remote(url: str, where: str, wanted: str = "file") -> list[str]:
    """What is at a URL or matches it: files, or, with `directory`, folders."""
    file_system, inner = remote.file_system_of(url)
    try:
        with remote.failures(url):
            found = _remote_matches(file_system, inner, url, where, wanted)
    except PermissionError as error:
        raise SourceError(
            f"{url!r} may not be read",
            where=where,
            why=reason(error),
            mend="check your keys (AWS_ACCESS_KEY_ID, AWS_PROFILE) and what they are allowed",
        ) from None
    if not found:
        noun = "folder" if wanted == "directory" else "file"
        raise SourceError(f"no {noun} matches {url!r}", where=where, mend="check the bucket, the path and your keys")
    return [str(file_system.unstrip_protocol(path)) for path in found]


def _remote_matches(file_system: Any, inner: str, url: str, where: str, wanted: str) -> list[str]:
    try:
        kind = file_system.info(inner)["type"]  # a key that exists as it is written is that file, stars and all
    except FileNotFoundError:
        if not _MAGIC.search(inner):
            return []
        try:
            matches = file_system.glob(inner, detail=True)
        except FileNotFoundError:  # no such bucket
            return []
        return sorted(path for path, info in matches.items() if info["type"] == wanted)
    if kind != wanted:
        if wanted == "file":
            raise SourceError(f"{url!r} is a folder", where=where, mend=f"name its files: {url.rstrip('/')}/*")
        raise SourceError(f"{url!r} is a file, not a folder", where=where, mend="leave `format:` out")
    return [inner]
