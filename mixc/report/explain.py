"""From a step or a pack to its documents and the rules that chose them, and from a sample or a file to every place where it
was used, or the rule that kept it out. Read from the plan's tables alone: placements, drops, fragments, rejects."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import msgspec

from mixc.emit.lock import read_lock
from mixc.errors import BuildError
from mixc.plan.database import literal
from mixc.plan.drops import STAGE_RULES
from mixc.plan.judge import BUDGET
from mixc.report.measured import known_values
from mixc.report.opened import KEPT_OUT, locked_spec, open_plan, read_summary, require_pack, require_step, stage_number
from mixc.report.reasons import Loser, Reason, Reasons, Values, columns_of
from mixc.signals.locked import locked_signals
from mixc.sources.formats.imagefolder import is_image
from shards.manifest import Manifest, read_manifest

MOST_MATCHES = 12
"""Files or ids that an error names, when it could be any of them."""


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
    tiles: int
    weight: float
    """Of each supervised token in the loss."""
    why: list[Reason]


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    rule: str
    detail: str
    source: str
    path: str
    row: int
    tokens: int
    why: list[Reason]


class NotIn(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that does not use a sample, and what keeps it out."""

    stage: str
    rule: str
    """`not_mixed`, `stage_where`, `quantile`, `too_long`, `budget` or `consumed`; of a build of an earlier version, whose plan does not tell
    the last four apart, those that are possible, as `stage_where or budget`."""
    text: str


