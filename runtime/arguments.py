"""The command line of `python -m runtime`.

Only paths and matters of the machine are flags (processes, memory, precision, how often to save). What a run
learns from, and how, is in the build. A flag that is left out takes, when a run is resumed, the value the run
began with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from runtime.errors import ArgumentError
from shards.store import Place, place

PROGRAM = "mixc train"
"""How the program calls itself: it is started by `mixc train`, and by `python -m runtime` all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What the user typed. None is "not given"."""

    build: Place
    out: Path
    stages: tuple[str, ...] | None = None
    max_steps: int | None = None
    resume: bool = False
    zero: int | None = None
    precision: str | None = None
    offload: bool | None = None
    micro_batch: int | None = None
    recompute: tuple[str, ...] = ()
    compile: bool = False
    workers: int = 2
    save_every: int = 500
    keep: int = 2
    init: Path | None = None
    init_vision: Path | None = None
    init_language: Path | None = None
    continue_from: Path | None = None
    log_every: int = 1
    peak_tflops: float | None = None
    tensorboard: bool = False
    evaluate: Place | Literal[False] | None = None
    """False: no longer."""
    questions: Path | Literal[False] | None = None
    """What `mixc train` has prepared. False: no longer."""
    evaluate_every: int | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message, where=PROGRAM, mend=f"see `{PROGRAM} --help`")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return number


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("names no stage")
    return names


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in parts if part not in ("vision", "language")]:
        raise argparse.ArgumentTypeError(f"takes vision, language or both, got {unknown[0]!r}")
    return parts


def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog=PROGRAM,
        description="Train from a build: play its packs, step by step, stage by stage.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "build", type=place, metavar="BUILD", help="a folder written by `mixc compile`, or the URL of a copy in a store"
    )
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run: weights, checkpoints, metrics.jsonl")
    add("--stages", type=_names, metavar="A,B", help="train only these, in the build's order (all)")
    add("--max-steps", type=_at_least(1), metavar="N", help="save and stop when the run has made N steps in all")
    add("--resume", action="store_true", help="go on with the run in RUN from its last checkpoint")
    add("--zero", type=int, choices=(0, 1, 2, 3), help="ZeRO stage: what is divided over the processes (1)")
    add("--precision", choices=("fp32", "bf16"), help="of weights and arithmetic (bf16 on a GPU, fp32 on a CPU)")
    add(
        "--offload",
        action=argparse.BooleanOptionalAction,
        help="keep the optimizer's state on the CPU, above ZeRO 0: slower, for a GPU's memory (--no-offload)",
    )
    add("--micro-batch", type=_at_least(1), metavar="M", help="packs a process takes at a time (1)")
    add(
        "--recompute",
        type=_parts,
        default=(),
        metavar="A,B",
        help="vision, language: keep only what goes into their blocks, and compute the rest again for the gradient (none)",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the layers by torch.compile, below ZeRO 3: fewer passes over memory, after minutes of compiling",
    )
    add("--workers", type=_at_least(0), default=2, metavar="N", help="loader processes beside each process (2)")
    add("--save-every", type=_at_least(1), default=500, metavar="N", help="steps between checkpoints (500)")
    add("--keep", type=_at_least(1), default=2, metavar="K", help="checkpoints to keep (2)")
    add(
        "--init",
        type=Path,
        metavar="DIR",
        help="start from the weights in DIR, a trained stage's or a released model's, not from random ones",
    )
    add(
        "--init-vision",
        type=Path,
        metavar="DIR",
        help="start with the vision tower in DIR; what has no folder is random",
    )
    add("--init-language", type=Path, metavar="DIR", help="start with the language model in DIR")
    add(
        "--continue-from",
        type=Path,
        metavar="RUN",
        help="of a build whose spec says continue_from: start from that point of the other build's run",
    )
    add("--log-every", type=_at_least(1), default=1, metavar="N", help="steps between printed lines (1)")
    add(
        "--peak-tflops",
        type=_positive,
        metavar="X",
        help="what a device can do in this precision, dense, for the MFU (known of common GPUs in bf16)",
    )
    add("--tensorboard", action="store_true", help="write event files to RUN/tensorboard as well")
    add(
        "--eval",
        type=place,
        dest="evaluate",
        metavar="BUILD",
        help="play another build, forward only, before and after each stage: RUN/evaluations.jsonl",
    )
    add("--no-eval", action="store_const", const=False, dest="evaluate", help="go on without the --eval of before")
    add(
        "--eval-questions",
        type=Path,
        dest="questions",
        metavar="FILE",
        help="in place of the launcher's flag of that name: the file that it has prepared, in RUN/questions",
    )
    add(
        "--no-eval-questions",
        action="store_const",
        const=False,
        dest="questions",
        help="go on without the --eval-questions of before",
    )
    add("--eval-every", type=_at_least(1), dest="evaluate_every", metavar="N", help="and after every N steps of it")
    return made


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Raises ArgumentError for what does not parse. `--help` prints and leaves through SystemExit(0)."""
    return Arguments(**vars(parser().parse_args(argv)))
