"""The demo's data are what specs/demo/README.md says: complete, well-formed, small, every origin known."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from blake3 import blake3
from PIL import Image

from mixc.spec.load import load

SPECS = Path(__file__).parent.parent / "specs"
DEMO = SPECS / "demo"
DATA = DEMO / "data"
LANGUAGES = {"de", "en", "es", "fr", "ja", "ru", "zh"}
LICENSES = {
    "public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-4.0", "Apache-2.0", "MPL-2.0", "PostgreSQL", "PSF-2.0",
}  # fmt: skip


def digest(data: bytes) -> str:
    return blake3(data).hexdigest()


@cache
def origins() -> list[dict[str, Any]]:
    lines = (DEMO / "ORIGINS.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def photographs() -> list[dict[str, Any]]:
    return pq.read_table(DATA / "captions/photographs.parquet").to_pylist()


@cache
def details() -> list[dict[str, Any]]:
    return pq.read_table(DATA / "captions/details.parquet").to_pylist()


@cache
def pages() -> dict[str, dict[str, bytes]]:
    """Tar and key -> extension -> content."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(DATA.glob("pages/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, extension = member.name.rsplit(".", 1)
                data = tar.extractfile(member)
                assert data is not None
                found.setdefault(f"pages/{path.name}/{key}", {})[extension] = data.read()
    return found


@cache
def prose() -> dict[str, list[dict[str, Any]]]:
    """File name -> rows."""
    found = {}
    for path in sorted(DATA.glob("prose/*.jsonl.zst")):
        text = zstandard.ZstdDecompressor().decompress(path.read_bytes()).decode()
        found[path.name] = [json.loads(line) for line in text.splitlines()]
    return found


@cache
def knowledge() -> list[dict[str, Any]]:
    return json.loads((DATA / "chat/knowledge.json").read_text(encoding="utf-8"))


@cache
def reasoning() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "chat/reasoning.jsonl").read_text(encoding="utf-8").splitlines()]


def page_image(page: dict[str, bytes]) -> bytes:
    return page["png"] if "png" in page else page["jpg"]


def test_size() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 11_000_000


def test_readme_counts_rows() -> None:
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    rows = {
        "data/captions/photographs.parquet": len(photographs()),
        "data/captions/details.parquet": len(details()),
        "data/pages/*.tar": len(pages()),
        "data/prose/*.jsonl.zst": sum(map(len, prose().values())),
        "data/chat/knowledge.json": len(knowledge()),
        "data/chat/reasoning.jsonl": len(reasoning()),
    }
    for path, count in rows.items():
        line = next(line for line in readme.splitlines() if line.startswith(f"| `{path}`"))
        assert line.endswith(f"| {count} |")


def test_captions() -> None:
    for image, text, row in [(r["image"]["bytes"], r["caption"], r) for r in photographs()] + [
        (r["jpg"], r["text"], r) for r in details()
    ]:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            assert opened.width <= 1024
            side = min(opened.size)
        assert row["language"] in LANGUAGES
        characters = len(text) * (3 if row["language"] in ("ja", "zh") else 1)
        assert characters > 30
        assert row["quality"] == pytest.approx(min(1, side / 384) / 2 + min(1, characters / 200) / 2, abs=0.0051)
    assert {row["of"] for row in details()} <= {Path(row["image"]["path"]).stem for row in photographs()}


def test_pages() -> None:
    assert {json.loads(page["json"])["language"] for page in pages().values()} == LANGUAGES
    for page in pages().values():
        assert set(page) in ({"png", "txt", "json"}, {"jpg", "txt", "json"})
        with Image.open(io.BytesIO(page_image(page))) as opened:
            opened.load()
            assert opened.size in ((848, 1200), (900, 1200))
            assert opened.convert("L").getextrema()[0] < 64, "there is ink on the page"
        about = json.loads(page["json"])
        text = page["txt"].decode()
        assert text.startswith(about["title"]) and len(text) > len(about["title"]) + 20
        assert about["quality"] == pytest.approx(1 - 0.07 * about["noise"] - 0.2 * abs(about["skew"]), abs=0.0051)


def test_prose() -> None:
    rows = [row for rows in prose().values() for row in rows]
    assert {row["language"] for row in rows} == LANGUAGES
    for row in rows:
        assert set(row) == {"title", "language", "license", "text"}
        assert row["text"].strip()
        assert row["license"] in LICENSES
    assert max(len(row["text"]) for row in rows) > 6 * 4096, "some are longer than a pack"


