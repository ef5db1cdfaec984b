"""Things in a cache, as mixc writes them, with little in them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from mixc.cache.inventory import INFO
from mixc.measure.facts import OBJECT_VERSION, ObjectInfo
from mixc.signals.store import STORE_VERSION, SignalInfo

Put = Callable[..., Path]


def digest_of(name: str) -> str:
    return blake3(name.encode()).hexdigest()


def put_object(cache: Path, name: str, *, size: int = 1000, days: float = 0, source: str = "s") -> Path:
    """An object with `size` bytes of samples, last used that many days ago."""
    digest = digest_of(name)
    folder = cache / "objects" / digest[:2] / digest
    folder.mkdir(parents=True)
    sizes = {"samples.bin": size, "media.bin": 0, "facts.parquet": 10, "rejects.parquet": 10, "media.parquet": 10}
    for file, length in sizes.items():
        (folder / file).write_bytes(bytes(length))
    info = ObjectInfo(
        version=OBJECT_VERSION,
        digest=digest,
        source=source,
        fragment=digest_of(f"fragment {name}"),
        samples=5,
        rejects=1,
        tokens=50,
        columns={},
        fast_tokenizer=True,
        files=sizes,
    )
    (folder / INFO["object"]).write_bytes(msgspec.json.encode(info))
    return used(folder, INFO["object"], days)


def put_signal(cache: Path, name: str, *, of: str, size: int = 100, days: float = 0) -> Path:
    digest = digest_of(f"{name} of {of}")
    folder = cache / "signals" / digest[:2] / digest
    folder.mkdir(parents=True)
    (folder / "values.parquet").write_bytes(bytes(size))
    info = SignalInfo(
        store=STORE_VERSION,
        digest=digest,
        object=digest_of(of),
        signal=name,
        version="1",
        benchmark=None,
        samples=5,
        bytes=size,
    )
    (folder / INFO["signal"]).write_bytes(msgspec.json.encode(info))
    return used(folder, INFO["signal"], days)


def put_tokenizer(cache: Path, name: str, *, size: int = 500, days: float = 0) -> Path:
    folder = cache / "tokenizers" / digest_of(name)
    parity = folder / f"parity-{digest_of(name)[:32]}"
    parity.mkdir(parents=True)
    (parity / "parity.json").write_bytes(b"{}")
    (folder / INFO["tokenizer"]).write_bytes(bytes(size))
    return used(folder, INFO["tokenizer"], days)


def put_scan(cache: Path, name: str, *, size: int = 50, days: float = 0) -> Path:
    digest = digest_of(name)
    path = cache / "scan" / digest[:2] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return used(path, "", days)


def put_block(cache: Path, name: str, *, size: int = 4000, days: float = 0) -> Path:
    digest = digest_of(name)
    path = cache / "blocks" / digest[:2] / f"{digest}.12"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return used(path, "", days)


def used(path: Path, info: str, days: float) -> Path:
    when = time.time() - days * 86_400
    os.utime(path / info if info else path, (when, when))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
