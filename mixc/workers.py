"""How many processes a compile is worth, where its user does not say.

They come from a server that takes two seconds and a half to start, imports and tokenizer: one process does some 80 MB in that
time, and two catch up with one at some 400 MB (benchmarks/growth.py, benchmarks/compile.py).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mixc.errors import SourceError
from mixc.sources.files import is_url
from mixc.sources.paths import expand
from mixc.spec.schema import Source, Spec

BYTES_A_WORKER = 200_000_000
"""Of text without optional signals."""
WITH_SIGNALS = 10
"""Times the work of text alone; of all text signals together it is as much (benchmarks/signals.py)."""
WITH_IMAGES = 50
"""Times the bytes of rows, which may name pictures: a row of a few hundred bytes one of many thousand."""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def worth(spec: Spec, base: Path) -> int:
    """From 1 to `cores()`, by the sizes of the source files and what is done with their rows. What is at a URL counts as large;
    a file that is not there is left to be told by who reads it."""
    work = 0
    for name, source in spec.sources.items():
        if any(map(is_url, [source.path] if isinstance(source.path, str) else source.path)):
            return cores()
        with suppress(SourceError, OSError):
            work += sum(Path(path).stat().st_size for path in expand(name, source, base)) * _weight(source)
    if spec.signals or spec.decontaminate is not None:
        work *= WITH_SIGNALS
    return max(1, min(cores(), work // BYTES_A_WORKER))


def _weight(source: Source) -> int:
    return 1 if source.kind == "text" else WITH_IMAGES
