"""The lock: the digests that pin a build, and how it came about. A text file made to be read in a git diff.

`mixc compile --locked` refuses to build anything else. Paths in it are provenance: they are shown, never compared. A lock
that was written before any build (`mixc lock SPEC`) pins the inputs alone: it has no root, no stage and no media.
"""

from __future__ import annotations

import platform
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from mixc.errors import BuildError
from mixc.plan.tables import Continued
from shards.manifest import Manifest

LOCK_FORMAT = 1
SHOWN = 100
"""Lines that one error prints of what moved."""
PINNED_LIBRARIES = (
    "mixc",
    "datatrove",
    "duckdb",
    "fastokens",
    "msgspec",
    "numpy",
    "pillow",
    "pyarrow",
    "tokenizers",
    "zstandard",
)
"""The libraries whose version can change a result: parsers, tokenizers, decoders, the planner, the compressor."""


class LockedFragment(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    path: str
    samples: int
    rejects: int


class LockedStage(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    steps_digest: str
    shards: list[str]


class LockedContinued(msgspec.Struct, frozen=True, kw_only=True):
    """The point of another run from which a build goes on, as in `Continued`."""

    root: str
    stage: str
    step: int
    consumed: int
    digest: str
    unknown: int | None = None
    """None, as `again`, before a plan has counted them."""
    again: int | None = None


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    mixture: str
    root: str | None
    """None: written before any build."""
    spec: dict[str, Any]
    """The canonical spec: defaults filled, `extends` resolved."""
    tokenizer: str
    template: str
    fast_tokenizer: bool
    """Whether the fast tokenizer measured every fragment, rather than the reference."""
    sources: dict[str, list[LockedFragment]]
    stages: dict[str, LockedStage]
    media: list[str]
    """Digests of the media shards."""
    versions: dict[str, str]
    continues: LockedContinued | None = None
    """Of a spec with `continue_from`: the point of the other run, and what it had used."""
    signals: dict[str, str] = {}
    """By name of each computed signal: its version, and the digest of the benchmark that it compares with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A fragment as it is now."""

    digest: str
    path: str
    """As a lock would have it: relative to the spec's folder where it lies below that."""
    samples: int | None
    """None where it was not measured yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a lock pins and that is known before anything is measured."""

    spec: dict[str, Any]
    """Canonical."""
    tokenizer: str
    template: str
    sources: Mapping[str, Sequence[Found | LockedFragment]]
    continues: str | None
    """Digest of what the continued run had used."""
    signals: dict[str, str]


def library_versions() -> dict[str, str]:
    """Versions that can change a result, Python's and Unicode's included."""
    found = {name: _version(name) for name in PINNED_LIBRARIES}
    return {**found, "python": platform.python_version(), "unicode": unicodedata.unidata_version}


@cache
def _version(name: str) -> str:
    return version(name)


def make_lock(
    manifest: Manifest,
    *,
    spec: dict[str, Any],
    sources: dict[str, list[LockedFragment]],
    fast_tokenizer: bool,
    continues: Continued | None = None,
    signals: dict[str, str] | None = None,
) -> Lock:
    """Of a build."""
    return Lock(
        format=LOCK_FORMAT,
        mixture=manifest.mixture,
        root=manifest.root,
        spec=spec,
        tokenizer=manifest.tokenizer,
        template=manifest.template,
        fast_tokenizer=fast_tokenizer,
        sources=sources,
        stages={
            stage.name: LockedStage(
                digest=stage.digest,
                steps_digest=stage.steps_digest,
                shards=[shard.digest for shard in stage.shards],
            )
            for stage in manifest.stages
        },
        media=[shard.file for shard in manifest.media.shards],
        versions=library_versions(),
        continues=None if continues is None else msgspec.convert(msgspec.to_builtins(continues), LockedContinued),
        signals=signals or {},
    )


def lock_inputs(
    mixture: str,
    *,
    inputs: Inputs,
    sources: dict[str, list[LockedFragment]],
    fast_tokenizer: bool,
    continues: LockedContinued | None = None,
) -> Lock:
    """Of a spec that was not built: without root, stages and media."""
    return Lock(
        format=LOCK_FORMAT,
        mixture=mixture,
        root=None,
        spec=inputs.spec,
        tokenizer=inputs.tokenizer,
        template=inputs.template,
        fast_tokenizer=fast_tokenizer,
        sources=sources,
        stages={},
        media=[],
        versions=library_versions(),
        continues=continues,
        signals=inputs.signals,
    )


def encode_lock(lock: Lock) -> bytes:
    """Indented JSON with sorted keys."""
    return msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2) + b"\n"


def lock_of(spec: Path) -> Path:
    """Where a spec's lock lies: beside it, and named like it."""
    return spec.with_suffix(".lock")


def read_lock(path: Path) -> Lock:
    """Raises BuildError when it is missing or is no lock."""
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError as error:
        raise BuildError(
            "there is no lock",
            where=str(path),
            mend="`mixc lock SPEC` writes one, and so does a compile without --locked",
        ) from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BuildError("this is not a lock", where=str(path), why=str(error)) from error
    if lock.format != LOCK_FORMAT:
        raise BuildError(f"a lock of format {lock.format}; this mixc reads {LOCK_FORMAT}", where=str(path))
    return lock


def moved_results(lock: Lock, manifest: Manifest) -> list[str]:
    """What differs from the lock in a build made from equal inputs: the libraries' doing, or a bug of ours. Empty, too,
    for a lock without a root, which pins inputs alone."""
    if lock.root is None or lock.root == manifest.root:
        return []
    moved = [f"root: {lock.root[:16]} -> {manifest.root[:16]}"]
    for stage in manifest.stages:
        locked = lock.stages.get(stage.name)
        if locked is None or (locked.digest, locked.steps_digest) != (stage.digest, stage.steps_digest):
            moved.append(f"stage {stage.name}")
    return moved + moved_versions(lock)


def moved_versions(lock: Lock) -> list[str]:
    """Libraries that can change a result and are not the lock's: no drift as such, but what to look at first when equal
    inputs give another result."""
    now = library_versions()
    return [
        f"{name}: {lock.versions.get(name)} -> {now.get(name)}"
        for name in sorted(lock.versions.keys() | now.keys())
        if lock.versions.get(name) != now.get(name)
    ]


def refuse(moved: Sequence[str], where: Path) -> None:
    """Raises BuildError that names what moved; does nothing when nothing did."""
    if moved:
        more = [f"and {len(moved) - SHOWN:,} more: `mixc lock SPEC --check` lists all"] if len(moved) > SHOWN else []
        raise BuildError(
            "the build would not be the locked one",
            where=str(where),
            why="\n        ".join([*moved[:SHOWN], *more]),
            mend="restore what moved, or pin what is there now with `mixc lock`",
        )