class SampleStory(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    uses: list[Use]
    drops: list[Drop]
    not_in: list[NotIn]
    """The stages that do not use it, in order, each for itself. None for a sample that a rule before the stages' dropped: that one
    holds for all of them."""


class StageUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage uses of a file."""

    stage: str
    samples: int
    placements: int
    """Each epoch and each piece counts."""
    epochs: int
    """Of the sample that is used most often."""
    tokens: int
    first_step: int
    last_step: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a file, and what became of it."""

    row: int
    source: str
    id: str | None
    """None of an unusable row, which is no sample."""
    uses: int
    """Placements."""
    stages: list[str]
    rule: str | None
    """What dropped it; `reject` for an unusable row."""
    detail: str


class FileStory(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    sources: list[str]
    fragments: int
    """Pieces in which it was measured."""
    digests: list[str]
    samples: int
    used: int
    """Samples that stand in some stage."""
    placements: int
    stages: list[StageUse]
    drops: dict[str, int]
    """By rule."""
    rejects: dict[str, int]
    """By reason."""
    rows: list[Row]
    """The first of them, as many as were asked for."""


def explain_step(build: Path, stage: str, step: int) -> list[Use]:
    """What one step trained on, in order. Raises BuildError when the build has no such stage or step."""
    with _told(build) as told:
        number = stage_number(told.manifest, stage, build)
        require_step(told.manifest.stages[number], step, build)
        return told.uses(f"stage = {number} AND step = {int(step)}")


def explain_pack(build: Path, stage: str, pack: int) -> list[Use]:
    """What one pack holds, in order; nothing for an empty one. Raises BuildError when the build has no such stage or pack."""
    with _told(build) as told:
        number = stage_number(told.manifest, stage, build)
        require_pack(told.manifest.stages[number], pack, build)
        return told.uses(f"stage = {number} AND pack = {int(pack)}")


def explain_places(build: Path, places: Collection[tuple[int, int, int]]) -> list[Use]:
    """What stands at places (stage, pack, place), numbers all, in order."""
    with _told(build) as told:
        return told.uses_at(places)


def explain_sample(build: Path, sample: str) -> SampleStory:
    """Every use of a sample, or the rules that kept it out. `sample` is its id, or the first digits of it. Raises BuildError for
    an id that the build has not seen, or that several samples begin with."""
    with _told(build) as told:
        return told.story(told.whole_id(sample))


def explain_file(build: Path, path: str, *, limit: int | None) -> FileStory:
    """What became of every sample of a file, counts of all and the first `limit` rows (None: all). `path` is the file's path, or
    the end of it. Raises BuildError when no file of the build has this path, or several have."""
    with _told(build) as told:
        return told.file(told.whole_path(path), limit)


def explain_row(build: Path, path: str, row: int) -> SampleStory | Row:
    """What became of one row of a file: a sample's story, or a Row for one that is unusable. Raises BuildError as `explain_file`,
    and when the file has no such row."""
    with _told(build) as told:
        whole = told.whole_path(path)
        rows = told.rows(whole, 1, f'AND "row" = {int(row)}')
        if not rows:
            raise BuildError(f"row {row} of this file is neither a sample nor unusable", where=whole)
        return rows[0] if rows[0].id is None else told.story(rows[0].id)


@contextmanager
def _told(build: Path) -> Iterator[_Told]:
    manifest = read_manifest(build)
    with open_plan(build) as db:
        yield _Told(build, manifest, db)


class _Told:
    """A build's plan and rules."""

    def __init__(self, build: Path, manifest: Manifest, db: duckdb.DuckDBPyConnection) -> None:
        self._build, self.manifest, self._db = build, manifest, db
        lock = read_lock(build / "mixture.lock")
        self._spec = locked_spec(lock, build)
        self._signals = locked_signals(self._spec, lock.signals)
        self._reasons = Reasons(self._spec, read_summary(build))
        self._stages = [stage.name for stage in self.manifest.stages]

    def uses(self, condition: str) -> list[Use]:
        """Placements by a condition of theirs, in order. Of a condition on stage, step or pack DuckDB reads only the row groups
        that can have some."""
        rows = self._rows(
            f"""
            SELECT stage, step, pack, place, replace(id::VARCHAR, '-', '') AS id, p.source, path, "row", epoch, piece, tokens,
                   supervised_tokens, images, tiles, weight, piece_start, piece_end, object
            FROM (FROM placements WHERE {condition}) p JOIN fragments f USING (fragment)
            ORDER BY stage, pack, place
            """
        )
        losers = self._losers({row["id"] for row in rows})
        values = self._values(rows)
        found = []
        for row in rows:
            span = (row["piece"], row.pop("piece_start"), row.pop("piece_end"))
            known = values.get((row.pop("object"), row["row"]), {})
            why = self._reasons.of_use(
                **{name: row[name] for name in ("stage", "source", "id", "epoch")},
                piece=span,
                values=known,
                losers=losers.get(row["id"], []),
            )
            found.append(Use(**{**row, "stage": self._stages[row["stage"]]}, why=why))
        return found

    def uses_at(self, places: Collection[tuple[int, int, int]]) -> list[Use]:
        if not places:
            return []
        listed = ", ".join(f"({a}, {b}, {c})" for a, b, c in sorted(places))
        return self.uses(f"(stage, pack, place) IN ({listed})")

    def story(self, id: str) -> SampleStory:
        uses = self.uses(f"id = {literal(id)}::UUID")
        rows = self._rows(
            "SELECT rule, coalesce(detail, '') AS detail, d.source, path, \"row\", tokens, object"
            f" FROM (FROM drops WHERE id = {literal(id)}::UUID) d JOIN fragments USING (fragment) ORDER BY ALL"
        )
        values = self._values(rows)
        losers = self._losers({id}) if rows else {}
        drops = []
        for row in rows:
            known = values.get((row.pop("object"), row["row"]), {})
            why = self._reasons.of_drop(
                **{name: row[name] for name in ("rule", "detail", "source")},
                id=id,
                values=known,
                losers=losers.get(id, []),
            )
            drops.append(Drop(**row, why=why))
        return SampleStory(id=id, uses=uses, drops=drops, not_in=self._not_in(id))

    def _not_in(self, id: str) -> list[NotIn]:
        """Stages without the sample. What the plan's kept_out does not name is what the drops say, else the budget."""
        rows = self._rows(
            f"""
            SELECT p.source, fragment, "row", NULL AS rule, stage, max(piece_end) AS tokens, max(tiles) AS tiles,
                   count(DISTINCT epoch) AS visits, any_value(object) AS object
            FROM (FROM placements WHERE id = {literal(id)}::UUID) p JOIN fragments USING (fragment) GROUP BY ALL
            UNION ALL
            SELECT d.source, fragment, "row", rule, NULL, tokens, NULL, 0, object
            FROM (FROM drops WHERE id = {literal(id)}::UUID) d JOIN fragments USING (fragment)
            ORDER BY stage
            """
        )
        if not rows or rows[0]["rule"] not in (None, "consumed", *STAGE_RULES.values()):
            return []
        sample = rows[0]
        source, drop = sample["source"], sample["rule"]
        otherwise = drop if drop in STAGE_RULES.values() else STAGE_RULES[BUDGET]
        visits = {row["stage"]: row["visits"] for row in rows if row["stage"] is not None}
        kept_out = self._kept_out(sample["fragment"], sample["row"])
        known = self._values(rows[:1]).get((sample["object"], sample["row"]), {})
        tokens, tiles = max(row["tokens"] for row in rows), sample["tiles"]
        found = []
        for number, stage in enumerate(self._stages):
            if number in visits:
                continue
            if kept_out is None:
                rule = self._reasons.possible(number, source, tokens=tokens, tiles=tiles)
            else:
                rule = kept_out.get(number, otherwise)
            if not self._reasons.mixes(number, source):
                rule = "not_mixed"
            elif drop == "consumed" and rule == STAGE_RULES[BUDGET] and not self._spec.stages[number].reuse:
                rule = drop
            text = self._reasons.of_absence(
                number,
                rule=rule,
                source=source,
                id=id,
                values=known,
                tokens=tokens,
                tiles=tiles,
                before=sum(count for earlier, count in visits.items() if earlier < number),
            )
            found.append(NotIn(stage=stage, rule=rule, text=text))
        return found

    def _kept_out(self, fragment: int, row: int) -> dict[int, str] | None:
        """By stage, the rule that the plan says of a sample; None of a plan of an earlier version, which says none."""
        if not (self._build / KEPT_OUT).exists():
            return None
        kept = self._rows(f'SELECT stage, rule FROM kept_out WHERE fragment = {int(fragment)} AND "row" = {int(row)}')
        return {each["stage"]: each["rule"] for each in kept}

    def whole_id(self, sample: str) -> str:
        """The id that begins with `sample`."""
        digits = sample.replace("-", "").lower()
        if not 0 < len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
            raise BuildError(
                f"{sample!r} is not a sample's id",
                mend="an id is 32 hexadecimal digits; the first few do, if they are enough",
            )
        low, high = (literal(digits.ljust(32, fill)) for fill in "0f")
        found = [
            row["id"]
            for row in self._rows(
                f"""
                SELECT DISTINCT replace(id::VARCHAR, '-', '') AS id
                FROM (SELECT id FROM placements UNION ALL SELECT id FROM drops)
                WHERE id BETWEEN {low}::UUID AND {high}::UUID ORDER BY id LIMIT {MOST_MATCHES + 1}
                """
            )
        ]
        if not found:
            raise BuildError(f"this build has seen no sample {sample}", where=str(self._build))
        if len(found) > 1:
            raise BuildError(
                f"several samples begin with {sample}",
                where=str(self._build),
                why=_some(found),
                mend="give more digits",
            )
        return str(found[0])

    def whole_path(self, path: str) -> str:
        """The path of the build's file that is `path`, or ends with it; as it was, or as the lock has it, from the spec."""
        known = [row["path"] for row in self._rows("SELECT DISTINCT path FROM fragments ORDER BY path")]
        plain = path.removeprefix("./")
        for candidate in (path, plain, str(Path(path).absolute())):
            if candidate in known:
                return candidate
        ending = PurePosixPath(plain).parts
        found = [each for each in known if PurePosixPath(each).parts[-len(ending) :] == ending] if ending else []
        if len(found) == 1:
            return str(found[0])
        if found:
            raise BuildError(
                f"several files end with {path}", where=str(self._build), why=_some(found), mend="give more of the path"
            )
        near = difflib.get_close_matches(PurePosixPath(plain).name, [PurePosixPath(each).name for each in known], 1)
        mend = f"did you mean {near[0]}?" if near else "`mixc sql` or plan/fragments.parquet lists the files"
        if is_image(Path(path).name) and Path(path).is_file():
            mend = f"--image {path} finds an image that rows of a file name, by its bytes"
        raise BuildError(f"no file of this build is called {path}", where=str(self._build), mend=mend)

    def file(self, path: str, limit: int | None) -> FileStory:
        fragments = self._rows(
            f"SELECT fragment, source, digest, samples FROM fragments WHERE path = {literal(path)} ORDER BY fragment"
        )
        numbers = ", ".join(str(row["fragment"]) for row in fragments)
        stages = self._rows(
            f"""
            SELECT stage, count(*) AS samples, sum(n)::BIGINT AS placements, max(epochs) AS epochs,
                   sum(tokens)::BIGINT AS tokens, min(first) AS first_step, max(last) AS last_step
            FROM (SELECT stage, id, count(*) AS n, count(DISTINCT epoch) AS epochs, sum(tokens) AS tokens, min(step) AS first,
                         max(step) AS last
                  FROM placements WHERE fragment IN ({numbers}) GROUP BY stage, id)
            GROUP BY stage ORDER BY stage
            """
        )
        drops = self._rows(
            f"SELECT rule, count(*) AS n FROM drops WHERE fragment IN ({numbers}) GROUP BY rule ORDER BY rule"
        )
        rejects = self._rows(
            f"SELECT reason, count(*) AS n FROM rejects WHERE path = {literal(path)} GROUP BY reason ORDER BY reason"
        )
        samples, dropped = sum(row["samples"] for row in fragments), {row["rule"]: row["n"] for row in drops}
        return FileStory(
            path=path,
            sources=sorted({row["source"] for row in fragments}),
            fragments=len(fragments),
            digests=sorted({row["digest"] for row in fragments}),
            samples=samples,
            used=samples - sum(dropped.values()),
            placements=sum(row["placements"] for row in stages),
            stages=[StageUse(**{**row, "stage": self._stages[row["stage"]]}) for row in stages],
            drops=dropped,
            rejects={row["reason"]: row["n"] for row in rejects},
            rows=self.rows(path, limit),
        )

    def rows(self, path: str, limit: int | None, condition: str = "") -> list[Row]:
        """The first rows of a file, by row; samples by source, where several read it."""
        own = f"fragment IN (SELECT fragment FROM fragments WHERE path = {literal(path)})"
        rows = self._rows(
            f"""
            FROM (
                SELECT "row", source, replace(id::VARCHAR, '-', '') AS id, count(*) AS uses,
                       list(DISTINCT stage ORDER BY stage) AS stages, NULL AS rule, '' AS detail
                FROM placements WHERE {own} {condition} GROUP BY ALL
                UNION ALL
                SELECT "row", source, replace(id::VARCHAR, '-', ''), 0, [], rule, coalesce(detail, '')
                FROM drops WHERE {own} {condition}
                UNION ALL
                SELECT "row", source, NULL, 0, [], 'reject', reason || coalesce(': ' || nullif(detail, ''), '')
                FROM rejects WHERE path = {literal(path)} {condition}
            ) ORDER BY "row", source, id {"" if limit is None else f"LIMIT {int(limit)}"}
            """
        )
        return [Row(**{**row, "stages": [self._stages[stage] for stage in row["stages"]]}) for row in rows]

    def _losers(self, ids: Collection[str]) -> dict[str, list[Loser]]:
        """By id of a winner, the duplicates that it stands for."""
        if not ids or not (self._spec.dedup.exact or self._spec.dedup.minhash or self._spec.dedup.image):
            return {}
        self._db.execute("CREATE OR REPLACE TEMP TABLE winners(id VARCHAR)")
        self._db.execute("INSERT INTO winners SELECT unnest(?)", [sorted(ids)])
        rows = self._rows(
            """
            SELECT winner, rule, source, id FROM (
                SELECT replace(split_part(detail, ' ', 2), '-', '') AS winner, rule, source, replace(id::VARCHAR, '-', '') AS id
                FROM drops WHERE rule IN ('dedup_exact', 'dedup_minhash', 'dedup_image'))
            WHERE winner IN (SELECT id FROM winners) ORDER BY ALL
            """
        )
        found: dict[str, list[Loser]] = defaultdict(list)
        for row in rows:
            found[row["winner"]].append(Loser(rule=row["rule"], source=row["source"], id=row["id"]))
        return found

    def _values(self, rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], Values]:
        """By object and row, what the cache knows of samples."""
        wanted: dict[tuple[str, str], set[int]] = defaultdict(set)
        for row in rows:
            wanted[row["source"], row["object"]].add(row["row"])
        found: dict[tuple[str, int], Values] = {}
        for (source, object), own in sorted(wanted.items()):
            for number, values in known_values(object, own, columns_of(self._spec, source), self._signals).items():
                found[object, number] = values
        return found

    def _rows(self, query: str) -> list[dict[str, Any]]:
        cursor = self._db.execute(query)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = ", ..." if len(listed) > MOST_MATCHES else ""
    return ", ".join(listed[:MOST_MATCHES]) + more
