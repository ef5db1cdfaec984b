"""The errors that a user sees. Each says what, where, why and the mend; none shows a traceback."""

from __future__ import annotations


class MixcError(Exception):
    """A mistake of the user's, or a state of the world that the user can mend. The command line exits with 2.

    `what` is one sentence; `where` a place (file:line:column, a build, a shard); `why` the evidence; `mend` what to do.
    """

    prefix = "error: "
    """What the command line puts before the text."""

    def __init__(self, what: str, *, where: str = "", why: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.mend = what, where, why, mend

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        lines += [f"  why:  {self.why}"] if self.why else []
        lines += [f"  mend: {self.mend}"] if self.mend else []
        return "\n".join(lines)


class SpecError(MixcError):
    """The spec is wrong: bad YAML, an unknown key, a share for a source that does not exist, a bad `where`."""


class SourceError(MixcError):
    """A source cannot be read at all (no file matches, unknown format, missing column in every row)."""


class PlanError(MixcError):
    """The spec is well-formed, but its data cannot fill it (a share beyond `max_epochs`, a threshold that keeps nothing)."""


class BuildError(MixcError):
    """A build cannot be written or read."""
