"""An answer's text out of its tokens, and a program that objects or dies."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.ask.answers import Answers, Generation, Text
from mixc.ask.model import find
from mixc.ask.prompt import Picture, Prompt, prompt
from mixc.errors import MixcError
from mixc.measure.tiles import ONE_TILE
from mixc.sources.sample import Turn


@given(st.lists(st.lists(st.integers(0, 151677), max_size=4), max_size=12))
def test_pieces_are_the_whole(tokenizer, pieces) -> None:
    """Of any tokens: half characters, bytes that are none, control tokens."""
    text = Text(tokenizer)
    said = [text.add(piece) for piece in pieces]
    assert "".join(said) + text.rest() == tokenizer.decode([token for piece in pieces for token in piece])
    assert not any(each.endswith("\ufffd") for each in said)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_characters_come_whole(tokenizer, written) -> None:
    ids, _ = tokenizer.encode_plain([written])
    text = Text(tokenizer)
    said = "".join([text.add([token]) for token in ids.tolist()]) + text.rest()
    assert said == unicodedata.normalize("NFC", written)


def test_thoughts_are_shown_with_their_tags(tokenizer) -> None:
    text = Text(tokenizer)
    ids, _ = tokenizer.encode_plain(["\nOne, two.\n"])
    said = [text.add([token]) for token in [151667, *ids.tolist(), 151668]]
    assert (said[0], said[-1], "".join(said)) == ("<think>", "</think>", "<think>\nOne, two.\n</think>")


@pytest.fixture(scope="module")
def answers(model, environment):
    """Opened once for all of the module."""
    before = dict(os.environ)
    os.environ.update(environment)
    with Answers(model) as opened:
        yield opened
    os.environ.clear()
    os.environ.update(before)


def ask(answers: Answers, *prompts: Prompt, **how: object) -> list[tuple[str, str | None]]:
    texts, ends = [""] * len(prompts), [None] * len(prompts)
    for part in answers.ask(prompts, Generation(**{"max_new_tokens": 8, **how})):
        texts[part.id] += part.text
        ends[part.id] = part.end or ends[part.id]
    return list(zip(texts, ends, strict=True))


@pytest.mark.slow
def test_one_bad_prompt_among_others(answers, model, images) -> None:
    good = prompt([Turn("user", "Hello")], [], model)
    picture = Picture(images / "one.png", (ONE_TILE,))
    seeing = prompt([Turn("user", "<image>\nHello")], [picture], model)
    half = Prompt(seeing.tokens, [Picture(images / "half.png", (ONE_TILE,))])
    odd = Prompt(seeing.tokens[100:], [picture])
    expected = [*ask(answers, good), *ask(answers, seeing)]
    assert all(end == "length" for _, end in expected)
    found = ask(answers, good, half, seeing, odd)
    assert [found[0], found[2]] == expected
    assert found[1][1] == found[3][1] == "error"
    assert "half.png" in found[1][0] and "places" in found[3][0]
    assert ask(answers) == []


@pytest.mark.slow
def test_drawn_answers_are_the_seeds(answers, model) -> None:
    good = prompt([Turn("user", "Hello")], [], model)
    first = ask(answers, good, temperature=2.0, seed=1)
    assert ask(answers, good, good, temperature=2.0, seed=1) == first * 2
    assert ask(answers, good, temperature=2.0, seed=2) != first


@pytest.mark.slow
def test_weights_that_are_not_whole_are_refused_once(run, cache, tmp_path, capfd) -> None:
    shutil.copytree(run / "tune", tmp_path / "tune")
    with (tmp_path / "tune/model.safetensors").open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"0123456789")
    opened = Answers(find(tmp_path / "tune", tokenizer=None, template=None, cache=cache))
    with pytest.raises(MixcError, match=r"not those that config\.json was written for"), opened:
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_program_that_dies_is_told(model) -> None:
    question = prompt([Turn("user", "Hello")], [], model)
    with pytest.raises(MixcError, match="the model's program has ended") as error, Answers(model) as answers:
        parts = answers.ask([question], Generation(max_new_tokens=100_000))
        next(parts)
        os.kill(answers._process.pid, signal.SIGKILL)
        list(parts)
    assert "killed by SIGKILL" in error.value.why and "--batch-size" in error.value.mend
    assert answers._process.returncode == -signal.SIGKILL
    with pytest.raises(MixcError, match="the model's program has ended"), Answers(model) as answers:
        os.kill(answers._process.pid, signal.SIGKILL)
        answers._process.wait()
        list(answers.ask([question], Generation()))


@pytest.mark.slow
def test_leaving_in_the_middle_ends_the_program(model) -> None:
    question = prompt([Turn("user", "Hello")], [], model)
    with pytest.raises(KeyboardInterrupt), Answers(model) as answers:
        next(answers.ask([question], Generation(max_new_tokens=100_000)))
        raise KeyboardInterrupt
    assert answers._process.returncode is not None


@pytest.mark.slow
def test_its_folder_may_be_gone(model) -> None:
    missing = dataclasses.replace(model, folder=Path("/nowhere"))
    with pytest.raises(MixcError, match="nowhere"), Answers(missing):
        pass
