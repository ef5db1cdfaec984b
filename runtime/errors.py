"""What stops a training run, as the user sees it: what, where, why and the mend; never a traceback."""

from __future__ import annotations

from typing import ClassVar


class TrainError(Exception):
    """A mistake of the user's, or a state of the machine or the run that the user can mend.

    `what` is one sentence; `where` a place (a flag, a file, a stage and step); `why` the evidence; `mend`
    what to do.
    """

    status: ClassVar[int] = 2
    """Exit status of the program."""

    def __init__(self, what: str, *, where: str = "", why: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.mend = what, where, why, mend

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        lines += [f"  why:  {self.why}"] if self.why else []
        lines += [f"  mend: {self.mend}"] if self.mend else []
        return "\n".join(lines)


class ArgumentError(TrainError):
    """A flag is unknown, malformed, or does not fit the build or the number of processes."""


class ResumeError(TrainError):
    """The run cannot be continued with what it is given: another build, another precision, another world
    size."""


class CheckpointError(TrainError):
    """A checkpoint or a file of weights is missing, damaged, or made for another model."""


class DivergedError(TrainError):
    """Loss or gradients were not finite for too many steps in a row: a failed run, not a mistake in its
    command."""

    status = 1


class StoppedError(TrainError):
    """The user or the scheduler asked the run to stop, and it has stopped at the end of a step."""

    def __init__(self, what: str, *, signal_number: int) -> None:
        super().__init__(what)
        self.status = 128 + signal_number  # type: ignore[misc]  # 130 for SIGINT, 143 for SIGTERM
