"""Prose out of the HTML documentation of LibreOffice, PostgreSQL and Python.

Headings, paragraphs, list items and examples are taken; navigation, tables and everything else is left out.
Of LibreOffice's pages, those are taken whose names' digests rank first: arbitrary, but the same each time.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

LANGUAGES = {"en": "en-us", "de": "de", "fr": "fr", "es": "es", "ja": "ja", "zh": "zh-cn", "ru": "ru"}
"""Language code -> the code in the Debian package's name."""

_SCRIPTS = {"ja": ("HIRAGANA", "KATAKANA", "CJK"), "zh": ("CJK",), "ru": ("CYRILLIC",)}
_ENGLISH = frozenset(("the", "of", "and", "to", "is", "you", "for"))
_HELP_FOLDERS = ("shared/guide", "swriter/guide", "scalc/guide", "simpress/guide")
_POSTGRESQL = (
    "arch-dev|backup|btree-intro|catalog-.*-overview|connect-estab|continuous-archiving|ddl-(basics|constraints|inherit|"
    "partitioning|schemas|system-columns)|different-replication-solutions|disk-full|dml-.*|explicit-locking|"
    "geqo-intro|high-availability|history|hot-standby|indexes-.*|internals|intro-whatis|locale|logical-replication.*|"
    "maintenance|mvcc.*|parallel-.*|performance-tips|planner-.*|populate|preface|query-path|role-.*|"
    "routine-vacuuming|rules-.*|sql-intro|storage-.*|transaction-iso|tutorial-.*|typeconv-overview|using-explain|"
    "wal-.*|warm-standby|xact-.*"
)
_PYTHON = (
    "faq/(design|general|programming|library)|howto/(curses|functional|ipaddress|pyporting|regex|sockets|sorting|"
    "unicode|urllib2|annotations)|tutorial/(appetite|classes|controlflow|datastructures|errors|floatingpoint|"
    "inputoutput|interpreter|introduction|modules|stdlib|stdlib2|venv|whatnow)"
)


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    blocks: tuple[str, ...]
    """Headings and paragraphs without line breaks inside, list items, examples; the first is the title."""
    language: str
    license: str
    package: str
    file: str
    """Inside the package."""

    @property
    def text(self) -> str:
        return "\n\n".join(self.blocks)


class _Blocks(HTMLParser):
    """Collects blocks of text below the element that `inside` names by its class, id or role."""

    _BLOCK = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "dt", "dd", "pre", "div", "ul", "ol", "dl"))
    _VOID = frozenset(("br", "img", "meta", "link", "input", "hr", "col", "source"))
    _SKIP = frozenset(("script", "style", "head", "header", "aside", "noscript", "button", "table", "footer", "nav"))
    _SKIP_CLASS = frozenset(
        (
            "navheader",
            "navfooter",
            "noteicon",
            "headerlink",
            "relatedtopics",
            "related",
            "relatedbody",
            "toc",
            "debug",
            "MAC",
        )
    )

    def __init__(self, inside: str) -> None:
        super().__init__(convert_charrefs=True)
        self._inside = inside
        self._open: list[tuple[str, bool, bool]] = []  # tag, text below it counts, text below it is skipped
        self._text: list[str] = []
        self._pre = 0
        self.blocks: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._VOID:
            self._text.append("\n" if tag == "br" and self._pre else " ")
            return
        known = dict(attrs)
        classes = set((known.get("class") or "").split())
        names = classes | {known.get("id"), known.get("role")}
        counts = (bool(self._open) and self._open[-1][1]) or self._inside in names
        skipped = (bool(self._open) and self._open[-1][2]) or tag in self._SKIP or bool(classes & self._SKIP_CLASS)
        if tag in self._BLOCK:
            self._flush()
        self._open.append((tag, counts, skipped))
        self._pre += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._text.append(" " if tag in self._VOID else "")

    def handle_endtag(self, tag: str) -> None:
        if not any(open_tag == tag for open_tag, _, _ in self._open):
            return
        if tag in self._BLOCK:
            self._flush()
        while self._open:
            open_tag, _, _ = self._open.pop()
            self._pre -= open_tag == "pre"
            if open_tag == tag:
                break

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][1] and not self._open[-1][2]:
            self._text.append(data if self._pre else data.replace("\n", " "))

    def _flush(self) -> None:
        text = "".join(self._text)
        text = text.strip("\n").rstrip() if self._pre else re.sub(r"[ \t\xa0]+", " ", text).strip()
        if text.strip():
            self.blocks.append(text)
        self._text = []


