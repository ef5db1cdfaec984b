"""The rows of a build's sources that are unusable: how many, and a few by name."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from mixc.emit.lock import Lock
from mixc.rejects import EXAMPLES, Rejected, Told, rejected
from mixc.sources.sample import Reject


class LeftOut(NamedTuple):
    rows: int
    told: Told


def left_out(plan: duckdb.DuckDBPyConnection, lock: Lock) -> LeftOut:
    """Of a build whose plan is open (opened.py). Its files are named as the lock has them."""
    columns = [column for column, *_ in plan.execute("DESCRIBE rejects").fetchall()]
    place = "place" if "place" in columns else "''"  # a build of an earlier version has none
    rows = plan.execute(
        f"""
        SELECT source, path, "row", reason, coalesce(detail, ''), {place} FROM rejects
        QUALIFY row_number() OVER (PARTITION BY source, reason ORDER BY path, "row") <= {EXAMPLES}
        ORDER BY source, path, "row"
        """
    ).fetchall()
    total = plan.execute("SELECT count(*) FROM rejects").fetchone()
    assert total is not None
    shown = _shown(plan, lock)
    examples: list[Rejected] = [
        rejected(source, shown.get((source, path), path), Reject(row=row, reason=reason, detail=detail, place=place))
        for source, path, row, reason, detail, place in rows
    ]
    return LeftOut(int(total[0]), Told(examples=examples, more=int(total[0]) - len(examples)))


def _shown(plan: duckdb.DuckDBPyConnection, lock: Lock) -> dict[tuple[str, str], str]:
    """By source and path where a file lay, its path in the lock, which lists fragments in the order of their numbers."""
    listed = [(source, each.path) for source, own in sorted(lock.sources.items()) for each in own]
    known = plan.execute("SELECT source, path FROM fragments ORDER BY fragment").fetchall()
    if len(listed) != len(known):  # the sources of a lock that was taken from elsewhere
        return {}
    return {(source, path): short for (source, path), (_, short) in zip(known, listed, strict=True)}
