"""Documents for benchmarks: real ones out of Debian packages, and more of them where a bench wants more than there are.

    python benchmarks/corpus.py FOLDER [--megabytes 100]

says how many there are, how large, and how fast `enlarged` makes more. Packages come by `apt-get download`, once a FOLDER.

English: the manuals of Linux, PostgreSQL and LibreOffice, HTML without tags. Translated: LibreOffice's help in German,
Japanese, Russian and Chinese, and the German and Japanese manual pages. Pictures: the stamps of Tux Paint, each a PNG with a
caption of a few words.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.tokenizer import load_tokenizer

MANUALS = ("linux-doc-6.1", "postgresql-doc-15")
ENGLISH = (*MANUALS, "libreoffice-help-en-us")
TRANSLATED = (
    *(f"libreoffice-help-{language}" for language in ("de", "ja", "ru", "zh-cn")),
    *(f"manpages-{language}" for language in ("de", "ja")),
)
PICTURES = ("tuxpaint-stamps-default",)

MEAN, SIGMA = 3500, 1.2
"""Bytes of a made document in the mean, and the spread of their logarithm: ours, after web text."""
LEAST, MOST = 200, 100_000
PIECE = 120
"""Bytes of a piece at least: a paragraph, or as many successive lines as come to that."""


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style", "head")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "head")

    def handle_data(self, data: str) -> None:
        if self._hidden <= 0:
            self.parts.append(data)


def download(folder: Path, packages: Iterable[str]) -> list[Path]:
    """The packages' trees, one a package, unpacked below `folder`; what lies there already is not fetched again."""
    trees = []
    for package in packages:
        tree = folder / package
        if not tree.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as place:
                subprocess.run(["apt-get", "download", package], cwd=place, check=True, capture_output=True)
                archive = next(Path(place).glob("*.deb"))
                subprocess.run(["dpkg", "-x", str(archive), f"{place}/tree"], check=True)
                Path(place, "tree").rename(tree)
        trees.append(tree)
    return trees


def documents(folders: Iterable[Path], megabytes: float = float("inf")) -> list[str]:
    """Texts of the .html and .txt files, of at least 200 characters, a word among them, by a shuffle of their paths, so that a
    prefix has some of every folder."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".html", ".txt")]
    return _read(paths, megabytes)


def english(folder: Path) -> list[str]:
    """All English documents, 43 MB of text: the manuals' pages in HTML, each once. The packages are kept in `folder`."""
    return _kept(folder / "english.jsonl", lambda: _read(_pages(download(folder, ENGLISH))))


def english_tokens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Their ids in Qwen's vocabulary, int32, one document after the other, and where documents begin."""
    kept = folder / "english-tokens.npz"
    if not kept.exists():
        texts = english(folder)
        ids, offsets = load_tokenizer("qwen2.5", base=folder, cache=folder / "cache").encode_plain(texts)
        np.savez(kept, ids=ids.astype(np.int32), starts=offsets[:-1].astype(np.int64))
    found = np.load(kept)
    return found["ids"], found["starts"]


def translated(folder: Path) -> list[str]:
    """All translated documents, 40 MB of text in four languages: pages in HTML, and manual pages without roff's requests."""
    return _kept(folder / "translated.jsonl", lambda: _read(_pages(download(folder, TRANSLATED))))


def pictures(folder: Path) -> list[tuple[Path, str]]:
    """Every PNG of the stamps that has a caption, and its caption in English."""
    (tree,) = download(folder, PICTURES)
    found = []
    for path in sorted(tree.rglob("*.png")):
        beside = path.with_suffix(".txt")
        if beside.exists() and (caption := beside.read_text("utf-8", "replace").partition("\n")[0].strip()):
            found.append((path, caption))
    return found


def _pages(trees: Iterable[Path]) -> list[Path]:
    """Without the sources beside the HTML, which would be every page again, and, in the English manuals, translations."""
    paths = [path for tree in trees for path in sorted(tree.rglob("*")) if not path.is_symlink()]
    return [
        path
        for path in paths
        if "translations" not in path.parts
        and (path.suffix == ".html" or (path.suffix == ".gz" and "man" in path.parts and path.is_file()))
    ]


