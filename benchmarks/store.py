"""A build of text in an object store: how busy the loader keeps it, and what the local cache is worth.

    python benchmarks/store.py FOLDER [--latency 30] [--bandwidth 80] [--megabytes 200]

The store is a server on loopback that answers ranged reads as S3 does from within its region: `--latency` milliseconds to the
first byte, `--bandwidth` MB/s a connection after it, any number of connections at once. FOLDER keeps corpus.py's English
documents, of whose tokens the build is made, over and over until it has `--megabytes`.

Four times through the build in packs of 8,192 tokens, as a loader process reads them: here, from the store without reading ahead,
from the store, and from the cache that this filled. Seconds of the clock; the server and the loader share the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from corpus import english_tokens
from loader import BATCH, LARGE, STAGE, write_build, write_shards

from runtime.loader import Division, Play, play
from shards import blocks
from shards.store import Place, StoreUrl

LENGTH = 8192
CHUNK = 1 << 16


class Store(BaseHTTPRequestHandler):
    """Ranged reads of the files below a folder, slowed down."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: object, folder: Path, latency: float, bandwidth: float) -> None:
        self.folder, self.latency, self.bandwidth = folder, latency, bandwidth
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        time.sleep(self.latency)
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}-{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if not body:
            return
        begun = time.monotonic()
        with path.open("rb") as file:
            for at in range(start, end, CHUNK):
                file.seek(at)
                self.wfile.write(file.read(min(CHUNK, end - at)))
                behind = (at - start + CHUNK) / self.bandwidth - (time.monotonic() - begun)
                if behind > 0:
                    time.sleep(behind)

    def log_message(self, *_: object) -> None:
        pass


def serve(folder: Path, latency: float, bandwidth: float) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Store, folder=folder, latency=latency, bandwidth=bandwidth))
    print(server.server_port, flush=True)
    server.serve_forever()


def through(build: Place, steps: int, batch: int) -> tuple[float, float]:
    """Seconds until the first micro-batch, and for all."""
    data = Play(build, STAGE, Division(batch=batch, world=1, micro_batch=1), 0)
    start = time.perf_counter()
    micros = play(data, range(steps), workers=0, device=torch.device("cpu"))
    next(micros)
    first = time.perf_counter() - start
    for _ in micros:
        pass  # one at a time, as training takes them
    return first, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps the packages and their tokens; a place for builds meanwhile")
    parser.add_argument("--latency", type=float, default=30, help="milliseconds")
    parser.add_argument("--bandwidth", type=float, default=80, help="MB/s a connection")
    parser.add_argument("--megabytes", type=int, default=200, help="of the build")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.latency / 1e3, options.bandwidth * 1e6)
        return
    ids, starts = english_tokens(options.folder.absolute())
    copies = -(-options.megabytes * 1_000_000 // len(ids))
    ids, starts = np.tile(ids, copies), np.concatenate([starts + n * len(ids) for n in range(copies)])
    work = Path(tempfile.mkdtemp(dir=options.folder))
    server = subprocess.Popen(
        [
            *(sys.executable, __file__, str(options.folder), "--serve", str(work)),
            *("--latency", str(options.latency), "--bandwidth", str(options.bandwidth)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        build = work / "build"
        write_build(build, write_shards(build, ids, starts, LENGTH, LARGE), LENGTH)
        packs = len(ids) // LENGTH
        batch = int(np.gcd(packs, BATCH))
        size = sum(path.stat().st_size for path in build.rglob("*.zst")) / 1e6
        assert server.stdout is not None
        url = StoreUrl(f"http://127.0.0.1:{int(server.stdout.readline())}/build")
        print(f"{packs:,} packs, {size:.0f} MB; {options.latency:g} ms, {options.bandwidth:g} MB/s a connection")

        def tell(what: str, place: Place) -> None:
            first, whole = through(place, packs // batch, batch)
            rate = packs * LENGTH / whole / 1e6
            print(f"{what}: first batch {first:.2f} s, {rate:.1f} Mtok/s, {size / whole:.0f} MB/s", flush=True)

        tell("here", build)
        os.environ["MIXC_CACHE"] = str(work / "cold")
        ahead, blocks.AHEAD = blocks.AHEAD, 0
        tell("store, without reading ahead", url)
        blocks.AHEAD = ahead
        os.environ["MIXC_CACHE"] = str(work / "cache")
        tell("store", url)
        tell("store, blocks in the cache", url)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
