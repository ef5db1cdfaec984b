"""Where the sources of a build lay when it was made."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixc.emit.lock import Lock
from mixc.errors import BuildError


def sources_folder(build: Path, lock: Lock) -> Path | None:
    """The folder of the spec that the build was made from: what the plan's whole paths have before the lock's. None where
    every source was named by a whole path. Raises BuildError."""
    path = build / "plan/fragments.parquet"
    try:
        rows = pq.read_table(path, columns=["source", "digest", "path"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BuildError("the plan of the build cannot be read", where=str(path), why=str(error)) from error
    whole: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        whole.setdefault((row["source"], row["digest"]), []).append(row["path"])
    for name, fragments in sorted(lock.sources.items()):
        for fragment in fragments:
            for found in whole.get((name, fragment.digest), []):
                if found != fragment.path and found.endswith(f"/{fragment.path}"):
                    return Path(found.removesuffix(f"/{fragment.path}") or "/")
    return None
