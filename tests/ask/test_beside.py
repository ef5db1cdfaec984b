"""An export with its tokenizer: opened by transformers, it makes the same prompts; asked here, it gives the same answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig

from mixc.ask.beside import jinja, write
from mixc.ask.model import Model, find
from mixc.ask.prompt import Picture, prompt, question
from mixc.measure.template import TEMPLATES, template_named
from mixc.measure.tiles import Grid, grid
from mixc.sources.sample import Turn
from runtime.images import normalise, tile
from tests.ask.conftest import GEOMETRY, Mixc

pytestmark = pytest.mark.slow
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def exports(mixc: Mixc, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for form in ("released", "transformers"):
        done = mixc("export", run, "--out", folder / form, "--format", form)
        assert done.stdout == f"{folder / form}: sail-vl-tiny-v1, {form}\n"
    return {form: folder / form for form in ("released", "transformers")}


def test_the_folder_is_whole(exports: dict[str, Path], tokenizer) -> None:
    assert sorted(path.name for path in exports["released"].iterdir()) == FILES
    assert sorted(path.name for path in exports["transformers"].iterdir()) == sorted(
        [*FILES, "preprocessor_config.json"]
    )
    assert sorted(path.name for path in exports["released"].parent.iterdir()) == ["released", "transformers"]
    assert (exports["released"] / "tokenizer.json").read_bytes() == tokenizer.path.read_bytes()
    for folder in exports.values():
        assert json.loads((folder / "tokenizer_config.json").read_text())["think_tokens"] is False


CHATS = [
    ([("user", "What is it? 中文")], 0),
    ([("user", "What is it?")], 1),
    ([("user", "Same?\n")], 3),
    ([("system", "Be brief. 'x'"), ("user", "  Hi"), ("assistant", "Ho\n\n"), ("user", "{{ 1 }} \\n {% if %}")], 1),
]


@pytest.mark.parametrize(("turns", "images"), CHATS)
@pytest.mark.parametrize("form", ["released", "transformers"])
def test_transformers_tokenizer_makes_the_same_prompt(exports, model: Model, form, turns, images) -> None:
    theirs = AutoTokenizer.from_pretrained(exports[form])
    asked = [Turn(role, text) for role, text in turns]
    first = next(place for place, turn in enumerate(asked) if turn.role == "user")
    asked[first] = Turn("user", question(asked[first].text, images=images))
    expected = prompt(asked, [Picture(Path("x"), (Grid(1, 1, False),))] * images, model).tokens

    messages: list[dict[str, object]] = [{"role": role, "content": text} for role, text in turns]
    messages[first]["content"] = [{"type": "image"}] * images + [{"type": "text", "text": turns[first][1]}]
    written = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    place = {"released": "<image>", "transformers": "<IMG_CONTEXT>"}[form]
    assert written.count(place) == images
    written = written.replace(place, f"<img>{'<IMG_CONTEXT>' * 256}</img>")
    assert theirs(written)["input_ids"] == expected
    if not images:
        plain = [{"role": role, "content": text} for role, text in turns]
        assert theirs.apply_chat_template(plain, add_generation_prompt=True, return_dict=False) == expected
    answered = theirs.apply_chat_template(messages, tokenize=False)
    assert answered.endswith("<|im_end|>")


def test_an_earlier_thought_is_the_same_prompt_there(tokenizer, tmp_path: Path) -> None:
    """For a model that has its tags as tokens; and they are shown, whatever else is not."""
    thinking = Model(tmp_path, GEOMETRY, tokenizer, template_named("univl-chat", think=True))
    write(tmp_path, thinking, "released")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    turns = [
        ("user", question("1+1?", thinking=True)),
        ("assistant", "<think>\nOne, two.\n</think>\n\n\\boxed{2}"),
        ("user", "Sure?"),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    found = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert found == prompt([Turn(*turn) for turn in turns], [], thinking).tokens
    assert found.count(151667) == found.count(151668) == 2
    assert theirs.decode([151667, 9707, 151668, 151645], skip_special_tokens=True) == "<think>Hello</think>"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["think_tokens"] is True


def test_what_ends_an_answer(exports) -> None:
    for folder in exports.values():
        theirs = AutoTokenizer.from_pretrained(folder)
        assert (theirs.eos_token, theirs.pad_token, theirs.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
        assert theirs.decode([151669, 9707, 151645], skip_special_tokens=True) == "Hello"
        settings = GenerationConfig.from_pretrained(folder)
        assert (settings.eos_token_id, settings.pad_token_id, settings.do_sample) == ([151645, 151643], 151643, False)
    theirs = AutoTokenizer.from_pretrained(exports["transformers"])
    assert (theirs.start_image_token, theirs.context_image_token, theirs.end_image_token_id) == (
        "<img>",
        "<IMG_CONTEXT>",
        151670,
    )


def test_transformers_image_processor_cuts_alike(exports) -> None:
    """The same grids, thumbnails and order. Bytes differ by a few where Pillow resizes columns first, as it may since 13.0."""
    theirs = AutoImageProcessor.from_pretrained(exports["transformers"])
    random = np.random.default_rng(0)
    for width, height in random.integers(1, 3000, (1000, 2)).tolist():
        assert theirs.get_number_of_image_patches(height, width) == grid(width, height, GEOMETRY).tiles
    for width, height in [(300, 200), (448, 448), (1000, 700), (60, 900)]:
        x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        file = io.BytesIO()
        Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)).save(file, "PNG")
        cols, rows, thumbnail = grid(width, height, GEOMETRY)
        ours = normalise(torch.from_numpy(tile(file.getvalue(), cols=cols, rows=rows, thumbnail=thumbnail, side=448)))
        found = theirs(images=Image.open(file), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, ours, atol=3 / 255 / 0.224, rtol=0)


def test_an_export_answers_as_its_run(mixc: Mixc, exports, run: Path, images: Path) -> None:
    asked = ("What is it?", "-i", images / "wide.png", "--json", "--max-new-tokens", 6)
    ours = json.loads(mixc("chat", run, *asked).stdout)
    theirs = json.loads(mixc("chat", exports["released"], *asked, "--model", "sail-vl-tiny-v1").stdout)
    for found in (ours, theirs):
        del found["folder"], found["weights"]
    assert ours == theirs
    assert "export as released" in mixc("chat", exports["transformers"], "Hi", status=2).stderr


def test_another_template_comes_along(mixc: Mixc, run: Path, cache: Path, tmp_path: Path) -> None:
    mixc("export", run / "align", "-o", tmp_path / "out", "--template", "chatml")
    assert find(tmp_path / "out", tokenizer=None, template=None, cache=cache).template.name == "chatml"
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    written = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert written == "<|im_start|>user\nHi<|im_end|>"
    assert jinja(TEMPLATES["chatml"], "<image>") == theirs.chat_template


def test_mistakes_leave_nothing(mixc: Mixc, run: Path, exports, tmp_path: Path) -> None:
    for arguments, says in [
        (["none"], "no model here"),
        ([exports["released"]], "not a description of weights"),
        ([run, "--format", "onnx"], "--format is released or transformers"),
        ([run, "--tokenizer", "none"], "no tokenizer 'none'"),
    ]:
        done = mixc("export", *arguments, "--out", tmp_path / "out", status=2)
        assert says in done.stderr and list(tmp_path.iterdir()) == []
    assert "something is in this folder" in mixc("export", run, "--out", exports["released"], status=2).stderr
