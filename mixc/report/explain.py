"""From a training step to its documents, and from a sample to every place where it stands or the rule that kept it out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import duckdb
import msgspec

from mixc.errors import BuildError
from shards.manifest import read_manifest


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One sample, or piece of one, in one pack."""

    stage: str
    step: int
    pack: int
    place: int
    id: str
    source: str
    path: str
    """The file that it was read from, when the build was made."""
    row: int
    epoch: int
    piece: int
    tokens: int
    supervised_tokens: int
    images: int


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    rule: str
    detail: str
    source: str
    path: str
    row: int


class SampleStory(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    uses: list[Use]
    drops: list[Drop]


def explain_step(build: Path, stage: str, step: int) -> list[Use]:
    """What one step trained on, in order. Raises BuildError when the build has no such stage or step."""
    entry = next((s for s in read_manifest(build).stages if s.name == stage), None)
    if entry is None:
        known = ", ".join(s.name for s in read_manifest(build).stages)
        raise BuildError(f"no stage is called {stage!r}", where=str(build), mend=f"its stages: {known}")
    if step >= entry.steps:
        raise BuildError(f"stage {stage} has steps 0 to {entry.steps - 1}, not {step}", where=str(build))
    return _uses(build, "s.name = ? AND step = ?", [stage, step])


def explain_sample(build: Path, sample: str) -> SampleStory:
    """Every use of a sample, or the rules that kept it out. Raises BuildError for an id that the build has not seen."""
    try:
        id = str(UUID(sample))
    except ValueError as error:
        raise BuildError(f"{sample!r} is not a sample's id", mend="an id is 32 hexadecimal digits") from error
    uses = _uses(build, "p.id = ?::UUID", [id])
    with duckdb.connect() as db:
        rows = db.execute(
            'SELECT rule, detail, d.source, path, "row" FROM read_parquet(?) d JOIN read_parquet(?) f USING (fragment) '
            "WHERE id = ?::UUID ORDER BY ALL",
            [str(build / "plan/drops.parquet"), str(build / "plan/fragments.parquet"), id],
        ).fetchall()
    drops = [Drop(rule=r, detail=d or "", source=s, path=p, row=n) for r, d, s, p, n in rows]
    if not uses and not drops:
        raise BuildError(f"this build has seen no sample {sample}", where=str(build))
    return SampleStory(id=id.replace("-", ""), uses=uses, drops=drops)


def _uses(build: Path, condition: str, parameters: list[str | int]) -> list[Use]:
    stages = [(index, stage.name) for index, stage in enumerate(read_manifest(build).stages)]
    with duckdb.connect() as db:
        db.execute("CREATE TABLE s(stage USMALLINT, name VARCHAR)")
        db.executemany("INSERT INTO s VALUES (?, ?)", stages)
        rows = db.execute(
            "SELECT s.name, step, pack, place, replace(p.id::VARCHAR, '-', ''), p.source, path, \"row\", epoch, piece, "
            "tokens, supervised_tokens, images "
            "FROM read_parquet(?) p JOIN s USING (stage) JOIN read_parquet(?) f USING (fragment) "
            f"WHERE {condition} ORDER BY stage, pack, place",
            [str(build / "plan/placements.parquet"), str(build / "plan/fragments.parquet"), *parameters],
        ).fetchall()
    names = Use.__struct_fields__
    return [msgspec.convert(dict(zip(names, row, strict=True)), Use) for row in rows]


def step_lines(uses: list[Use]) -> Iterator[str]:
    """As text, a line a document."""
    pack = -1
    for use in uses:
        if use.pack != pack:
            pack = use.pack
            yield f"pack {pack}"
        piece = f" piece {use.piece}" if use.piece else ""
        yield (
            f"  {use.id}  {use.source:16} {use.tokens:>7,} tokens {use.images} images  epoch {use.epoch}{piece}  "
            f"{use.path}:{use.row}"
        )


def sample_lines(story: SampleStory) -> Iterator[str]:
    """As text: its uses, then the rules that kept it out."""
    yield f"sample {story.id}"
    for use in story.uses:
        yield (
            f"  stage {use.stage}, step {use.step}, pack {use.pack}, place {use.place}, epoch {use.epoch}: "
            f"{use.source}, {use.path} row {use.row}"
        )
    for drop in story.drops:
        detail = f" ({drop.detail})" if drop.detail else ""
        yield f"  not used: {drop.rule}{detail}: {drop.source}, {drop.path} row {drop.row}"
