"""Records as words: what is encoded is found again, and what is none is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.measure.facts import RECORD_HEADER, RECORD_IMAGE
from mixc.measure.records import Records, encode, parts

counts = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)), max_size=6)


def records(sizes: list[tuple[int, int, int]]) -> Records:
    """Arbitrary content: every word is another."""
    ends = np.cumsum(np.array(sizes, np.int64).reshape(-1, 3), axis=0)
    tokens, spans, images = ends[-1].tolist() if len(sizes) else (0, 0, 0)
    pictures = np.zeros(images, RECORD_IMAGE)
    pictures["position"] = 5000 + np.arange(images)
    pictures["digest"] = [bytes([i + 1] * 32) for i in range(images)]
    return Records(
        tokens=np.arange(tokens, dtype=np.uint32) + 1000,
        token_ends=ends[:, 0],
        spans=np.arange(2 * spans, dtype=np.uint32).reshape(-1, 2) + 3000,
        span_ends=ends[:, 1],
        images=pictures,
        image_ends=ends[:, 2],
    )


@given(counts)
def test_a_record_is_its_header_tokens_spans_and_images(sizes: list[tuple[int, int, int]]) -> None:
    made = records(sizes)
    words, lengths = encode(made)
    expected = b""
    a = b = c = 0
    for tokens, spans, images in sizes:
        expected += np.array([(tokens, spans, images, 0)], RECORD_HEADER).tobytes()
        expected += made.tokens[a : a + tokens].tobytes()
        expected += made.spans[b : b + spans].tobytes()
        expected += made.images[c : c + images].tobytes()
        a, b, c = a + tokens, b + spans, c + images
    assert words.tobytes() == expected
    assert lengths.sum() == len(expected)


@given(counts, st.randoms(use_true_random=False))
def test_records_are_found_in_any_order(sizes: list[tuple[int, int, int]], random) -> None:
    made = records(sizes)
    words, lengths = encode(made)
    starts = np.cumsum(lengths // 4) - lengths // 4
    order = list(range(len(sizes)))
    random.shuffle(order)
    found = parts(words, starts[order], lengths[order] // 4)
    assert [(int(t), int(s), int(i)) for t, s, i in zip(found.tokens, found.spans, found.images, strict=True)] == [
        sizes[i] for i in order
    ]
    span_ends, image_ends = np.append(0, made.span_ends), np.append(0, made.image_ends)
    spans = [made.spans[span_ends[i] : span_ends[i + 1]] for i in order]
    assert words[found.span_words].tolist() == np.concatenate([*spans, np.zeros((0, 2))]).reshape(-1).tolist()
    images = [made.images[image_ends[i] : image_ends[i + 1]] for i in order]
    assert words[found.image_words].tobytes() == b"".join(part.tobytes() for part in images)


@pytest.mark.parametrize(("start", "length"), [(0, 3), (0, 15), (0, 17), (1, 16), (14, 16), (-1, 16), (16, 4)])
def test_what_is_no_record_is_refused(start: int, length: int) -> None:
    words, lengths = encode(records([(10, 1, 0)]))
    assert lengths.tolist() == [64]
    assert parts(words, np.array([0]), np.array([16])).tokens.tolist() == [10]
    with pytest.raises(ValueError, match=r"^1$"):
        parts(words, np.array([0, start]), np.array([16, length]))
    with pytest.raises(ValueError, match=r"^0$"):
        parts(words[:0], np.array([0]), np.array([16]))
