"""Writers of small real files, for every format."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mixc.sources.fragment import Fragment
from mixc.sources.read import read
from mixc.sources.sample import Reject, Sample
from mixc.sources.scan import scan
from mixc.spec.schema import Source

Reader = Callable[..., list[Sample | Reject]]


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """A real PNG of 8x8 pixels in a grey of that level."""

    def encode(level: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (8, 8), level).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tar(tmp_path: Path) -> Callable[..., Path]:
    def write(members: Iterable[tuple[str, bytes]], name: str = "rows.tar", format: int = tarfile.PAX_FORMAT) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w", format=format) as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def fragments(tmp_path: Path) -> Callable[..., list[Fragment]]:
    """Scans with `tmp_path` as the spec's folder."""

    def run(path: str | list[str], kind: str = "text", **fields: Any) -> list[Fragment]:
        return scan("s", Source(path=path, kind=kind, **fields), tmp_path, tmp_path / ".cache")  # type: ignore[arg-type]

    return run


@pytest.fixture
def rows_of(fragments: Callable[..., list[Fragment]]) -> Reader:
    """Scans and reads everything, in the order of the fragments."""

    def run(path: str | list[str], kind: str = "text", **fields: Any) -> list[Sample | Reject]:
        source = Source(path=path, kind=kind, **fields)  # type: ignore[arg-type]
        return [row for fragment in fragments(path, kind, **fields) for row in read(fragment, source)]

    return run


@pytest.fixture
def outcome() -> Callable[[list[Sample | Reject]], list[str]]:
    """A row in a word: its reason, or the text of its answer."""

    def words(rows: list[Sample | Reject]) -> list[str]:
        return [row.reason if isinstance(row, Reject) else row.text or row.turns[-1].text for row in rows]

    return words
