"""The files of a checkpoint: where the run is, in our JSON, beside what each process holds of weights and optimizer state.

    checkpoints/latest              name of the newest whole checkpoint
    checkpoints/<stage>-<step>/
        state.json                  where the run is; size and blake3 of every file below
        parts/<rank>.safetensors    one of each process that wrote it: see parts.py

A checkpoint is written under another name, synced, and renamed; `latest` is replaced after that, and older
checkpoints go last. So a run killed at any instant finds either the checkpoint or the one before, never half
of one. Before a file is read its digest is checked. Files travel through a file system that all processes see.

Any number of processes can go on from a checkpoint: what was divided over those that wrote it is dealt anew as it
is read, and nothing is written for that.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import torch

from runtime import parts
from runtime.engine import Engine
from runtime.errors import CheckpointError, ResumeError
from runtime.processes import Place, gather
from runtime.search import SearchState
from shards.atomic import atomic_write, sync_folder
from shards.digest import canonical_json, digest, digest_file
from shards.errors import ShardError

FOLDER = "checkpoints"
LATEST = "latest"
STATE = "state.json"
PARTS = "parts"
FORMAT = 2


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bytes: int
    digest: str


Entry = tuple[str, FileEntry]
"""A file's name in the checkpoint, and what it must be."""

Forget = Callable[[Path], None]
"""Removes what is no longer wanted beside the checkpoint in that folder, which was just published."""


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a run is. There is no state of a loader, a shuffle or a schedule: they are functions of `step`."""

    format: int
    root: str
    """Of the build."""
    stage: str
    step: int
    """Steps of the stage that are done; so, the next one."""
    world: int
    zero: int
    precision: str
    skipped: int
    """Steps of the stage, so far, that changed nothing: spikes, and those whose gradient was not finite."""
    skipped_in_a_row: int
    files: dict[str, FileEntry]
    losses: list[float] = []
    """Of the last steps, where the stage leaves out spikes."""
    search: SearchState | None = None
    """Of the learning rate, where the stage does one."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    checksum: str
    """blake3 of `state` as it stands."""
    state: msgspec.Raw


class _Format(msgspec.Struct):
    format: int


def name(state: State) -> str:
    return f"{state.stage}-{state.step:08d}"


def write_part(out: Path, state: State, rank: int, head: bytes, tensors: Iterable[torch.Tensor]) -> Entry:
    """Write a process's file of a checkpoint that is not published yet, durably. The file's name in it, size and
    blake3. OSError when it cannot be written."""
    partial = _partial(out / FOLDER, state)
    path = partial / PARTS / f"{rank:05d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    size, its_digest = parts.write(path, head, tensors)
    return path.relative_to(partial).as_posix(), FileEntry(bytes=size, digest=its_digest)


def publish(out: Path, state: State, entries: dict[str, FileEntry], forget: Forget) -> None:
    """Give a checkpoint its name, when all its files are written; only then may others go. In one process. OSError when it cannot be written."""
    folder = out / FOLDER
    partial, final = _partial(folder, state), folder / name(state)
    body = canonical_json(msgspec.structs.replace(state, files=entries))
    with atomic_write(partial / STATE) as file:
        file.write(canonical_json({"checksum": digest(body), "state": msgspec.Raw(body)}))
    shutil.rmtree(final, ignore_errors=True)  # of a run that came here before, and was sent back
    partial.replace(final)
    sync_folder(folder)
    with atomic_write(folder / LATEST) as file:
        file.write(name(state).encode() + b"\n")
    forget(final)


def keep_furthest(keep: int, stages: list[str]) -> Forget:
    """What forgets all checkpoints but the `keep` that are furthest on, by `stages`, the run's, and step; never the one
    that was just published."""

    def forget(published: Path) -> None:
        for old in _furthest_first(published.parent, stages)[keep:]:
            if old != published:
                shutil.rmtree(old)

    return forget


def _partial(folder: Path, state: State) -> Path:
    return folder / f".{name(state)}.partial"


def _furthest_first(folder: Path, stages: list[str]) -> list[Path]:
    def progress(path: Path) -> tuple[int, int]:
        stage, _, step = path.name.rpartition("-")
        return stages.index(stage), int(step)

    return sorted((path for path in folder.iterdir() if (path / STATE).is_file()), key=progress, reverse=True)


def latest(out: Path) -> tuple[Path, State] | None:
    """The checkpoint that `latest` names; None when there was none yet. Raises CheckpointError if it is
    damaged."""
    folder = out / FOLDER
    try:
        path = folder / (folder / LATEST).read_text().strip()
    except FileNotFoundError:
        return None
    mend = f"write the name of an older checkpoint into {folder / LATEST}, or delete it to begin the stage again"
    return path, read(path, mend=mend)


def read(path: Path, *, mend: str = "") -> State:
    """What the checkpoint `path` says of itself. Raises CheckpointError if it is missing or damaged."""
    where = path / STATE
    try:
        envelope = msgspec.json.decode(where.read_bytes(), type=_Envelope)
        if digest(bytes(envelope.state)) != envelope.checksum:
            raise CheckpointError("its checksum does not hold", where=str(where), mend=mend)
        found = msgspec.json.decode(envelope.state, type=_Format).format
        if found != FORMAT:
            raise CheckpointError(
                f"the checkpoint has format {found}, and this version reads and writes {FORMAT}",
                where=str(where),
                mend=f"go on with the version of mixc that wrote it, or move {where.parent.parent} away: the stage begins again",
            )
        return msgspec.json.decode(envelope.state, type=State)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError("no whole checkpoint", where=str(where), why=str(error), mend=mend) from None


def fits(path: Path, state: State, *, root: str, zero: int, precision: str) -> None:
    """Raises ResumeError when a run like this cannot go on from the checkpoint."""
    if state.root != root:
        raise ResumeError(
            f"the checkpoint is of another build: root {state.root[:16]}, and this one is {root[:16]}", where=str(path)
        )
    for what, held, given in (("--zero", state.zero, zero), ("--precision", state.precision, precision)):
        if held != given:
            raise ResumeError(f"the checkpoint was written with {what} {held}, not {given}", where=str(path))


def load(engine: Engine, path: Path, state: State, place: Place) -> None:
    """Check the checkpoint's files, and give `engine` what is in them. In all processes. Raises
    CheckpointError."""
    names = sorted(state.files)
    faults = [fault for part in gather(_faults(path, state, names[place.rank :: place.world])) for fault in part]
    if faults:
        raise CheckpointError(
            f"the checkpoint is damaged: {faults[0]}",
            where=str(path),
            mend=f"write the name of an older checkpoint into {path.with_name(LATEST)}",
        )
    engine.load([path / each for each in names], place)


def _faults(path: Path, state: State, names: list[str]) -> list[str]:
    faults = []
    for each in names:
        try:
            found = digest_file(path / each)
        except ShardError as error:
            faults.append(str(error))
            continue
        if found != state.files[each].digest:
            faults.append(f"{each} is not as it was written")
    return faults
