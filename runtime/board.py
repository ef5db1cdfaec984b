"""TensorBoard, for those who look at it: the numbers of metrics.jsonl as event files under RUN/tensorboard.

metrics.jsonl is what a run vouches for; these files are a copy for the eye. An event file cannot be cut, so after a resume the
new one says from which step on TensorBoard is to forget what the older ones told (`purge_step`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from runtime.errors import ArgumentError
from runtime.metrics import Line

if TYPE_CHECKING:
    from runtime.evaluate import Evaluation

FOLDER = "tensorboard"

_PLAIN = (
    "loss",
    "grad_norm",
    "tokens",
    "supervised_tokens",
    "tiles",
    "seconds",
    "data_wait",
    "tokens_per_second",
    "supervised_tokens_per_second",
    "tiles_per_second",
    "padding",
    "mfu",
    "memory",
    "skipped",
)
_BY_NAME = ("lr", "loss_by_source", "skew")


def check() -> None:
    """Raises ArgumentError when the package is not here."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            "needs the package tensorboard",
            where="--tensorboard",
            why=str(error),
            mend="pip install 'mixc[tensorboard]', or leave the flag out",
        ) from None


class Board:
    """Event files, open for one stage."""

    def __init__(self, out: Path, *, before: int, step: int) -> None:
        """`before`: steps of the run's earlier stages, which TensorBoard's axis counts on from; `step`: of this stage,
        the first to be written."""
        from torch.utils.tensorboard import SummaryWriter

        self._before = before
        self._writer = SummaryWriter(str(out / FOLDER), purge_step=before + step)

    def write(self, line: Line) -> None:
        """What is null, or absent, leaves a gap."""
        for tag, value in scalars(line).items():
            self._writer.add_scalar(tag, value, self._before + line.step)

    def evaluation(self, line: Evaluation) -> None:
        """At the step that follows: of a run's axis, the number of steps that the weights were trained for."""
        named = {f"loss_by_source/{name}": loss for name, loss in line.loss_by_source.items()}
        for tag, value in {"loss": line.loss, **named}.items():
            if value is not None:
                self._writer.add_scalar(f"evaluation/{tag}", value, self._before + line.step)

    def flush(self) -> None:
        """Before a checkpoint: a run that is killed goes on from there, and does not tell again of the steps before it."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def scalars(line: Line) -> dict[str, float]:
    """The line's numbers by tag: a name, or a name and which of several (`lr/projector`)."""
    found = {name: getattr(line, name) for name in _PLAIN}
    for name in _BY_NAME:
        found |= {f"{name}/{which}": value for which, value in getattr(line, name).items()}
    for save in line.saves:
        found |= {"save/blocked": save.blocked, "save/behind": save.behind}
    found |= {f"flops/{part}": getattr(line.flops, part) for part in line.flops.__struct_fields__}
    if line.exact is not UNSET:
        found["exact"] = line.exact
    return {tag: value for tag, value in found.items() if value is not None}
