"""How long it takes to look at a large cache, to take a lease on it and to prune it.

    python benchmarks/cache.py [--objects N] [--folder FOLDER]

N objects with the files that a compile leaves, empty but for object.json, so that it is the number of things that counts.
They are made first; what is measured finds them in the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from blake3 import blake3

from mixc.cache import prune as module
from mixc.cache.leases import InUse
from mixc.cache.prune import prune
from mixc.cache.summary import summarise
from mixc.cache.use import using
from mixc.measure.facts import OBJECT_VERSION, ObjectInfo
from mixc.measure.object import _FILES, INFO, object_path, read_info


def main(count: int, folder: Path) -> None:
    cache = folder / "cache"
    digests = [blake3(b"%d" % index).hexdigest() for index in range(count)]
    for index, digest in enumerate(digests):
        _make(object_path(cache, digest), digest, f"source {index % 20}")
    (cache / "partial").mkdir()
    _timed(f"mixc cache ls, {count:,} objects", lambda: summarise(cache, None))

    def hold() -> None:
        with using(cache) as use:
            use.objects(digests)
            use.settle(signals=[], tokenizer=digests[0])

    _timed("a compile names them all and marks them as used just now", hold)
    _timed(
        "the same objects looked for one by one, as a compile does",
        lambda: [read_info(object_path(cache, d)) for d in digests],
    )
    _timed("mixc cache prune, nothing to do", lambda: prune(cache))
    with using(cache) as use:
        use.objects(digests)
        _timed("mixc cache prune --all, all in use", lambda: prune(cache, everything=True))
    left = summarise(cache, None).total.bytes
    held = _lock_times()
    _timed("mixc cache prune --to half", lambda: prune(cache, to=left // 2))
    print(f"in it the longest time during which a compile cannot begin: {max(held):.2f} s")
    _timed("mixc cache prune --all, the other half", lambda: prune(cache, everything=True))


def _lock_times() -> list[float]:
    """From now on, how long each hold of the cache's lock by a prune was, in seconds."""
    times: list[float] = []
    alone = module.alone

    @contextmanager
    def timed(cache: Path) -> Iterator[InUse]:
        with alone(cache) as using:
            start = time.perf_counter()
            yield using
            times.append(time.perf_counter() - start)

    module.alone = timed
    return times


def _make(folder: Path, digest: str, source: str) -> None:
    folder.mkdir(parents=True)
    for name in _FILES:
        (folder / name).touch()
    info = ObjectInfo(
        version=OBJECT_VERSION,
        digest=digest,
        source=source,
        fragment=digest,
        samples=1000,
        rejects=0,
        tokens=1_000_000,
        columns={"quality": "double", "language": "string"},
        fast_tokenizer=True,
        files=dict.fromkeys(_FILES, 0),
    )
    (folder / INFO).write_bytes(msgspec.json.format(msgspec.json.encode(info, order="sorted"), indent=1))


def _timed(what: str, run: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    print(f"{what}: {time.perf_counter() - wall:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="mixc-cache-", dir=arguments.folder))
    try:
        main(arguments.objects, place)
    finally:
        shutil.rmtree(place)
