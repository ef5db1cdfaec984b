"""Real text to measure on: the pages of Debian's documentation packages, one document a page, as JSON lines.

    python benchmarks/corpus.py corpus.jsonl [linux-doc-6.1 postgresql-doc-15 ...]

Needs apt-get and dpkg-deb, so Debian or one of its kin. The licences are the packages' own; nothing of them is kept in
this repository.
"""

from __future__ import annotations

import argparse
import html.parser
import json
import re
import subprocess
import tempfile
from pathlib import Path

PACKAGES = ["linux-doc-6.1", "postgresql-doc-15"]


class _Text(html.parser.HTMLParser):
    """The text of a page without its scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skipped += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style") and self._skipped > 0

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.parts.append(data)


def documents(package: str, folder: Path) -> list[str]:
    """Texts of a package's pages of at least 200 characters, in the order of their paths."""
    subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
    (archive,) = folder.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
    found = []
    for path in sorted((folder / package).rglob("*.html")):
        if path.is_symlink():
            continue
        page = _Text()
        page.feed(path.read_text(encoding="utf-8", errors="replace"))
        text = re.sub(r"[ \t]*\n\s*\n\s*", "\n\n", "".join(page.parts)).strip()
        if len(text) >= 200:
            found.append(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("packages", nargs="*", default=PACKAGES)
    arguments = parser.parse_args()
    count = size = 0
    with arguments.out.open("w", encoding="utf-8") as out, tempfile.TemporaryDirectory() as folder:
        for package in arguments.packages:
            for text in documents(package, Path(folder)):
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                count, size = count + 1, size + len(text.encode())
    print(f"{count:,} documents, {size / 1e6:.1f} MB of text")


if __name__ == "__main__":
    main()
