"""A side that lies in git: `git:REV:PATH`, a spec, a lock or a build as a revision has it.

Git runs as a program. Every name goes to it where it cannot be taken for an option, and after the first call a revision is the
digest that git made of it, so no name of a user's is ever parsed twice.
"""

from __future__ import annotations

import io
import os
import posixpath
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixc.errors import BuildError

PREFIX = "git:"


@dataclass(frozen=True, slots=True)
class Revision:
    """One path in one commit."""

    label: str
    """As the user wrote it."""
    top: Path
    """The working tree's top folder."""
    commit: str
    path: str
    """From the top, `/` between folders."""
    kind: Literal["file", "folder"]

    @property
    def place(self) -> Path:
        """Where it would lie in the working tree."""
        return self.top / self.path

    @property
    def shown(self) -> Path:
        """A name for messages, under which `read` finds it: `git:REV:/PATH`."""
        return Path(f"{self.label[: self.label.index(':', len(PREFIX)) + 1]}/{self.path}")

    def read(self, shown: Path) -> bytes | None:
        """The content of a file of this commit by its shown name; None where there is none. Raises BuildError for one outside of
        the repository."""
        root = str(self.shown)[: -len(self.path)]
        name = posixpath.normpath(posixpath.relpath(os.path.normpath(shown), root.rstrip("/")))
        if name == ".." or name.startswith("../"):
            raise BuildError(
                "a spec in git can extend only what lies in its repository",
                where=self.label,
                why=f"{shown} does not",
            )
        if _kind(self.top, self.commit, name) != "blob":
            return None
        return _git(self.top, "cat-file", "blob", f"{self.commit}:{name}")

    def unpack(self, folder: Path) -> None:
        """Write the folder's files into `folder`."""
        data = _git(self.top, "archive", "--format=tar", f"{self.commit}:{self.path}" if self.path else self.commit)
        import tarfile  # here: few diffs unpack a build of git

        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder, filter="data")


def find_revision(label: str) -> Revision:
    """What `git:REV:PATH` names. As for git itself, PATH starts from the repository's top, and with `./` from here. Raises BuildError:
    no git, no repository, no such revision, no such path."""
    rev, colon, path = label.removeprefix(PREFIX).partition(":")
    if not rev or not colon or not path or "\0" in label:
        raise BuildError(
            f"{label!r} names no file of a revision", mend="write git:REV:PATH, as in git:HEAD~1:specs/demo.yaml"
        )
    here = Path.cwd()
    try:
        top = Path(_git(here, "rev-parse", "--show-toplevel").decode("utf-8", "surrogateescape").rstrip("\n"))
    except _FailedError as error:
        raise BuildError("this folder is in no git repository", where=str(here), why=error.why) from None
    try:
        commit = (
            _git(here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}").decode().strip()
        )
    except _FailedError:
        raise BuildError(
            f"git knows no revision {rev!r}", where=label, mend="`git log --oneline` and `git branch -a` list them"
        ) from None
    if path.startswith(("./", "../")):
        path = posixpath.join(Path(os.path.relpath(os.path.realpath(here), os.path.realpath(top))).as_posix(), path)
    path = posixpath.normpath(path)
    if path.startswith(("/", "../")) or path == "..":
        raise BuildError("this path leads out of the repository", where=label, mend="name it from the repository's top")
    kind = _kind(top, commit, path)
    if kind is None:
        raise BuildError(
            f"there is no {path} in revision {rev}",
            where=label,
            mend="name it from the repository's top, or from here with `./`",
        )
    return Revision(label, top, commit, path, "folder" if kind == "tree" else "file")


class _FailedError(BuildError):
    """Git said no."""


def _kind(top: Path, commit: str, path: str) -> str | None:
    """`blob` or `tree`, None for nothing. A link or a submodule is nothing that could be read."""
    if path == ".":
        return "tree"
    listed = _git(top, "ls-tree", "-z", "--full-tree", commit, "--", path)
    for entry in listed.split(b"\0"):
        about, _, name = entry.partition(b"\t")
        if name == os.fsencode(path):
            mode, kind, _ = about.split(b" ")
            return kind.decode() if mode in (b"100644", b"100755", b"040000") else None
    return None


def _git(folder: Path, *arguments: str) -> bytes:
    """What git writes. Raises BuildError when there is no git; _FailedError, with its words, when it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise BuildError("git is not installed", mend="install it, or name files of the disk") from error
    if done.returncode:
        raise _FailedError(f"git {arguments[0]} failed", why=done.stderr.decode("utf-8", "replace").strip())
    return done.stdout
