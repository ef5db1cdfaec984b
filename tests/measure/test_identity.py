"""Names of samples: pinned values, and what must and must not change them."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from mixc.measure.identity import columns_digest, content_digest, image_digest, sample_id
from mixc.sources.sample import Turn

CHAT = (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A cat."))
IMAGE = image_digest(b"not really an image")


def test_golden_values() -> None:
    """Published builds are named by these. A change here renames every sample that anyone has."""
    assert content_digest("Größe", (), ()).hex() == "41f64215f886aa3294a0fc4a9edcb948"
    assert content_digest(None, CHAT, [IMAGE]).hex() == "d3fa9ac72e1aa5e05a7dfbfb3a523320"
    assert sample_id("captions", content_digest(None, CHAT, [IMAGE])).hex() == "28160fc34c75dda5a5339477e5ecfe9c"
    assert columns_digest({"b": True, "i": -7, "f": 0.5, "s": "é", "n": None}) == 577995388816012843
    assert columns_digest({}) == 13045506536792640623


def test_the_encoding_is_as_documented() -> None:
    text = "Größe".encode()
    expected = b"mixc sample 1" + b"\0" + len(text).to_bytes(8, "little") + text + bytes(4)
    assert content_digest("Größe", (), ()) == blake3(expected).digest()[:16]


texts = st.text(max_size=6)
turns = st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=4).map(
    tuple
)
images = st.lists(st.sampled_from([bytes([i]) * 32 for i in range(3)]), max_size=3).map(tuple)
contents = st.one_of(
    st.tuples(texts, st.just(()), images), st.tuples(st.none(), turns, images), st.tuples(texts, st.just(()), images)
)


@given(contents, contents)
def test_equal_names_mean_equal_content(a: tuple, b: tuple) -> None:
    assert (content_digest(*a) == content_digest(*b)) == (a == b)


def test_text_moved_over_a_boundary_is_another_content() -> None:
    one = (Turn("user", "ab"), Turn("assistant", "c"))
    other = (Turn("user", "a"), Turn("assistant", "bc"))
    assert content_digest(None, one, ()) != content_digest(None, other, ())


def test_the_source_is_part_of_the_id_only() -> None:
    content = content_digest("t", (), ())
    assert sample_id("a", content) != sample_id("b", content)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)


@given(st.dictionaries(texts, scalars, max_size=5), st.randoms())
def test_columns_count_by_name_not_by_order_and_null_is_absent(columns: dict, random: object) -> None:
    items = list(columns.items())
    random.shuffle(items)
    assert columns_digest(dict(items)) == columns_digest(columns)
    assert columns_digest({n: v for n, v in items if v is not None}) == columns_digest(columns)


@pytest.mark.parametrize(
    ("a", "b"),
    [({"x": 1}, {"x": 1.0}), ({"x": 1}, {"x": True}), ({"x": "1"}, {"x": 1}), ({"x": 1}, {"y": 1}), ({"x": 1}, {})],
)
def test_columns_that_differ_have_other_digests(a: dict, b: dict) -> None:
    assert columns_digest(a) != columns_digest(b)


def test_integers_of_any_size_and_nan_have_a_digest() -> None:
    assert columns_digest({"x": 10**9000}) != columns_digest({"x": -(10**9000)})
    assert columns_digest({"x": float("nan")}) == columns_digest({"x": -float("nan")})


def test_frames_are_another_content_than_images() -> None:
    turns = (Turn("user", "<image>"), Turn("assistant", "a"))
    assert content_digest(None, turns, [b"d" * 32]) != content_digest(None, turns, [b"d" * 32], frames=True)
