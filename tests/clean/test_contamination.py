"""Benchmarks as n-grams and image hashes, and the files they are read from."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mixc.clean.benchmark_files import load_benchmark
from mixc.clean.contamination import SHORTEST, Benchmark
from mixc.errors import SourceError
from mixc.spec.schema import Decontaminate

PHOTOS = sorted((Path(__file__).parents[2] / "specs/demo/data/chat/images").iterdir())
QUESTION = "How many of the seven red cubes on the left table are hidden behind the tall green cone?"
ANSWER = "Exactly three of them stand behind it"  # 7 words


def benchmark_of(texts: Sequence[str], *, ngram: int | None = 13) -> Benchmark:
    items = [(f"item {i}", [text], []) for i, text in enumerate(texts)]
    return Benchmark.of(items, ngram=ngram, phash_bits=None)


def verdicts(benchmark: Benchmark, texts: Sequence[str]) -> list[str | None]:
    return benchmark.contaminated(texts, [()] * len(texts))


def test_a_shared_run_of_words_is_found_whatever_is_around_it() -> None:
    found = benchmark_of(["nothing of that kind is in this one, which is long enough to count for it", QUESTION])
    thirteen = " ".join(QUESTION.split()[:13])
    texts = [
        QUESTION,
        f"Before it. {QUESTION.upper()} After it.",
        thirteen.replace(" ", ", "),
        " ".join(QUESTION.split()[:12]),
        QUESTION.replace("seven", "eight").replace("hidden", "seen"),
        "",
    ]
    assert verdicts(found, texts) == ["item 1"] * 3 + [None] * 3


def test_short_texts_count_whole_and_very_short_ones_not() -> None:
    eight = "what colour is the big dog that sleeps"
    assert len(eight.split()) == SHORTEST
    found = benchmark_of([eight, ANSWER, "yes"])
    assert verdicts(found, [f"She asked: {eight}?", ANSWER, "yes", eight[:-1]]) == ["item 0", None, None, None]
    few = benchmark_of([ANSWER, "yes, I do", "no"], ngram=3)
    assert verdicts(few, ["of them stand", "yes I do", "no", "of them sit"]) == ["item 0", "item 1", None, None]


def test_the_first_item_is_named() -> None:
    found = benchmark_of([QUESTION, QUESTION, f"again {QUESTION}"])
    assert verdicts(found, [QUESTION, f"again {QUESTION}"]) == ["item 0", "item 0"]


def test_without_ngram_no_text_counts() -> None:
    assert verdicts(benchmark_of([QUESTION], ngram=None), [QUESTION]) == [None]


WORDS = st.lists(st.sampled_from(["a", "b", "é", "日", "two"]), max_size=14).map(" ".join)


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6), st.integers(1, 13), st.integers(1, 4))
def test_verdicts_are_those_of_the_model(bench: list[str], texts: list[str], ngram: int, size: int) -> None:
    """Against lists of words, and in pieces of `size` texts."""

    def grams(words: list[str], n: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    def hit(item: str, text: str) -> bool:
        n = min(ngram, len(item.split()))
        return n >= min(SHORTEST, ngram) and bool(grams(item.split(), n) & grams(text.split(), n))

    expected = [next((f"item {i}" for i, b in enumerate(bench) if hit(b, text)), None) for text in texts]
    found = benchmark_of(bench, ngram=ngram)
    assert verdicts(found, texts) == expected
    parts = [verdicts(found, texts[i : i + size]) for i in range(0, len(texts), size)]
    assert [verdict for part in parts for verdict in part] == expected


def shrunk(path: Path) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(path).convert("RGB")
    image.resize((image.width // 2, image.height // 2)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def test_images_are_found_by_what_they_show() -> None:
    items = [(f"photo {i}", [], [path.read_bytes()]) for i, path in enumerate(PHOTOS[:5])]
    found = Benchmark.of(items, ngram=13, phash_bits=8)
    images = [[shrunk(PHOTOS[3])], [shrunk(PHOTOS[9]), shrunk(PHOTOS[4]), shrunk(PHOTOS[2])], [shrunk(PHOTOS[9])], []]
    assert found.contaminated([""] * 4, images) == ["photo 3", "photo 2", None, None]


def test_a_saved_benchmark_is_the_same(tmp_path: Path) -> None:
    items = [("a", [QUESTION], [PHOTOS[0].read_bytes()]), ("b", [ANSWER + " today"], [PHOTOS[1].read_bytes()])]
    found = Benchmark.of(items, ngram=13, phash_bits=4)
    found.save(tmp_path / "saved")
    again = Benchmark.load(tmp_path / "saved")
    assert again.digest == found.digest
    texts, images = [ANSWER + " today", "", QUESTION], [[], [PHOTOS[1].read_bytes()], []]
    assert again.contaminated(texts, images) == found.contaminated(texts, images) == ["b", "b", "a"]
    others = [
        Benchmark.of(items, ngram=12, phash_bits=4),
        Benchmark.of(items, ngram=13, phash_bits=5),
        Benchmark.of(items, ngram=13, phash_bits=None),
        Benchmark.of(items[:1], ngram=13, phash_bits=4),
    ]
    assert len({found.digest, *(other.digest for other in others)}) == 5


def test_what_is_no_saved_benchmark_is_refused(tmp_path: Path) -> None:
    benchmark_of([QUESTION]).save(tmp_path / "saved")
    data = (tmp_path / "saved").read_bytes()
    for damaged in (b"", b"PK", data[:-40], data[:60]):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ValueError, match="benchmark"):
            Benchmark.load(tmp_path / "damaged")


ROWS = [{"id": 1, "q": {"turns": [{"text": QUESTION}]}}, {"id": 2, "q": {"turns": [{"text": ANSWER}]}}]


def _write(folder: Path, name: str) -> None:
    path = folder / name
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    match path.suffixes:
        case [".jsonl"]:
            path.write_text(lines)
        case [".jsonl", ".gz"]:
            path.write_bytes(gzip.compress(lines.encode()))
        case [".json"]:
            path.write_text(json.dumps(ROWS))
        case [".parquet"]:
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case [".tar"]:
            with tarfile.open(path, "w") as archive:
                for number, row in enumerate(ROWS):
                    data = json.dumps(row, indent=1).encode()
                    member = tarfile.TarInfo(f"{number}.json")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("name", ["b.jsonl", "b.jsonl.gz", "b.json", "b.parquet", "b.tar"])
def test_every_format_gives_the_same_texts(tmp_path: Path, name: str) -> None:
    _write(tmp_path, name)
    found = load_benchmark(Decontaminate(against=name), tmp_path)
    assert verdicts(found, [f"so: {QUESTION}", ANSWER]) == [f"{name} 0", None]
    assert len(found.items) == 2


def test_images_of_a_benchmark(tmp_path: Path) -> None:
    """As bytes, as a Hugging Face struct whose path is nowhere, and by a path beside the file."""
    photos = [path.read_bytes() for path in PHOTOS[:3]]
    rows = [{"image": {"bytes": photos[0], "path": "nowhere.jpg"}, "more": [photos[1]]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "img").mkdir()
    (tmp_path / "img/x.jpg").write_bytes(photos[2])
    (tmp_path / "b.jsonl").write_text(json.dumps({"images": ["img/x.jpg"], "url": "https://example.org/y.jpg"}) + "\n")
    spec = Decontaminate(against=["a.parquet", "b.jsonl"], phash=4)
    found = load_benchmark(spec, tmp_path)
    assert found.contaminated([""] * 4, [[p] for p in photos] + [[PHOTOS[3].read_bytes()]]) == [
        *["a.parquet 0"] * 2,
        "b.jsonl 0",
        None,
    ]
    assert load_benchmark(spec, tmp_path).digest == found.digest
    without = msgspec.structs.replace(spec, phash=None)
    with pytest.raises(SourceError, match="nothing in these files"):
        load_benchmark(without, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no file"),
        ("empty.jsonl", b"", "nothing in these files to compare with"),
        ("short.jsonl", b'{"q": "yes or no?"}\n', "nothing in these files to compare with"),
        ("broken.jsonl", json.dumps({"q": QUESTION}).encode() + b'\n{"q": \n', "row 1 of a benchmark cannot be read"),
        ("cut.parquet", b"PAR1 and then nothing PAR1", "cannot be read"),
        ("cut.tar", None, "cannot be read"),
        ("lost.jsonl", b'{"q": "x", "image": "img/lost.jpg"}\n', "images of row 0 of a benchmark cannot be read"),
        ("evil.jsonl", b'{"q": "x", "image": "../../etc/lost.jpg"}\n', "images of row 0 of a benchmark cannot be read"),
        ("what.xyz", b"?", "name does not tell its format"),
    ],
)
def test_what_cannot_be_read_stops(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if name == "cut.tar":
        _write(tmp_path, "b.tar")
        content = (tmp_path / "b.tar").read_bytes()[:1100]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        load_benchmark(Decontaminate(against=name, phash=4), tmp_path)
    assert caught.value.where
    assert caught.value.mend


def test_texts_that_are_not_utf8_count_too(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps({"q": "\ud800 " + QUESTION}) + "\n")
    assert verdicts(load_benchmark(Decontaminate(against="b.jsonl"), tmp_path), [QUESTION]) == ["b.jsonl 0"]


def test_many_grams_agree_with_sets() -> None:
    """Hash filter and search against Python's sets, on random words of a small vocabulary."""
    random = np.random.default_rng(4)
    bench = [" ".join(map(str, row)) for row in random.integers(0, 30, (2000, 12))]
    texts = [" ".join(map(str, row)) for row in random.integers(0, 30, (2000, 12))]
    grams = {tuple(t.split()[i : i + 3]) for t in bench for i in range(10)}
    expected = [any(tuple(t.split()[i : i + 3]) in grams for i in range(10)) for t in texts]
    found = [verdict is not None for verdict in verdicts(benchmark_of(bench, ngram=3), texts)]
    assert found == expected
    assert 100 < sum(expected) < 2000
