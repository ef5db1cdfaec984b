from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.sources.images import evenly
from mixc.sources.names import names
from mixc.sources.normalise import normalise
from mixc.sources.raw import RawRow
from mixc.sources.sample import Reject, Sample
from mixc.spec.schema import Source


def of(values: dict[str, object], images: int, kind: str = "chat", **fields: object) -> Sample | Reject:
    source = Source(path="x", kind=kind, **fields)  # type: ignore[arg-type]
    return normalise(RawRow(row=0, values=values), source, names(source, "jsonl"), (b"i",) * images)


def chat(*texts: str) -> dict[str, object]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


def first(got: Sample | Reject) -> str:
    return got.reason if isinstance(got, Reject) else got.turns[0].text


@pytest.mark.parametrize(
    ("text", "images", "number", "expected"),
    [
        ("q", 2, True, "Image-1: <image>\nImage-2: <image>\nq"),
        ("q", 2, False, "<image>\n<image>\nq"),
        ("q", 1, True, "<image>\nq"),
        ("q", 0, True, "q"),
        ("<image> <image>", 2, True, "<image> <image>"),
        ("<image>", 2, True, "placeholder_mismatch"),
    ],
)
def test_images_without_a_place(text: str, images: int, number: bool, expected: str) -> None:
    assert first(of(chat(text, "a"), images, number_images=number)) == expected


@pytest.mark.parametrize(
    ("text", "frames", "expected"),
    [
        ("q", 2, "Frame-1: <image>\nFrame-2: <image>\nq"),
        ("<video>\nq", 2, "Frame-1: <image>\nFrame-2: <image>\nq"),
        ("<image>\nq", 2, "Frame-1: <image>\nFrame-2: <image>\nq"),
        ("<image> then <image>", 2, "<image> then <image>"),
        ("<image> then <image>", 3, "placeholder_mismatch"),
        ("<video> <video>", 2, "placeholder_mismatch"),
        ("<video> <image>", 2, "placeholder_mismatch"),
        ("<video> q", 0, "image_missing"),
        ("<image> q", 0, "image_missing"),
        ("q", 0, "q"),
    ],
)
def test_frames(text: str, frames: int, expected: str) -> None:
    got = of(chat(text, "a"), frames, frames="video")
    assert first(got) == expected
    assert isinstance(got, Reject) or got.frames == (frames > 0)


def test_a_captioned_video() -> None:
    got = of({"text": "a cat", "video": ["1", "2"]}, 2, "caption", frames="video", prompt="What?")
    assert first(got) == "Frame-1: <image>\nFrame-2: <image>\nWhat?"


@given(count=st.integers(0, 300), most=st.integers(1, 64))
def test_even_sampling(count: int, most: int) -> None:
    got = evenly(list(range(count)), most)
    assert isinstance(got, list) and len(got) == min(count, most)
    assert got == sorted(set(got))
    if count:
        assert got[0] == 0 and (most == 1 or got[-1] == count - 1)
    if count > most > 1:
        assert all(abs(index * (most - 1) - i * (count - 1)) * 2 <= most - 1 for i, index in enumerate(got))
        gaps = {b - a for a, b in pairwise(got)}
        assert max(gaps) - min(gaps) <= 1


SHARE = {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        (SHARE, None, "q"),
        (SHARE, "llava", "q"),
        (SHARE, "openai", "bad_turns"),
        (chat("q", "a"), "openai", "q"),
        (chat("q", "a"), "sharegpt", "bad_turns"),
        ({"messages": [SHARE["messages"][0], {"role": "assistant", "content": "a"}]}, None, "bad_turns"),
    ],
)
def test_the_form_is_told_by_the_spec_or_the_first_turn(values, form: str | None, expected: str) -> None:
    assert first(of(values, 0, messages_format=form)) == expected


def test_openai_image_parts() -> None:
    parts = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "?"},
    ]
    values = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]}
    assert first(of(values, 1)) == "see\n<image>\n?"
