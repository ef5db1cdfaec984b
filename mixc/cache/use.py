"""How a compile uses a cache: it says what it needs before it looks for it, and what it needed is the last to go.

"Last used" is the mtime of a thing's info file: atime is off on many disks, and is moved by backups.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixc.cache.inventory import INFO
from mixc.cache.leases import Holder, holding
from mixc.cache.prune import prune
from mixc.cache.sizes import parse_size, show_size
from mixc.errors import MixcError

LIMIT = "MIXC_CACHE_LIMIT"
FRESH_NS = 60 * 10**9
"""1 min in ns: what was touched within it is not touched again, which saves writes to a network disk."""


def cache_limit() -> int | None:
    """`MIXC_CACHE_LIMIT` in bytes; None for no limit. Raises MixcError."""
    text = os.environ.get(LIMIT, "")
    return parse_size(text, LIMIT) if text.strip() else None


class Use:
    """What a compile uses of a cache. `cache` is its folder."""

    def __init__(self, cache: Path, holder: Holder) -> None:
        self.cache, self._holder = cache, holder
        self.warnings: list[str] = []
        """What is to be said at the end: that the cache could not be kept under its limit."""

    def objects(self, digests: Iterable[str]) -> None:
        """From now on nobody removes these objects or signals of theirs, be they there or still to be made. To be called
        before they are looked for. Raises BuildError when the disk is full."""
        self._holder.lease.objects = sorted(set(digests))
        self._holder.write()

    def settle(self, *, signals: Iterable[str], tokenizer: str) -> None:
        """All that is needed is there. Of signals and tokenizers others may remove any but these."""
        lease = self._holder.lease
        lease.signals, lease.tokenizers = sorted(set(signals)), [tokenizer]
        self._holder.write()
        for digest in lease.objects:
            touch(self.cache / "objects" / digest[:2] / digest / INFO["object"])
        for digest in lease.signals:
            touch(self.cache / "signals" / digest[:2] / digest / INFO["signal"])
        touch(self.cache / "tokenizers" / tokenizer / INFO["tokenizer"])


@contextmanager
def using(cache: Path) -> Iterator[Use]:
    """A use of the cache that lasts as long as the block. At its end, if it ends well and `MIXC_CACHE_LIMIT` is set, the
    cache is brought under it by removing what was used least recently, and nothing that the block used.

    Raises MixcError at once when the limit is no size.
    """
    limit = cache_limit()
    with holding(cache) as holder:
        use = Use(cache, holder)
        yield use
        if limit is not None:
            use.warnings += _keep_under(cache, limit)


def _keep_under(cache: Path, limit: int) -> list[str]:
    """What is done is done: that there is no room is no error."""
    try:
        pruned = prune(cache, to=limit)
    except (MixcError, OSError) as error:
        return [f"the cache was not brought under {LIMIT}: {error}"]
    if pruned.enough:
        return []
    why = f"{show_size(pruned.in_use)} are in use" if pruned.in_use else "; ".join(pruned.failed + pruned.not_ours)
    return [f"the cache has {show_size(pruned.left)}, more than {LIMIT} ({show_size(limit)}): {why}"]


def touch(path: Path) -> None:
    """Mark as used now. Does nothing where that cannot be done: a cache may be read-only, or lose a thing meanwhile."""
    with suppress(OSError):
        if time.time_ns() - path.stat().st_mtime_ns > FRESH_NS:
            os.utime(path)
