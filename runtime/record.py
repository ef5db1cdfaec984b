"""`RUN/run.json`: what a run is made of, written when it begins, and what a resumed run must still find.

A run is a build's root and a few matters of the machine that a checkpoint depends on. When the build given at
a resume is not the run's, the parts recorded here say which of them moved.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from runtime.arguments import Arguments
from runtime.errors import ArgumentError, ResumeError
from runtime.initial import Initial
from shards.atomic import atomic_write
from shards.manifest import Manifest
from shards.recognise import RUN, recognise

FORMAT = 1
NAME = RUN
_LOCK = ".lock"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    root: str
    parts: dict[str, Any]
    """What the root covers, by part: see `parts`."""
    stages: list[str]
    """To train, in the build's order."""
    zero: int
    precision: str
    micro_batch: int
    world: int
    """Processes the run began with. The checkpoints say what they were written by."""
    threads: int
    """Of one operation on a CPU: see processes.compute_repeatably."""
    init: str | None
    """Folder of the weights that the run began with."""
    init_vision: str | None = None
    """Folder of the vision tower's; the same for the language model's."""
    init_language: str | None = None
    continues: str | None = None
    """Folder of the run that this one goes on from."""
    offload: bool = False
    """Whether the optimizer's state is on the CPU. A matter of memory, which a resumed run can change."""
    evaluate: str | None = None
    """Folder or URL of the build that the weights are evaluated on. This and the next two change nothing in training."""
    questions: str | None = None
    """Name of the file in RUN/questions with what the weights are asked."""
    evaluate_every: int | None = None

    @property
    def initial(self) -> Initial:
        """Where the weights of the first stage come from."""
        whole, vision, language = (
            None if folder is None else Path(folder) for folder in (self.init, self.init_vision, self.init_language)
        )
        return Initial(whole=whole, vision=vision, language=language)


def parts(manifest: Manifest) -> dict[str, Any]:
    """What the root digest covers, stages by name, as JSON has it."""
    covered = ("batch", "sequence_length", "max_tiles", "steps", "train", "digest", "steps_digest")
    made = {
        "format": manifest.format,
        "seed": manifest.seed,
        "geometry": manifest.geometry,
        "tokenizer": manifest.tokenizer,
        "template": manifest.template,
        "stages": {stage.name: {field: getattr(stage, field) for field in covered} for stage in manifest.stages},
        "stages in order": " ".join(stage.name for stage in manifest.stages),
    }
    return msgspec.json.decode(msgspec.json.encode(made))  # as it will be read back: a tuple is a list


