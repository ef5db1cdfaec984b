"""MinHash and its clusters: the estimate, recall and precision on a planted corpus, and what must not matter."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mixc.clean.clusters import agreeing_places, bands, near_duplicates
from mixc.clean.minhash import NOTHING, constants, signatures
from mixc.clean.shingles import shingles

PROSE = sorted((Path(__file__).parents[2] / "specs/demo/data/prose").glob("*.jsonl.zst"))


def documents() -> list[str]:
    texts = []
    for path in PROSE:
        data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
        texts += [json.loads(line)["text"] for line in data.decode().splitlines()]
    return list(dict.fromkeys(texts))


def mutated(text: str, rate: float, dice: random.Random) -> str:
    words = text.split(" ")
    for i in range(len(words)):
        if dice.random() < rate:
            words[i] = f"changed{dice.randrange(10**6)}"
    return " ".join(words)


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[set[int]]]:
    """Real documents and copies of a third of them with 0 to 8 % of their words changed; and their shingle sets."""
    dice = random.Random(7)
    texts = documents()
    texts += [mutated(t, dice.choice([0, 0.005, 0.01, 0.02, 0.04, 0.08]), dice) for t in texts[::3]]
    found, ends = shingles(texts, ngram=5)
    return texts, [set(part.tolist()) for part in np.split(found, ends[:-1])]


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def test_the_estimate_is_unbiased(planted: tuple[list[str], list[set[int]]]) -> None:
    texts, sets = planted
    signed = signatures(texts, ngram=5, permutations=256)
    count = len(documents())
    errors = []
    for copy, original in zip(range(count, len(texts)), range(0, count, 3), strict=True):
        errors.append(float((signed[copy] == signed[original]).mean()) - jaccard(sets[copy], sets[original]))
    assert len(errors) > 100
    assert (
        abs(np.mean(errors)) < 4 * 0.031 / len(errors) ** 0.5
    )  # 0.031: sqrt(1/4 / 256), the largest deviation there is
    assert max(map(abs, errors)) < 0.15


def test_recall_and_precision_against_brute_force(planted: tuple[list[str], list[set[int]]]) -> None:
    """Of texts that have an earlier one at 0.85 or more nearly all go; none goes for one below 0.65."""
    texts, sets = planted
    won = near_duplicates(signatures(texts, ngram=5, permutations=128), np.arange(len(texts)), threshold=0.8)
    sure = lost = 0
    for i in range(len(texts)):
        best = max((jaccard(sets[i], sets[j]) for j in range(i)), default=0.0)
        if best >= 0.85:
            sure += 1
            lost += won[i] == i
        if won[i] != i:
            assert jaccard(sets[i], sets[won[i]]) > 0.65  # 0.8 less four standard deviations
    assert sure > 100
    assert lost <= 0.02 * sure


def test_order_and_pieces_do_not_matter(planted: tuple[list[str], list[set[int]]]) -> None:
    texts, _ = planted
    whole = signatures(texts, ngram=5, permutations=64)
    for size in (1, 7, 100):
        parts = [signatures(texts[i : i + size], ngram=5, permutations=64) for i in range(0, len(texts), size)]
        assert (np.concatenate(parts) == whole).all()
    ranks = np.random.default_rng(1).permutation(len(texts))
    expected = near_duplicates(whole, ranks, threshold=0.7)
    order = np.random.default_rng(2).permutation(len(texts))
    shuffled = near_duplicates(whole[order], ranks[order], threshold=0.7)
    assert (order[shuffled] == expected[order]).all()


def test_what_is_dropped_is_like_its_winner_which_stays(planted: tuple[list[str], list[set[int]]]) -> None:
    texts, _ = planted
    signed = signatures(texts, ngram=5, permutations=128)
    ranks = np.random.default_rng(3).permutation(len(texts))
    won = near_duplicates(signed, ranks, threshold=0.75)
    gone = np.flatnonzero(won != np.arange(len(won)))
    assert len(gone) > 100
    assert (won[won[gone]] == won[gone]).all()
    assert (ranks[won[gone]] < ranks[gone]).all()
    assert ((signed[gone] == signed[won[gone]]).mean(axis=1) >= 0.75).all()


def test_texts_without_words_are_like_nothing() -> None:
    signed = signatures(["", "...", "—!—", "word", "Word."], ngram=5, permutations=16)
    assert (signed[:3] == NOTHING).all()
    assert near_duplicates(signed, np.arange(5), threshold=0.8).tolist() == [0, 1, 2, 3, 3]
    assert near_duplicates(signed[:0], np.arange(0), threshold=0.8).tolist() == []


def test_many_copies_cost_one_comparison_each() -> None:
    """300,000 equal signatures are 4.5e10 pairs: looked at one by one they would not end."""
    signed = np.full((300_000, 32), 5, np.uint32)
    won = near_duplicates(signed, np.arange(len(signed))[::-1].copy(), threshold=0.9)
    assert (won == len(signed) - 1).all()


def test_full_buckets_are_bounded() -> None:
    """100,000 signatures that share their first half and are alike nowhere else stay, all in the same buckets of it; a copy
    of the newest is still found."""
    random = np.random.default_rng(5)
    signed = random.integers(0, 2**32, (100_000, 64), np.uint32)
    signed[:, :32] = signed[0, :32]
    signed = np.concatenate([signed, signed[-1:]])
    won = near_duplicates(signed, np.arange(len(signed)), threshold=0.8)
    assert won.tolist() == [*range(100_000), 99_999]


def test_a_copy_of_what_is_dropped_is_compared_with_what_stays() -> None:
    """b gives way to a, and c and d, both like b but not like a, do not hide behind it: d gives way to c."""
    places = np.arange(100, dtype=np.uint32)
    a, b, c = places.copy(), places.copy(), places.copy()
    a[:18] += 1000
    c[82:] += 1000
    d = c.copy()
    d[50] += 1000
    assert [int((x == y).sum()) for x, y in ((a, b), (b, c), (b, d), (a, c), (c, d))] == [82, 82, 81, 64, 99]
    assert near_duplicates(np.stack([a, b, c, d]), np.arange(4), threshold=0.8).tolist() == [0, 0, 2, 2]


@given(st.lists(st.lists(st.integers(0, 2), min_size=16, max_size=16), max_size=12), st.data())
def test_winners_follow_the_rule(rows: list[list[int]], data: st.DataObject) -> None:
    """Against a plain model: by rank, each gives way to the lowest that stays, shares a band and is alike."""
    signed = np.array(rows, np.uint32).reshape(-1, 16)
    ranks = data.draw(st.permutations(range(len(rows))))
    number, length = bands(16, 0.75)
    winner = list(range(len(rows)))
    kept: list[int] = []
    for sample in sorted(winner, key=lambda s: ranks[s]):
        for other in kept:
            same = [x == y for x, y in zip(rows[sample], rows[other], strict=True)]
            shared = any(all(same[b * length : (b + 1) * length]) for b in range(number))
            if shared and sum(same) >= 12:
                winner[sample] = other
                break
        else:
            kept.append(sample)
    assert near_duplicates(signed, np.array(ranks, np.int64), threshold=0.75).tolist() == winner


def test_the_threshold_is_the_number_that_was_written() -> None:
    """0.55 * 100 is 55.00000000000001 in binary fractions."""
    assert agreeing_places(100, 0.55) == 55
    assert agreeing_places(128, 0.8) == 103
    assert agreeing_places(128, 1.0) == 128


def _sign_part(texts: list[str]) -> np.ndarray:
    return signatures(texts, ngram=5, permutations=64)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_workers_do_not_matter(planted: tuple[list[str], list[set[int]]], workers: int) -> None:
    texts, _ = planted
    parts = [texts[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        by_threads = list(pool.map(_sign_part, parts))
    for i in range(workers):
        assert (by_threads[i] == _sign_part(texts)[i::workers]).all()


def test_processes_and_hash_seeds_do_not_matter() -> None:
    code = (
        "from mixc.clean.minhash import signatures;"
        "print(signatures(['Größe is \\u0130stanbul 日本語', 'one two three four'], ngram=2, permutations=16).tolist())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, locale in (("1", "C"), ("2", "C.UTF-8"))
    }
    assert len(seen) == 1


@given(st.integers(16, 300), st.integers(50, 99))
def test_bands_find_pairs_at_the_threshold(permutations: int, percent: int) -> None:
    number, rows = bands(permutations, percent / 100)
    assert number * rows <= permutations
    if rows > 1:
        assert 1 - (1 - (percent / 100) ** rows) ** number > 0.9899


def test_constants_and_a_signature_never_change() -> None:
    a, _ = constants(2)
    assert (constants(64)[0][:2] == a).all() and (a % 2 == 1).all()
    golden = signatures(["the quick brown fox jumps over the lazy dog"], ngram=3, permutations=4)
    assert golden.tolist() == GOLDEN


GOLDEN = [[649383976, 1113952004, 227543669, 451225018]]