def test_duplicates_are_the_intended_ones() -> None:
    favourites = [row["text"] for row in prose()["favourites.jsonl.zst"]]
    others = Counter(row["text"] for name, rows in prose().items() if "favourites" not in name for row in rows)
    assert len(favourites) == len(set(favourites)) > 5
    assert all(others[text] == 1 for text in favourites)
    assert max(others.values()) == 1

    images = [row["image"]["bytes"] for row in photographs()] + [row["jpg"] for row in details()]
    images += [page_image(page) for page in pages().values()]
    assert max(Counter(map(digest, images)).values()) == 1
    assert max(Counter(page["txt"] for page in pages().values()).values()) == 1


def test_chat_images_are_the_photographs() -> None:
    beside = {path.name: path.read_bytes() for path in sorted((DATA / "chat/images").iterdir())}
    assert beside == {row["image"]["path"]: row["image"]["bytes"] for row in photographs()}


def test_knowledge() -> None:
    assert len({row["id"] for row in knowledge()}) == len(knowledge())
    assert {row["complexity"] for row in knowledge()} == {1, 2}
    for row in knowledge():
        assert (DATA / "chat" / row["image"]).is_file()
        roles = [turn["from"] for turn in row["conversations"]]
        assert roles == ["human", "gpt"] * (len(roles) // 2) and roles
        texts = [turn["value"] for turn in row["conversations"]]
        assert all(text.strip() for text in texts)
        assert texts[0].startswith("<image>\n") and sum(text.count("<image>") for text in texts) == 1


def test_reasoning() -> None:
    assert len({row["id"] for row in reasoning()}) == len(reasoning())
    assert {row["complexity"] for row in reasoning()} == {2.5, 3.0}
    assert any(len(row["images"]) == 2 for row in reasoning())
    for row in reasoning():
        assert all((DATA / "chat" / path).is_file() for path in row["images"])
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        first, *rest = [turn["content"] for turn in row["messages"]]
        assert [part["type"] for part in first] == ["image"] * len(row["images"]) + ["text"]
        assert first[-1]["text"].strip() and all(text.strip() for text in rest)


def test_thresholds_drop_some_and_keep_most() -> None:
    for below, most in (
        ([row["quality"] < 0.7 for row in photographs()], 3),
        ([row["quality"] < 0.5 for row in details()], 9),
        ([json.loads(page["json"])["quality"] < 0.5 for page in pages().values()], 9),
        ([len(row["text"]) < 300 for rows in prose().values() for row in rows], 80),
    ):
        assert 0 < sum(below) <= most


def test_every_item_has_its_origin() -> None:
    for origin in origins():
        assert origin["license"] in LICENSES and origin["author"] and origin["from"]
        assert (DATA / origin["path"]).is_file()
    recorded = Counter((origin["path"], origin["blake3"]) for origin in origins() if origin["blake3"])
    items: Counter[tuple[str, str]] = Counter()
    items.update(("captions/photographs.parquet", digest(row["image"]["bytes"])) for row in photographs())
    items.update(("captions/details.parquet", digest(row["jpg"])) for row in details())
    items.update((key.rsplit("/", 1)[0], digest(page_image(page))) for key, page in pages().items())
    items.update((f"prose/{name}", digest(row["text"].encode())) for name, rows in prose().items() for row in rows)
    assert recorded == items


def test_readme_lists_every_picture() -> None:
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    pictures = [origin for origin in origins() if "notice" in origin]
    assert len(pictures) == len(photographs()) + len(details())
    for origin in pictures:
        line = next(line for line in readme.splitlines() if line.startswith(f"| {origin['item']} |"))
        assert f"| {origin['author']} | {origin['license']} | {origin['from']} |" in line


def test_no_position_or_owner_in_the_photographs() -> None:
    """In their Exif: neither GPS (0x8825) nor the owner's name (0xA430) nor a serial number (0xA431)."""
    for row in photographs():
        with Image.open(io.BytesIO(row["image"]["bytes"])) as opened:
            assert not {0x8825, 0xA430, 0xA431} & set(opened.getexif())


def test_specs_load_and_differ_in_one_weight() -> None:
    first, second = (load(SPECS / name).spec for name in ("demo.yaml", "demo-b.yaml"))
    assert [stage.name for stage in first.stages] == ["align", "advance", "sft-knowledge", "sft-reasoning"]
    assert first.sources == second.sources
    different = [
        (mine.name, source)
        for mine, other in zip(first.stages, second.stages, strict=True)
        for source in mine.mix
        if mine.mix[source] != other.mix[source]  # type: ignore[call-overload]
    ]
    assert different == [("advance", "prose")]