def _read(paths: list[Path], megabytes: float = float("inf")) -> list[str]:
    random.Random(0).shuffle(paths)
    texts, size = [], 0
    for path in paths:
        if not path.is_file():
            continue
        if path.suffix == ".gz":
            text = _without_roff(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
        else:
            text = path.read_text("utf-8", "replace")
        if path.suffix == ".html":
            parser = _Text()
            parser.feed(text)
            text = re.sub(r"\s*\n\s*", "\n", "".join(parser.parts))
        if len(text) >= 200 and re.search(r"\w", text):
            texts.append(text)
            size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return texts


def _without_roff(page: str) -> str:
    """The words of a manual page: no comments, no requests but for the text in them, no escapes."""
    lines = (re.sub(r"^[.'][A-Za-z]+ ?", "", line) for line in page.split("\n") if not re.match(r"[.']\s*\\\"", line))
    text = "\n".join(lines)
    text = re.sub(r"\\f(\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&,/|^:%]", "", text)
    text = re.sub(r"\\\(..|\\\[[^]]*\]", "", text).replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ")
    return re.sub(r"\n\s*\n+", "\n", text)


def _kept(path: Path, make: Callable[[], list[str]]) -> list[str]:
    """Taking the tags off takes longer than some benches."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write_jsonl(partial, make())
        partial.rename(path)
    with path.open("rb") as file:
        return [msgspec.json.decode(line)["text"] for line in file]


def enlarged(
    texts: Iterable[str], size: float, seed: int, *, mean: float = MEAN, sigma: float = SIGMA
) -> Iterator[str]:
    """Different documents of `size` bytes of UTF-8 in all, made of the paragraphs of `texts`; the same for the same arguments.

    The texts are cut into pieces (a paragraph, or successive short lines), equal ones are dropped, and all pieces are strung
    together in a random order, then again in another, and so on. The string is cut into documents of lognormal lengths from
    200 bytes to 100 kB, `mean` in the mean, each of two pieces at least. Only the pieces are held.

    What that means: no document is like another (among 10 GB one pair of short ones may be equal), so neither deduplication nor
    a cache by document helps. But a *piece* recurs, once in as many bytes as the pieces have. After that a tokenizer's cache
    of words sees no new word, as it would in so much real text: it is warm, and tokenizing is faster. compile.py has a line of
    real text beside the made one. Compression looks back no further than a shard, where hardly a piece stands twice; it does
    see that neighbours have nothing to do with each other, so that bytes a token are more than on real text.
    """
    pieces = list(dict.fromkeys(piece for text in texts for piece in _pieces(text)))
    lengths = np.array([len(piece.encode()) + 1 for piece in pieces])
    dice = np.random.default_rng(seed)
    left = int(size)
    while left > 0:
        order = dice.permutation(len(pieces))
        strung = [pieces[number] for number in order.tolist()]
        ends = np.cumsum(lengths[order])
        wished = dice.lognormal(np.log(mean) - sigma**2 / 2, sigma, int(ends[-1] / mean * 2) + 1)
        cuts = np.searchsorted(ends, np.cumsum(np.clip(wished, LEAST, MOST)), side="right")
        sizes = np.concatenate([[0], ends]).tolist()
        for first, last in pairwise(_two_apart(cuts.tolist(), len(pieces))):
            yield "\n".join(strung[first:last])
            left -= sizes[last] - sizes[first] - 1
            if left <= 0:
                return


def _two_apart(cuts: list[int], end: int) -> Iterator[int]:
    """0 and the cuts, each at least two after the one before, none beyond `end`."""
    last = 0
    yield last
    for cut in cuts:
        last = max(cut, last + 2)
        if last > end:
            return
        yield last


def _pieces(text: str) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in text.split("\n"):
        held.append(line)
        size += len(line)
        if size >= PIECE:
            yield "\n".join(held)
            held, size = [], 0


def conversations(texts: Iterable[str], size: float, seed: int) -> Iterator[dict[str, object]]:
    """Rows of two turns, of some 300 bytes each, in OpenAI's form; `size` bytes of turns in all."""
    turns = enlarged(texts, size, seed, mean=300, sigma=0.4)
    for asked, answered in zip(turns, turns, strict=False):
        yield {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}


def write_jsonl(path: Path, texts: Iterable[str]) -> tuple[int, int]:
    """A row with a `text` for each; how many rows and bytes of text there are."""
    size = 0

    def rows() -> Iterator[dict[str, object]]:
        nonlocal size
        for text in texts:
            size += len(text) if text.isascii() else len(text.encode())
            yield {"text": text}

    return write_rows(path, rows()), size


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> int:
    """JSON Lines; how many."""
    encode = msgspec.json.Encoder().encode_into
    number, buffer = 0, bytearray()
    with path.open("wb") as file:
        for row in rows:
            encode(row, buffer, len(buffer))
            buffer += b"\n"
            number += 1
            if len(buffer) > 1 << 20:
                file.write(buffer)
                buffer.clear()
        file.write(buffer)
    return number


def write_parquet(path: Path, texts: Iterable[str], *, group: int = 5000) -> tuple[int, int]:
    """A column `text`, in row groups of `group` rows, zstd; how many rows and bytes of text there are."""
    number, size = 0, 0
    texts = iter(texts)
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        while some := list(islice(texts, group)):
            table = pa.table({"text": pa.array(some, pa.string())})
            size += sum(len(text) if text.isascii() else len(text.encode()) for text in some)
            number += len(some)
            writer.write_table(table)
    return number, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps the packages")
    parser.add_argument("--megabytes", type=float, default=300, help="to make of the English documents")
    options = parser.parse_args()
    for name, texts in (("English", english(options.folder)), ("translated", translated(options.folder))):
        sizes = np.array([len(text.encode()) for text in texts])
        pieces = {piece for text in texts for piece in _pieces(text)}
        print(
            f"{name}: {len(texts):,} documents, {sizes.sum() / 1e6:.1f} MB, {np.median(sizes):,.0f} bytes in the median,"
            f" {sizes.max():,} the largest; {len(pieces):,} different pieces of"
            f" {np.mean([len(piece.encode()) for piece in pieces]):.0f} bytes in the mean"
        )
    shown = pictures(options.folder)
    print(f"pictures: {len(shown):,}, {sum(path.stat().st_size for path, _ in shown) / 1e6:.1f} MB")
    sizes = []
    start = time.process_time()
    for text in enlarged(english(options.folder), options.megabytes * 1e6, seed=0):
        sizes.append(len(text))
    seconds = time.process_time() - start
    print(
        f"enlarged: {len(sizes):,} documents, {sum(sizes) / 1e6:.1f} MB, {np.mean(sizes):,.0f} bytes in the mean,"
        f" {np.median(sizes):,.0f} in the median, {min(sizes):,} to {max(sizes):,}; {sum(sizes) / 1e6 / seconds:.0f} MB a CPU-second"
    )


if __name__ == "__main__":
    main()
