"""The lock: the digests that pin a build, and how it came about. A text file made to be read in a git diff.

`mixc compile --locked` refuses to build anything else. Paths in it are provenance: they are shown, never compared.
"""

from __future__ import annotations

import platform
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from mixc.errors import BuildError
from mixc.plan.tables import Continued
from shards.manifest import Manifest

LOCK_FORMAT = 1
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


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    mixture: str
    root: str
    spec: dict[str, Any]
    """The canonical spec: defaults filled, `extends` resolved."""
    tokenizer: str
    template: str
    fast_tokenizer: bool
    sources: dict[str, list[LockedFragment]]
    stages: dict[str, LockedStage]
    media: list[str]
    """Digests of the media shards."""
    versions: dict[str, str]
    continues: Continued | None = None
    """Of a spec with `continue_from`: the point of the other run, and what it had used."""
    signals: dict[str, str] = {}
    """By name of each computed signal: its version, and the digest of the benchmark that it compares with."""


def library_versions() -> dict[str, str]:
    """Versions that can change a result, Python's and Unicode's included."""
    found = {name: version(name) for name in PINNED_LIBRARIES}
    return {**found, "python": platform.python_version(), "unicode": unicodedata.unidata_version}


def make_lock(
    manifest: Manifest,
    *,
    spec: dict[str, Any],
    sources: dict[str, list[LockedFragment]],
    fast_tokenizer: bool,
    continues: Continued | None = None,
    signals: dict[str, str] | None = None,
) -> Lock:
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
        continues=continues,
        signals=signals or {},
    )


def encode_lock(lock: Lock) -> bytes:
    """Indented JSON with sorted keys."""
    return msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2) + b"\n"


def read_lock(path: Path) -> Lock:
    """Raises BuildError when it is missing or is no lock."""
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError as error:
        raise BuildError("there is no lock", where=str(path), mend="compile once without --locked") from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BuildError("this is not a lock", where=str(path), why=str(error)) from error
    if lock.format != LOCK_FORMAT:
        raise BuildError(f"a lock of format {lock.format}; this mixc reads {LOCK_FORMAT}", where=str(path))
    return lock


def moved_inputs(
    lock: Lock,
    *,
    spec: dict[str, Any],
    tokenizer: str,
    template: str,
    sources: dict[str, list[LockedFragment]],
    continues: str | None = None,
    signals: dict[str, str] | None = None,
) -> list[str]:
    """What differs from the lock among a build's inputs, in words; empty when nothing does.

    `continues` is the digest of what the continued run had used.
    """
    moved = [f"spec: {change}" for change in _changes("", lock.spec, spec)]
    if lock.tokenizer != tokenizer:
        moved.append(f"tokenizer: {lock.tokenizer[:16]} -> {tokenizer[:16]}")
    if lock.template != template:
        moved.append(f"chat template: {lock.template[:16]} -> {template[:16]}")
    locked = None if lock.continues is None else lock.continues.digest
    if locked != continues:
        moved.append(f"what the continued run used: {(locked or 'nothing')[:16]} -> {(continues or 'nothing')[:16]}")
    moved += [f"signal {change}" for change in _changes("", lock.signals, signals or {})]
    for name in sorted(lock.sources.keys() | sources.keys()):
        before = _by_digest(lock.sources.get(name, []))
        after = _by_digest(sources.get(name, []))
        for digest in sorted(before.keys() | after.keys()):
            old, new = before.get(digest, []), after.get(digest, [])
            moved += [f"source {name}: gone {f.path} ({digest[:16]})" for f in old[len(new) :]]
            moved += [f"source {name}: new {f.path} ({digest[:16]})" for f in new[len(old) :]]
    return moved


def moved_results(lock: Lock, manifest: Manifest) -> list[str]:
    """What differs from the lock in a build made from equal inputs: the libraries' doing, or a bug of ours."""
    if lock.root == manifest.root:
        return []
    moved = [f"root: {lock.root[:16]} -> {manifest.root[:16]}"]
    for stage in manifest.stages:
        locked = lock.stages.get(stage.name)
        if locked is None or (locked.digest, locked.steps_digest) != (stage.digest, stage.steps_digest):
            moved.append(f"stage {stage.name}")
    now = library_versions()
    moved += [
        f"{name}: {lock.versions.get(name)} -> {now.get(name)}"
        for name in sorted(lock.versions.keys() | now.keys())
        if lock.versions.get(name) != now.get(name)
    ]
    return moved


def refuse(moved: Sequence[str], where: Path) -> None:
    """Raises BuildError that names everything that moved; does nothing when nothing did."""
    if moved:
        raise BuildError(
            "the build would not be the locked one",
            where=str(where),
            why="\n        ".join(moved),
            mend="restore what moved, or compile without --locked to make a new lock",
        )


def _by_digest(fragments: list[LockedFragment]) -> dict[str, list[LockedFragment]]:
    found: dict[str, list[LockedFragment]] = {}
    for fragment in fragments:
        found.setdefault(fragment.digest, []).append(fragment)
    return found


def _changes(path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for key in sorted(old.keys() | new.keys()):
            changes += _changes(f"{path}.{key}" if path else str(key), old.get(key), new.get(key))
        return changes
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
