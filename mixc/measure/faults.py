"""What a task on a fragment says when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mixc.errors import BuildError, MixcError, SourceError
from mixc.sources.fragment import Fragment


@contextmanager
def named(fragment: Fragment, what: str, done: str) -> Iterator[None]:
    """Turn whatever the block raises into a MixcError that names the fragment's file, as in "a file" that cannot or could
    not be "measured"."""
    try:
        yield
    except MixcError:
        raise
    except OSError as error:
        raise BuildError(
            f"{what} cannot be {done}",
            where=fragment.path,
            why=f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
            mend="see that the file can be read, and that the cache folder has room and can be written to",
        ) from error
    except Exception as error:
        raise BuildError(
            f"{what} could not be {done}",
            where=fragment.path,
            why=f"{type(error).__name__}: {error}",
            mend="this is a fault of mixc's, not of the spec; please report it with the file, or omit the file",
        ) from error


def changed(fragment: Fragment) -> SourceError:
    """For what was read of a file that is no longer what was scanned; the caller raises it."""
    return SourceError(
        "the file, or an image that it names, changed while it was read",
        where=fragment.path,
        mend="compile again when nothing writes to it",
    )
