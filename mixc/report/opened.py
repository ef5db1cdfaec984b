"""A build as whoever explains it needs it: its plan in DuckDB, its spec, its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import msgspec

from mixc.emit.lock import Lock
from mixc.errors import BuildError, SpecError
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from mixc.plan.database import first_line, literal
from mixc.plan.tables import PlanSummary
from mixc.spec.schema import Spec
from shards.cache_folder import cache_folder
from shards.digest import digest_file
from shards.manifest import Manifest, StageEntry

KEPT_OUT = "plan/kept_out.parquet"
"""A build of an earlier version has none."""


def stage_number(manifest: Manifest, name: str, where: Path) -> int:
    """Raises BuildError when the build has no stage of this name."""
    names = [stage.name for stage in manifest.stages]
    if name not in names:
        raise BuildError(f"no stage is called {name!r}", where=str(where), mend=f"its stages: {', '.join(names)}")
    return names.index(name)


def require_step(stage: StageEntry, step: int, where: Path) -> None:
    if step >= stage.steps:
        raise BuildError(f"stage {stage.name} has steps 0 to {stage.steps - 1}, not {step}", where=str(where))


def require_pack(stage: StageEntry, pack: int, where: Path) -> None:
    if pack >= stage.packs:
        raise BuildError(f"stage {stage.name} has packs 0 to {stage.packs - 1}, not {pack}", where=str(where))


def locked_spec(lock: Lock, where: Path) -> Spec:
    """The spec that a build was made from. Raises BuildError when this mixc does not know its language."""
    try:
        return msgspec.convert(lock.spec, Spec)
    except msgspec.ValidationError as error:
        raise BuildError(
            "the spec in the lock is of another version of mixc", where=str(where), why=str(error)
        ) from error


def read_summary(build: Path) -> PlanSummary:
    path = build / "plan/summary.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=PlanSummary)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BuildError("the plan's summary cannot be read", where=str(path), why=str(error)) from error


def build_tokenizer(manifest: Manifest, lock: Lock, where: Path) -> Tokenizer:
    """The tokenizer that a build was made with: from the cache, where it lies under its digest, or as its spec names it.
    Raises BuildError when it is not to be had, SpecError as `load_tokenizer`."""
    cached = cache_folder() / "tokenizers" / manifest.tokenizer / "tokenizer.json"
    if cached.is_file() and digest_file(cached) == manifest.tokenizer:
        return Tokenizer(cached, manifest.tokenizer, fast=False)
    name = lock.spec["tokenizer"]
    mend = "put the cache there that it was compiled with, or run from the folder of its spec"
    try:
        tokenizer = load_tokenizer(name, base=Path.cwd(), cache=cache_folder())
    except SpecError as error:
        raise BuildError(f"the tokenizer {name!r} is not here", where=str(where), why=error.what, mend=mend) from error
    if tokenizer.digest != manifest.tokenizer:
        raise BuildError(
            f"the tokenizer {name!r} is not the one that the build was made with",
            where=str(where),
            why=f"{tokenizer.digest[:16]}, the build has {manifest.tokenizer[:16]}",
            mend=mend,
        )
    return tokenizer


@contextmanager
def open_plan(build: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The plan's tables as views `placements`, `packs`, `drops`, `fragments`, `rejects`, and `kept_out` where there is one. Raises BuildError when one is missing or
    damaged, whenever that shows."""
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        for name, file in (
            ("placements", "plan/placements.parquet"),
            ("packs", "plan/packs.parquet"),
            ("drops", "plan/drops.parquet"),
            ("fragments", "plan/fragments.parquet"),
            ("rejects", "rejects.parquet"),
            ("kept_out", KEPT_OUT),
        ):
            if file == KEPT_OUT and not (build / file).exists():
                continue
            connection.execute(f"CREATE VIEW {name} AS FROM read_parquet({literal(str(build / file))})")
        yield connection
    except duckdb.Error as error:
        raise BuildError(
            "the plan of this build cannot be read",
            where=str(build),
            why=first_line(error),
            mend="`mixc verify` says what is wrong with it",
        ) from error
    finally:
        connection.close()
