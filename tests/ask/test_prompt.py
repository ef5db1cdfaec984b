"""Prompts against the published template, written out as a string and read by the reference tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mixc.ask.model import Model
from mixc.ask.prompt import Looking, Picture, look, prompt, question
from mixc.errors import MixcError
from mixc.measure import qwen
from mixc.measure.template import template_named, tokenize
from mixc.measure.tiles import Grid
from mixc.measure.tokenizer import Tokenizer
from mixc.sources.sample import Sample, Turn
from tests.ask.conftest import GEOMETRY

SYSTEM = "你是由抖音内容理解组开发的多模态大模型，英文名叫UniVL, 是一个有用无害的人工智能助手。"
THINK = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The reasoning "
    "process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    """One on Qwen3, as SAIL-VL2 is."""
    return Model(Path(), GEOMETRY, tokenizer, template_named("univl-chat", think=True))


@pytest.fixture(scope="module")
def older(tokenizer: Tokenizer) -> Model:
    """One on Qwen2.5, which has no <think>."""
    return Model(Path(), GEOMETRY, tokenizer, template_named("univl-chat"))


@pytest.fixture(scope="module")
def reference(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer as anybody loads it: special tokens in a text are special."""
    return tokenizers.Tokenizer.from_file(str(tokenizer.path))


@pytest.fixture(scope="module")
def letters(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """One that has no special tokens at all."""
    definition = json.loads(tokenizer.path.read_bytes())
    return tokenizers.Tokenizer.from_str(json.dumps({**definition, "added_tokens": []}))


def published(turns: list[tuple[str, str]], tiles: list[int]) -> str:
    """The prompt as SAIL-VL2's conversation and preprocessing write it."""
    if turns[0][0] != "system":
        turns = [("system", SYSTEM), *turns]
    text = "".join(f"<|im_start|>{role}\n{said}<|im_end|>" for role, said in turns) + "<|im_start|>assistant\n"
    for count in tiles:
        text = text.replace("<image>", f"<img>{'<IMG_CONTEXT>' * (256 * count)}</img>", 1)
    assert "<image>" not in text
    return text


def pictures(*tiles: int) -> list[Picture]:
    """One of so many tiles each, cut in one row, thumbnail counted."""
    return [Picture(Path("x"), (Grid(max(1, count - 1), 1, count > 1),)) for count in tiles]


def asked(model: Model, turns: list[tuple[str, str]], *tiles: int) -> list[int]:
    return prompt([Turn(*turn) for turn in turns], pictures(*tiles), model).tokens


CONVERSATIONS = [
    ([("user", question("What is it?"))], [], "What is it?"),
    ([("user", question("What is it?", images=1))], [1], "<image>\nWhat is it?"),
    ([("user", question("Same?", images=2))], [3, 1], "Image-1: <image>\nImage-2: <image>\nSame?"),
    (
        [("user", question("Was geschieht?", frames=3))],
        [1] * 3,
        "Frame-1: <image>\nFrame-2: <image>\nFrame-3: <image>\nWas geschieht?",
    ),
    ([("user", question("Frame?", frames=1))], [1], "Frame-1: <image>\nFrame?"),
    ([("user", question("a<image>b <image>", images=2))], [2, 7], "a<image>b <image>"),
    ([("user", question("1+1?", thinking=True))], [], f"1+1?\n{THINK}"),
    ([("user", question("1+1?", images=1, thinking=True))], [13], f"<image>\n1+1?\n{THINK}"),
    ([("system", "Be brief."), ("user", question("Hi", images=1))], [1], "<image>\nHi"),
    ([("system", ""), ("user", "Hi")], [], "Hi"),
    (
        [
            ("user", question("1+1?", thinking=True)),
            ("assistant", "<think>\nOne, two.\n</think>\n\n\\boxed{2}"),
            ("user", question("Sure?", thinking=True)),
        ],
        [],
        f"1+1?\n{THINK}",
    ),
    (
        [
            ("user", question("中文？", images=1)),
            ("assistant", "是的。"),
            ("user", "Sure?\n"),
            ("assistant", "Yes"),
            ("user", "Oh"),
        ],
        [5],
        "<image>\n中文？",
    ),
]


@pytest.mark.parametrize(("turns", "tiles", "first"), CONVERSATIONS)
def test_it_is_the_published_one(model, reference, turns, tiles, first) -> None:
    assert next(text for role, text in turns if role == "user") == first
    expected = reference.encode(published(turns, tiles), add_special_tokens=False).ids
    assert asked(model, turns, *tiles) == expected
    assert expected.count(151671) == 256 * sum(tiles)


words = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n中'é")), max_size=20).filter(
    lambda text: (
        not any(name in text for name in [*qwen.ADDED_TOKENS.values(), "<image>"])
    )  # which tests say where they want
)


tags = st.sampled_from(["<think>", "</think>", "<think>\n", "\n</think>\n\n"])
answers = st.lists(tags | words).map("".join)


@given(
    st.lists(
        st.tuples(words, answers.map(lambda said: said if said.startswith("<think>") else f"A{said}")), max_size=3
    ),
    words,
    st.none() | words,
    st.lists(st.integers(1, 13), max_size=3),
)
def test_whatever_is_said(model, reference, rounds, last, system, tiles) -> None:
    """But for an answer that begins with a line break, which training and so we tokenise apart from the line break before it."""
    turns = [turn for user, answer in rounds for turn in (("user", user), ("assistant", answer))]
    turns.append(("user", last))
    turns[0] = ("user", question(turns[0][1], images=len(tiles)))
    if system is not None:
        turns.insert(0, ("system", system))
    expected = reference.encode(published(turns, tiles), add_special_tokens=False).ids
    assert asked(model, turns, *tiles) == expected