def moved(before: Any, after: Any, path: str = "") -> list[str]:
    """The paths at which two trees of plain data differ, with both values, in order of path."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in sorted(before.keys() | after.keys()):
            below = f"{path}.{key}" if path else key
            if key not in after:
                found.append(f"{below} (gone)")
            elif key not in before:
                found.append(f"{below} (new)")
            else:
                found += moved(before[key], after[key], below)
        return found
    return [] if before == after else [f"{path} ({_short(before)} -> {_short(after)})"]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] + "..." if len(text) == 64 else text  # a digest


def settle(
    arguments: Arguments, manifest: Manifest, *, begun: bool, world: int, threads: int, precision: str
) -> Record:
    """What the run in `arguments.out` is to be, or is; nothing is written.

    `begun`: it has something to lose (a run that never made a step is begun anew). `precision` is what this
    machine would take when none is asked for. Raises ArgumentError for flags that do not fit, ResumeError
    when the run in the folder is another.
    """
    if begun and not arguments.resume:
        raise ArgumentError(
            "there is a run in this folder already",
            where=str(arguments.out),
            mend="go on with it: --resume; or give another --out",
        )
    if not begun:
        return _new(arguments, manifest, world=world, threads=threads, precision=precision)
    return _continued(read(arguments.out), arguments, manifest, arguments.out / NAME)


def write(out: Path, record: Record) -> None:
    with atomic_write(out / NAME) as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read(out: Path) -> Record:
    """The run in `out`. Raises ResumeError when its run.json is missing or not readable as one."""
    path = out / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError) as error:
        if not path.exists() and (known := recognise(out)):
            raise ResumeError("not a run", where=str(out), why=known, mend="name the folder of a run") from None
        raise ResumeError(
            "not the description of a run that this version can go on with",
            where=str(path),
            why=str(error),
            mend="begin the run again in another folder",
        ) from None


def _new(arguments: Arguments, manifest: Manifest, *, world: int, threads: int, precision: str) -> Record:
    return Record(
        format=FORMAT,
        root=manifest.root,
        parts=parts(manifest),
        stages=_chosen(arguments.stages, manifest),
        zero=1 if arguments.zero is None else arguments.zero,
        precision=arguments.precision or precision,
        micro_batch=arguments.micro_batch or 1,
        world=world,
        threads=threads,
        init=_absolute(arguments.init),
        init_vision=_absolute(arguments.init_vision),
        init_language=_absolute(arguments.init_language),
        continues=_absolute(arguments.continue_from),
        offload=bool(arguments.offload),
        **_evaluation(arguments, None, None, None),
    )


def _absolute(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.resolve())


def _chosen(names: tuple[str, ...] | None, manifest: Manifest) -> list[str]:
    known = [stage.name for stage in manifest.stages]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ArgumentError(
            f"the build has no stage {unknown[0]!r}", where="--stages", why=f"its stages are {', '.join(known)}"
        )
    return known if names is None else [name for name in known if name in names]


def _continued(found: Record, arguments: Arguments, manifest: Manifest, path: Path) -> Record:
    if found.root != manifest.root:
        differences = moved(found.parts, parts(manifest))
        listed = ", ".join(differences[:8]) + (f" and {len(differences) - 8} more" if len(differences) > 8 else "")
        raise ResumeError(
            f"the run is of another build: root {found.root[:16]}, and this one is {manifest.root[:16]}",
            where=str(path),
            why=f"moved: {listed}",
            mend="resume with the build the run began with, or begin a run in another folder: one that goes on with this one's"
            " weights has --continue-from, of a build whose spec says `continue_from`, or --init (docs/training.md)",
        )
    for flag, given, held in (
        ("--precision", arguments.precision, found.precision),
        ("--zero", arguments.zero, found.zero),
        ("--init", _absolute(arguments.init), found.init),
        ("--init-vision", _absolute(arguments.init_vision), found.init_vision),
        ("--init-language", _absolute(arguments.init_language), found.init_language),
        ("--continue-from", _absolute(arguments.continue_from), found.continues),
    ):
        if given is not None and given != held:
            raise ResumeError(
                f"the run began with {flag} {held}, not {given}", where=str(path), mend=f"leave {flag} out"
            )
    stages = _chosen(arguments.stages, manifest) if arguments.stages else found.stages
    together = [stage.name for stage in manifest.stages if stage.name in {*stages, *found.stages}]
    if together[: len(found.stages)] != found.stages:
        raise ResumeError(
            f"the run trains {', '.join(found.stages)}; it can go on with later stages only",
            where=str(path),
            why=f"--stages {','.join(stages)}",
            mend="leave --stages out, or begin a run in another folder with --init",
        )
    return msgspec.structs.replace(
        found,
        stages=together,
        micro_batch=arguments.micro_batch or found.micro_batch,
        offload=found.offload if arguments.offload is None else arguments.offload,
        **_evaluation(arguments, found.evaluate, found.questions, found.evaluate_every),
    )


def _evaluation(arguments: Arguments, evaluate: str | None, questions: str | None, every: int | None) -> dict[str, Any]:
    """What is evaluated on, what is asked, and how often: as given, else as before."""
    given = arguments.evaluate
    if given is not None:
        evaluate = str(given.resolve()) if isinstance(given, Path) else given.url if given else None
    if arguments.questions is not None:
        questions = arguments.questions.name if arguments.questions else None
    evaluates = evaluate is not None or questions is not None
    if not evaluates and arguments.evaluate_every is not None:
        raise ArgumentError(
            "there is no build to evaluate on, and there are no questions",
            where="--eval-every",
            mend="--eval EVAL_BUILD, --eval-questions FILE",
        )
    every = (arguments.evaluate_every or every) if evaluates else None
    return {"evaluate": evaluate, "questions": questions, "evaluate_every": every}


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Have the run's folder, made if need be, for this process alone. The lock falls with the process,
    however it ends.

    Raises ArgumentError when another process has it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ArgumentError("the run's folder cannot be made", where=str(out), why=str(error)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ArgumentError(
            "another process is training in this folder",
            where=str(out),
            mend="wait for it, stop it, or give another --out",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
