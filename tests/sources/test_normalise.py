"""Rows to samples: what each kind asks, and that no row, however strange, makes it raise."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.sources.names import names
from mixc.sources.normalise import COLUMN_TEXT_LIMIT, DEFAULT_PROMPTS, normalise
from mixc.sources.raw import DETAIL_LIMIT, RawRow
from mixc.sources.sample import IMAGE_PLACEHOLDER, Reject, Sample
from mixc.spec.schema import Source


def of(kind: str, values: dict[str, Any], images: int = 0, **fields: Any) -> Sample | Reject:
    source = Source(path="x", kind=kind, **fields)  # type: ignore[arg-type]
    return normalise(RawRow(row=7, values=values), source, names(source, "jsonl"), (b"i",) * images)


def turns(kind: str, values: dict[str, Any], images: int = 0, **fields: Any) -> list[tuple[str, str]]:
    sample = of(kind, values, images, **fields)
    assert isinstance(sample, Sample), sample
    return [(turn.role, turn.text) for turn in sample.turns]


def share(*pairs: str) -> dict[str, Any]:
    return {"conversations": [dict(zip(("from", "value"), pair.split(":", 1), strict=True)) for pair in pairs]}


@pytest.mark.parametrize("kind", ["caption", "ocr"])
def test_captions_and_pages(kind: str) -> None:
    assert turns(kind, {"text": " as it came \n"}, 1) == [
        ("user", "<image>\n" + DEFAULT_PROMPTS[kind]),
        ("assistant", " as it came \n"),
    ]
    assert turns(kind, {"text": "t"}, 2, prompt="Say.")[0][1] == "<image>\n<image>\nSay."
    assert turns(kind, {"text": "t"}, 1, prompt="Say: <image>")[0][1] == "Say: <image>"
    assert turns(kind, {"text": "an answer may say <image>"}, 1)[1][1] == "an answer may say <image>"
    assert of(kind, {"text": "t", "image": []}).reason == "image_missing"  # type: ignore[union-attr]
    assert of(kind, {"text": "t"}).reason == "missing_value"  # type: ignore[union-attr]


def test_chat_formats_mean_the_same() -> None:
    expected = [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert turns("chat", share("system:s", "human:q", "gpt:a")) == expected
    assert turns("chat", share("system:s", "user:q", "assistant:a")) == expected
    open_ai = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    assert turns("chat", {"messages": open_ai}) == expected
    parts = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in open_ai]
    assert turns("chat", {"messages": parts}) == expected
    # as Parquet gives a struct of both
    both = [turn | {"from": None, "value": None} for turn in open_ai]
    assert turns("chat", {"messages": both}) == expected
    assert turns("chat", {"talk": open_ai}, messages="talk") == expected
    assert turns("chat", {"conversations": None, "messages": open_ai}) == expected


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["I", "q"], "<image>\nq"),
        (["q", "I"], "q\n<image>"),
        (["a", "I", "b", "c"], "a\n<image>\nbc"),
        (["I", "I", "q"], "<image>\n<image>\nq"),
        (["I", "", "q"], "<image>\nq"),
        (["I"], "<image>"),
    ],
)
def test_content_parts(parts: list[str], text: str) -> None:
    content = [{"type": "image", "text": None} if part == "I" else {"type": "text", "text": part} for part in parts]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    assert turns("chat", {"messages": messages}, parts.count("I"))[0][1] == text


def test_placeholders() -> None:
    assert turns("chat", share("human:q", "gpt:a"), 2)[0][1] == "<image>\n<image>\nq"
    assert turns("chat", share("system:<image>", "human:q", "gpt:a"), 1)[:2] == [
        ("system", "<image>"),
        ("user", "<image>\nq"),
    ]
    spread = share("human:<image>", "gpt:<image>", "human:and <image>?", "gpt:a")
    assert turns("chat", spread, 2) == [
        ("user", "<image>"),
        ("assistant", "<image>"),
        ("user", "and <image>?"),
        ("assistant", "a"),
    ]


@pytest.mark.parametrize(
    ("values", "images", "reason"),
    [
        (share("human:<image>", "gpt:a"), 0, "image_missing"),
        (share("human:<image>", "gpt:a"), 2, "placeholder_mismatch"),
        (share("human:<image><image>", "gpt:a"), 1, "placeholder_mismatch"),
        (share("human:q"), 0, "bad_turns"),
        (share("gpt:a"), 0, "bad_turns"),
        (share("human:q", "human:q", "gpt:a"), 0, "bad_turns"),
        (share("human:q", "gpt:a", "gpt:a"), 0, "bad_turns"),
        (share("human:q", "gpt:a", "human:q"), 0, "bad_turns"),
        (share("human:q", "system:s", "gpt:a"), 0, "bad_turns"),
        (share("system:s", "system:s", "human:q", "gpt:a"), 0, "bad_turns"),
        (share("system:s"), 0, "bad_turns"),
        (share("human:q", "tool:a"), 0, "bad_turns"),
        ({"conversations": []}, 0, "bad_turns"),
        ({"conversations": [{"value": "q"}]}, 0, "bad_turns"),
        ({"conversations": [{"from": ["human"], "value": "q"}]}, 0, "bad_turns"),
        (share("human:q", "gpt: \n\t\u3000"), 0, "empty_text"),
        (share("human:q", "gpt:"), 0, "empty_text"),
        ({}, 0, "missing_value"),
        ({"conversations": None}, 0, "missing_value"),
        ({"conversations": [{"from": "human"}]}, 0, "missing_value"),
        ({"conversations": "q"}, 0, "wrong_type"),
        ({"conversations": {"from": "human"}}, 0, "wrong_type"),
        ({"conversations": ["q"]}, 0, "wrong_type"),
        ({"conversations": [{"from": "human", "value": 3}]}, 0, "wrong_type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 0, "wrong_type"),
        ({"messages": [{"role": "user", "content": ["q"]}]}, 0, "wrong_type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 0, "wrong_type"),
        (share("human:\ud800", "gpt:a"), 0, "not_utf8"),
        (share("human:q", "gpt:a") | {"note": "\udfff"}, 0, "not_utf8"),
        (share("human:q", "gpt:a") | {"\udfff": 1}, 0, "not_utf8"),
    ],
)
def test_bad_conversations(values: dict[str, Any], images: int, reason: str) -> None:
    got = of("chat", values, images)
    assert isinstance(got, Reject) and got.reason == reason and got.row == 7


def test_an_empty_system_turn_is_none() -> None:
    assert turns("chat", share("system: ", "human:q", "gpt:a")) == [("user", "q"), ("assistant", "a")]


def test_text() -> None:
    assert of("text", {"text": "a\0b"}) == Sample(row=7, text="a\0b")
    assert of("text", {"body": "b", "text": "t"}, text="body") == Sample(row=7, text="b", columns={"text": "t"})
    for value, reason in [
        ("", "empty_text"),
        (None, "missing_value"),
        (3, "wrong_type"),
        ("\udc80", "not_utf8"),
    ]:
        assert of("text", {"text": value}).reason == reason  # type: ignore[union-attr]


def test_columns() -> None:
    values = {
        "text": "t",
        "z": True,
        "a": None,
        "i": -(1 << 63),
        "u": (1 << 64) - 1,
        "huge": 1 << 64,
        "f": 0.5,
        "inf": math.inf,
        "nan": math.nan,
        "s": "x" * COLUMN_TEXT_LIMIT,
        "long": "x" * (COLUMN_TEXT_LIMIT + 1),
        "list": [1],
        "dict": {},
        "bytes": b"b",
        "image": "kept: this kind has no image",
    }
    sample = of("text", values)
    assert isinstance(sample, Sample)
    assert list(sample.columns) == sorted(sample.columns)
    assert sample.columns == {
        "z": True,
        "a": None,
        "i": -(1 << 63),
        "u": (1 << 64) - 1,
        "f": 0.5,
        "inf": math.inf,
        "nan": None,
        "s": "x" * COLUMN_TEXT_LIMIT,
        "image": "kept: this kind has no image",
    }
    assert sample.columns["z"] is True


WORDS = st.sampled_from(
    [
        *("from", "value", "role", "content", "type", "text", "image", "human", "gpt", "user", "assistant", "system"),
        *("messages", "conversations", "path", "bytes", IMAGE_PLACEHOLDER, "", " ", "\ud800"),
    ]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=25,
)
TURN = (
    st.fixed_dictionaries({"from": WORDS, "value": ANY}) | st.fixed_dictionaries({"role": WORDS, "content": ANY}) | ANY
)


@given(
    kind=st.sampled_from(["text", "caption", "ocr", "chat"]),
    values=st.dictionaries(WORDS | st.text(max_size=4), ANY, max_size=6),
    chat=st.lists(TURN, max_size=5) | ANY,
    images=st.integers(0, 3),
    prompt=st.none() | st.text(max_size=9),
)
def test_it_never_raises_and_keeps_its_promises(
    kind: str, values: dict[str, Any], chat: Any, images: int, prompt: str | None
) -> None:
    got = of(kind, values | {"messages": chat}, images, prompt=prompt)
    if isinstance(got, Reject):
        assert got.row == 7 and len(got.detail) <= DETAIL_LIMIT and got.detail.encode()
        return
    for value in got.columns.values():
        assert value is None or isinstance(value, bool | int | float | str)
        assert not isinstance(value, float) or not math.isnan(value)
    "".join(got.columns).encode()  # raises where a name is not UTF-8
    if kind == "text":
        assert got.text and got.text.encode().strip() and not got.turns and not got.images
        return
    roles = [turn.role for turn in got.turns]
    body = roles[roles[0] == "system" :]
    assert body == ["user", "assistant"] * (len(body) // 2) and body
    assert sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in got.turns if turn.role == "user") == images
    assert all(turn.text.encode() and turn.text.strip() for turn in got.turns if turn.role == "assistant")