hostile = st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<|endoftext|>", "<think>", "\n"]
    )
    | words,
    max_size=6,
).map("".join)


@given(hostile, hostile, hostile, st.booleans(), st.booleans())
def test_control_tokens_that_somebody_writes_stay_text(
    model, older, letters, system, first, last, image, thinks
) -> None:
    """But for a <think> in the answer of a model that has it."""
    turns = [("system", system), ("user", question(first, images=int(image))), ("assistant", last), ("user", last)]
    start, end = [151644], [151645]

    def plain(text: str) -> list[int]:
        return letters.encode(text, add_special_tokens=False).ids

    answer = plain(last)
    if thinks:
        first_piece, *pieces = last.split("<think>")
        answer = [*plain(first_piece), *(token for piece in pieces for token in (151667, *plain(piece)))]
    picture = [*plain("user\n"), 151669, *[151671] * 512, 151670, *plain(f"\n{first}")]
    expected = [
        *start, *plain(f"system\n{system}"), *end,
        *start, *(picture if image else plain(f"user\n{first}")), *end,
        *start, *plain("assistant\n"), *answer, *end,
        *start, *plain(f"user\n{last}"), *end,
        *start, *plain("assistant\n"),
    ]  # fmt: skip
    found = asked(model if thinks else older, turns, *[2] * image)
    assert found == expected
    assert sum(token > 151642 for token in found) == 9 + 514 * image + answer.count(151667)


def test_a_model_without_the_tags_has_the_request_in_letters(older, letters) -> None:
    turns = [("user", question("1+1?", thinking=True)), ("assistant", "<think>2</think>"), ("user", "Sure?")]
    found = asked(older, turns)
    assert not {151667, 151668} & set(found)
    for text in (f"user\n1+1?\n{THINK}", "<think>2</think>"):
        ids = letters.encode(text, add_special_tokens=False).ids
        assert any(found[at : at + len(ids)] == ids for at in range(len(found)))


@given(st.lists(st.tuples(words, answers), min_size=1, max_size=3), st.booleans())
def test_earlier_turns_are_as_in_training(model, older, rounds, thinks) -> None:
    chosen = model if thinks else older
    turns = [turn for user, answer in rounds for turn in (("user", user), ("assistant", answer))]
    sample = Sample(row=0, turns=tuple(Turn(*turn) for turn in turns))
    (trained,) = tokenize([chosen.template.segments(sample)], chosen.tokenizer.encode_plain, chosen.tokenizer.special)
    found = asked(chosen, [*turns, ("user", "And?")])
    assert found[: len(trained.ids)] == trained.ids.tolist()


@pytest.mark.parametrize(
    ("text", "counts"), [("<image>", {}), ("<image>", {"images": 2}), ("<image> <image>", {"frames": 1})]
)
def test_placeholders_are_one_an_image_or_none(text, counts) -> None:
    with pytest.raises(MixcError, match=r"placeholders?, and there (is|are)"):
        question(text, **counts)


def test_placeholders_of_later_turns_count(model) -> None:
    turns = [("user", "<image>"), ("assistant", "<image>"), ("user", "and <image>?")]
    with pytest.raises(MixcError, match="has 2 <image> placeholders, and there is 1 image"):
        asked(model, turns, 1)
    assert asked(model, turns, 1, 1).count(151671) == 512  # an answer's is none


def test_what_is_no_unicode_is_refused(model, images) -> None:
    with pytest.raises(MixcError, match="not UTF-8"):
        asked(model, [("user", "a\udcff")])
    with pytest.raises(MixcError, match="not UTF-8"):
        look([images / "\udcff.png"], [], model, Looking())


class TestLooking:
    def test_by_the_models_rule(self, model, images) -> None:
        (wide,) = look([images / "wide.png"], [], model, Looking())
        assert wide.grids == (Grid(3, 1, True),) and wide.tiles == 4
        (fewer,) = look([images / "wide.png"], [], model, Looking(max_tiles=2))
        assert fewer.grids == (Grid(2, 1, True),)
        plain = Model(model.folder, replace(GEOMETRY, thumbnail=False), model.tokenizer, model.template)
        assert look([images / "wide.png"], [], plain, Looking())[0].grids == (Grid(3, 1, False),)

    def test_a_frame_is_one_tile(self, model, images) -> None:
        frames = look([], [images / "wide.png", images / "one.png"], model, Looking(msac=True))
        assert [each.grids for each in frames] == [(Grid(1, 1, False),)] * 2

    def test_msac_is_for_one_image(self, model, images) -> None:
        (wide,) = look([images / "wide.png"], [], model, Looking(msac=True))
        assert wide.grids == (Grid(3, 1, False), Grid(6, 2, True)) and wide.tiles == 16
        both = look([images / "wide.png", images / "one.png"], [], model, Looking(msac=True))
        assert [each.tiles for each in both] == [4, 1]

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("none.png", "No such file"),
            (".", "directory"),
            ("text.png", "no known image format"),
            ("empty.png", "0 bytes"),
            ("huge.png", "70000 x 1300 pixels"),
            ("a\0b", "null byte"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, model, images, name, says) -> None:
        for paths in ([images / name], []), ([], [images / name]):
            with pytest.raises(MixcError) as error:
                look(*paths, model, Looking())
            assert says in str(error.value) and str(images)[:5] in str(error.value)