def read(path: Path, root: Path, *, inside: str, language: str, license: str, package: str) -> Document:
    parser = _Blocks(inside)
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    blocks = tuple(parser.blocks)
    title = blocks[0] if blocks else ""
    return Document(title, blocks, language, license, package, str(path.relative_to(root)))


def _rank(document: Document) -> bytes:
    return hashlib.sha256(f"{document.language} {document.file}".encode()).digest()


def help_pages(roots: dict[str, Path], language: str) -> list[Document]:
    """Every guide page of LibreOffice's help in a language, in the order of `_rank`, equal texts once.

    Pages that are not wholly translated are left out.
    """
    package = f"libreoffice-help-{LANGUAGES[language]}"
    root = roots[package]
    (base,) = (root / "usr/share/libreoffice/help").glob("*/text")
    pages = [
        read(path, root, inside="DisplayArea", language=language, license="MPL-2.0", package=package)
        for folder in _HELP_FOLDERS
        for path in sorted((base / folder).glob("*.html"))
    ]
    return _distinct(page for page in sorted(pages, key=_rank) if language == "en" or _is_translated(page))


def postgresql_pages(roots: dict[str, Path]) -> list[Document]:
    """The chapters of PostgreSQL's manual that are prose more than reference."""
    return [page for page in _postgresql(roots) if re.fullmatch(_POSTGRESQL, Path(page.file).stem)]


def other_postgresql_pages(roots: dict[str, Path]) -> list[Document]:
    """The rest of the manual that has neither examples nor signatures, in an arbitrary but fixed order."""
    rest = (page for page in _postgresql(roots) if not re.fullmatch(_POSTGRESQL, Path(page.file).stem))
    return sorted((page for page in rest if not any("\n" in block or "→" in block for block in page.blocks)), key=_rank)


def _postgresql(roots: dict[str, Path]) -> list[Document]:
    root = roots["postgresql-doc-15"]
    paths = sorted((root / "usr/share/doc/postgresql-doc-15/html").glob("*.html"))
    return _distinct(
        read(
            path,
            root,
            inside="container-fluid",
            language="en",
            license="PostgreSQL",
            package="postgresql-doc-15",
        )
        for path in paths
    )


def python_pages(roots: dict[str, Path]) -> list[Document]:
    root = roots["python3.11-doc"]
    base = root / "usr/share/doc/python3.11/html"
    return _distinct(
        read(path, root, inside="main", language="en", license="PSF-2.0", package="python3.11-doc")
        for path in sorted(base.glob("*/*.html"))
        if re.fullmatch(_PYTHON, str(path.relative_to(base).with_suffix("")))
    )


def _is_translated(document: Document) -> bool:
    """At least 85 % of its letters are of the language's own script, or, in a Latin script, at most one word
    of eighty is one of English's most frequent ones."""
    if scripts := _SCRIPTS.get(document.language):
        letters = [c for c in document.text if c.isalpha()]
        own = sum(unicodedata.name(c, "").startswith(scripts) for c in letters)
        return own * 100 >= len(letters) * 85
    words = re.findall(r"\w+", document.text.lower())
    return sum(word in _ENGLISH for word in words) * 80 <= len(words)


def _distinct(documents: Iterable[Document]) -> list[Document]:
    seen: set[str] = set()
    return [d for d in documents if d.blocks and not (d.text in seen or seen.add(d.text))]
