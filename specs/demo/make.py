"""Makes specs/demo/data and ORIGINS.jsonl again, byte for byte, from the packages that they come from.

    pip install scikit-image scikit-learn     # the dependency group `demo`
    python specs/demo/make.py     # on Debian 12 or with its .deb files in --packages

The versions of Pillow (JPEG, PNG, font rendering), pyarrow and zstandard that wrote the shipped files are in
README.md; other versions may write other bytes with the same content.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import blake3
import pyarrow as pa
from making import conversations, files, packages, pages, photographs, prose
from PIL import Image
from ruamel.yaml import YAML

HERE = Path(__file__).parent
HELP_DOCUMENTS = 48
"""Pages of LibreOffice's help taken as prose, a language."""
PAGES = {"en": 8, "de": 7, "fr": 6, "es": 6, "ja": 7, "zh": 7, "ru": 7}
"""Drawn pages by language."""
SHORTEST_PAGE = {"ja": 200, "zh": 200}
LONGEST_PAGE = {"ja": 700, "zh": 700, "ru": 1300}
"""Characters of a document that is drawn: from 400 to 1600 where nothing else is said."""

_HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PHOTOGRAPHS_SCHEMA = pa.schema(
    [
        ("image", _HF_IMAGE),
        ("caption", pa.string()),
        ("language", pa.string()),
        ("quality", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("license", pa.string()),
    ]
)
CROPS_SCHEMA = pa.schema(
    [
        ("jpg", pa.binary()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("quality", pa.float64()),
        ("of", pa.string()),
    ]
)


def caption_quality(width: int, height: int, text: str, language: str) -> float:
    """Half for the picture's shorter side, full at 384 pixels; half for the caption's length, full at 200
    characters, a Chinese or Japanese one counted thrice. Between 0 and 1."""
    characters = len(text) * (3 if language in ("ja", "zh") else 1)
    return round(min(1.0, min(width, height) / 384) / 2 + min(1.0, characters / 200) / 2, 2)


def make_pictures(data: Path, roots: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Captions of photographs and of details, and the photographs again as files beside the conversations."""
    written = _written("captions.yaml")
    rows, crops = [], []
    for photograph in photographs.PHOTOGRAPHS:
        image = photographs.render(photograph, roots)
        name = f"{photograph.name}.{photographs.extension(image)}"
        caption = written["photographs"][photograph.name]
        language = caption.get("language", "en")
        width, height = _size(image)
        rows.append(
            {
                "image": {"bytes": image, "path": name},
                "caption": caption["text"],
                "language": language,
                "quality": caption_quality(width, height, caption["text"], language),
                "width": width,
                "height": height,
                "license": photograph.license,
            }
        )
        files.write_bytes(data / "chat/images" / name, image)
        yield _picture_origin(photograph, photograph.name, "captions/photographs.parquet", image) | {
            "changes": "none" if photograph.form == "as is" else "scaled, encoded again" if photograph.size
            else "encoded again",
            "also": f"chat/images/{name}",
        }  # fmt: skip
    by_name = {photograph.name: photograph for photograph in photographs.PHOTOGRAPHS}
    for name in photographs.CROPS:
        image = photographs.render_crop(name, roots)
        photograph = by_name[name.split("-")[0]]
        caption = written["crops"][name]
        language = caption.get("language", "en")
        quality = caption_quality(*_size(image), caption["text"], language)
        crops.append(
            {
                "jpg": image,
                "text": caption["text"],
                "language": language,
                "quality": quality,
                "of": photograph.name,
            }
        )
        yield _picture_origin(photograph, name, "captions/details.parquet", image) | {
            "changes": "a detail, scaled, encoded again"
        }
    for path in ("captions/photographs.parquet", "captions/details.parquet"):
        yield _origin(path, "the captions", "the authors of mixc", "Apache-2.0", "", "written/captions.yaml", b"")
    files.write_parquet(data / "captions/photographs.parquet", rows, PHOTOGRAPHS_SCHEMA)
    files.write_parquet(data / "captions/details.parquet", crops, CROPS_SCHEMA)


def make_conversations(data: Path) -> Iterator[dict[str, Any]]:
    written = _written("conversations.yaml")
    at = {path.stem: f"images/{path.name}" for path in sorted((data / "chat/images").iterdir())}
    files.write_json(data / "chat/knowledge.json", list(conversations.llava_rows(written["knowledge"], at)))
    files.write_jsonl(data / "chat/reasoning.jsonl", conversations.openai_rows(written["reasoning"], at))
    for path in ("chat/knowledge.json", "chat/reasoning.jsonl"):
        yield _origin(
            path,
            "the conversations",
            "the authors of mixc",
            "Apache-2.0",
            "",
            "written/conversations.yaml",
            b"",
        )


def make_texts(data: Path, roots: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Prose, and pages drawn from other documents of the same kind."""
    drawn = count()
    tars: dict[str, list[tuple[str, bytes]]] = {}
    for language in prose.LANGUAGES:
        documents = prose.help_pages(roots, language)
        path = f"prose/libreoffice-help.{language}.jsonl.zst"
        yield from _prose_file(data, path, documents[:HELP_DOCUMENTS])
        shortest, longest = SHORTEST_PAGE.get(language, 400), LONGEST_PAGE.get(language, 1600)
        rest = documents[HELP_DOCUMENTS:] if language != "en" else prose.other_postgresql_pages(roots)
        suitable = (d for d in rest if shortest <= len(d.text) <= longest)
        made = filter(None, (_draw(d, drawn, language, roots) for d in suitable))
        members = tars.setdefault(_tar(language), [])
        for number, (serial, page) in enumerate(islice(made, PAGES[language])):
            name = f"{language}-{number:02}"
            image = f"{name}.{photographs.extension(page.image)}"
            looks = page.layout
            about = {
                "language": language,
                "title": page.document.title,
                "font": looks.font,
                "size": looks.size,
                "columns": looks.columns,
                "noise": looks.noise,
                "skew": looks.skew,
                "quality": looks.quality,
                "license": page.document.license,
            }
            members += [
                (image, page.image),
                (f"{name}.txt", page.text.encode()),
                (f"{name}.json", files.json_line(about).encode()),
            ]
            yield _document_origin(page.document, f"pages/{_tar(language)}", image, page.image) | {
                "changes": f"drawn in {looks.font}, page {serial}"
            }
    for name, members in tars.items():
        files.write_tar(data / "pages" / name, members)
    manual, python = prose.postgresql_pages(roots), prose.python_pages(roots)
    yield from _prose_file(data, "prose/postgresql.jsonl.zst", manual)
    yield from _prose_file(data, "prose/python.jsonl.zst", python)
    # exact copies of documents of the other files, as a collection of favourites has: dedup finds them
    yield from _prose_file(data, "prose/favourites.jsonl.zst", [*manual[20:100:10], *python[3:21:6]])


def _draw(
    document: prose.Document, serials: Iterator[int], language: str, roots: dict[str, Path]
) -> tuple[int, pages.Page] | None:
    serial = next(serials)
    page = pages.draw(document, pages.layout_of(serial, language), serial, roots)
    return None if page is None else (serial, page)


def _tar(language: str) -> str:
    return "east.tar" if language in ("ja", "zh", "ru") else "west.tar"


def _prose_file(data: Path, path: str, documents: list[prose.Document]) -> Iterator[dict[str, Any]]:
    files.write_jsonl(
        data / path,
        (
            {
                "title": document.title,
                "language": document.language,
                "license": document.license,
                "text": document.text,
            }
            for document in documents
        ),
    )
    for document in documents:
        yield _document_origin(document, path, document.title, document.text.encode())


_TEXT_AUTHORS = {
    "MPL-2.0": ("LibreOffice contributors", "https://www.mozilla.org/MPL/2.0/"),
    "PostgreSQL": ("PostgreSQL Global Development Group", "https://www.postgresql.org/about/licence/"),
    "PSF-2.0": ("Python Software Foundation", "https://docs.python.org/3/license.html"),
}


def _document_origin(document: prose.Document, path: str, item: str, content: bytes) -> dict[str, Any]:
    author, url = _TEXT_AUTHORS[document.license]
    origin = _origin(path, item, author, document.license, url, f"{document.package}: {document.file}", content)
    return origin | {"changes": "text taken out of HTML"}


def _picture_origin(photograph: photographs.Photograph, item: str, path: str, content: bytes) -> dict[str, Any]:
    source = f"{photograph.package}: {photograph.file}"
    origin = _origin(path, item, photograph.author, photograph.license, photograph.license_url, source, content)
    return origin | {"title": photograph.title, "url": photograph.source, "notice": photograph.notice}


def _origin(path: str, item: str, author: str, license: str, url: str, source: str, content: bytes) -> dict[str, Any]:
    return {
        "path": path,
        "item": item,
        "author": author,
        "license": license,
        "license_url": url,
        "from": source,
        "blake3": blake3.blake3(content).hexdigest() if content else "",
    }


def _written(name: str) -> Any:
    return YAML(typ="safe").load(HERE / "written" / name)


def _size(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


def write_table(origins: list[dict[str, Any]]) -> None:
    """Puts the table of pictures into README.md, between its two marks."""
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- pictures -->\n", 1)
    after = rest.split("<!-- end of pictures -->", 1)[1]
    lines = [
        "| picture | title | author | licence | from | changes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for origin in origins:
        if "notice" in origin:
            title = f"[{origin['title']}]({origin['url']})" if origin["url"] else origin["title"]
            lines.append(
                f"| {origin['item']} | {title} | {origin['author']} | {origin['license']} "
                f"| {origin['from']} | {origin['changes']} |"
            )
    table = "\n".join(lines)
    text = f"{before}<!-- pictures -->\n{table}\n<!-- end of pictures -->{after}"
    readme.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("build/demo-packages"), help="folder for the .deb files")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder to write, emptied first")
    arguments = parser.parse_args()
    roots = packages.unpack(arguments.packages.resolve())
    shutil.rmtree(arguments.data, ignore_errors=True)
    origins = [
        *make_pictures(arguments.data, roots),
        *make_conversations(arguments.data),
        *make_texts(arguments.data, roots),
    ]
    if arguments.data == HERE / "data":
        files.write_jsonl(HERE / "ORIGINS.jsonl", origins)
        write_table(origins)
    size = sum(path.stat().st_size for path in arguments.data.rglob("*") if path.is_file())
    print(json.dumps({"items": len(origins), "bytes": size}))


if __name__ == "__main__":
    main()
