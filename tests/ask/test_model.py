"""Which model is asked, with which tokenizer and template, and every folder that has none."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixc.ask.model import Model, find
from mixc.errors import MixcError
from mixc.measure.template import TEMPLATES, template_named

ANY: dict[str, Any] = {"tokenizer": None, "template": None}


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run, to be spoilt."""
    for path in ("run.json", "align/config.json", "tune/config.json"):
        (tmp_path / "run" / path).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(run / path, tmp_path / "run" / path)
    return tmp_path / "run"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """What a released model's config.json says, as far as it is asked."""
    folder = tmp_path / "released"
    folder.mkdir()
    config = {
        "model_type": "sailvl",
        "template": "univl-chat",
        "force_image_size": 448,
        "downsample_ratio": 0.5,
        "max_dynamic_patch": 10,
        "vision_config": {"patch_size": 14},
        "llm_config": {"model_type": "qwen3", "vocab_size": 151936},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_is_its_last_stage(run, cache, copy) -> None:
    assert find(run, **ANY, cache=cache).folder == run / "tune"
    assert find(run / "align", **ANY, cache=cache).folder == run / "align"
    shutil.rmtree(copy / "tune")
    assert find(copy, **ANY, cache=cache).folder == copy / "align"
    shutil.rmtree(copy / "align")
    with pytest.raises(MixcError, match="no stage of this run is trained"):
        find(copy, **ANY, cache=cache)


def test_a_released_one_is_read_from_its_config(release, cache, tokenizer) -> None:
    model = find(release, **ANY, cache=cache)
    assert (model.geometry.tokens_per_tile, model.geometry.max_tiles, model.geometry.thumbnail) == (256, 10, True)
    assert (model.tokenizer.digest, model.template.name) == (tokenizer.digest, "univl-chat")
    change(release / "config.json", template="sailvl-chat")  # whose words nobody has published
    assert find(release, **ANY, cache=cache).template.name == "univl-chat"
    change(release / "config.json", template="chatml")
    assert find(release, **ANY, cache=cache).template.name == "chatml"
    assert find(release, tokenizer=None, template="univl-chat", cache=cache).template.name == "univl-chat"


def test_a_released_one_has_the_tags_of_thoughts_if_its_language_model_has(release, cache, tokenizer, tmp_path) -> None:
    assert find(release, **ANY, cache=cache).template.think
    assert find(release, tokenizer=None, template="chatml", cache=cache).template == template_named(
        "chatml", think=True
    )
    for kind, expected in (("qwen2", False), ("qwen3_moe", True)):
        change(release / "config.json", llm_config={"model_type": kind, "vocab_size": 151936})
        assert find(release, **ANY, cache=cache).template.think == expected
    # an export says what the model was trained with, whatever its shape
    (release / "tokenizer_config.json").write_text('{"think_tokens": false, "eos_token": "<|im_end|>"}')
    assert not find(release, **ANY, cache=cache).template.think
    (release / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    assert find(release, **ANY, cache=cache).template.think
    # and a tokenizer without the two has none to give
    definition = json.loads(tokenizer.path.read_text())
    for token in definition["added_tokens"]:
        if token["content"] == "</think>":
            token["content"] = "</thought>"
    (release / "tokenizer.json").write_text(json.dumps(definition))
    assert not find(release, **ANY, cache=cache).template.think


def own_tokenizer(tokenizer, folder: Path) -> Path:
    """Another tokenizer: ours, with a token more."""
    definition = json.loads(tokenizer.path.read_text())
    token = {**definition["added_tokens"][-1], "id": 151678, "content": "<more>"}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(
        json.dumps({**definition, "added_tokens": [*definition["added_tokens"], token]})
    )
    return folder


def test_the_tokenizer_beside_a_release_is_its_own(release, cache, tokenizer, tmp_path) -> None:
    shutil.copy(own_tokenizer(tokenizer, tmp_path / "own") / "tokenizer.json", release)
    assert find(release, **ANY, cache=cache).tokenizer.special("<more>") == 151678
    assert find(release, tokenizer="qwen3", template=None, cache=cache).tokenizer.digest == tokenizer.digest


def test_the_runs_own_tokenizer_is_found_and_another_refused(copy, cache, tokenizer, tmp_path) -> None:
    own = own_tokenizer(tokenizer, tmp_path / "own")
    with pytest.raises(MixcError, match="trained with another tokenizer than") as error:
        find(copy, tokenizer=str(own), template=None, cache=cache)
    assert "--tokenizer" in error.value.mend
    record = json.loads((copy / "run.json").read_text())
    from mixc.measure.tokenizer import load_tokenizer

    kept = load_tokenizer(str(own), base=Path(), cache=cache)
    change(copy / "run.json", parts=record["parts"] | {"tokenizer": kept.digest})
    assert find(copy, **ANY, cache=cache).tokenizer.digest == kept.digest  # the cache still has it
    change(copy / "run.json", parts=record["parts"] | {"tokenizer": "0" * 64})
    with pytest.raises(MixcError, match=r"trained with another tokenizer than 'qwen2\.5'"):
        find(copy, **ANY, cache=cache)


def test_ids_that_the_tokenizer_has_not_are_refused(copy, cache) -> None:
    shutil.rmtree(copy / "align")
    (copy / "run.json").unlink()  # so that nothing else says it
    config = json.loads((copy / "tune/config.json").read_text())
    change(copy / "tune/config.json", geometry=config["geometry"] | {"image_context_id": 151667})
    with pytest.raises(MixcError, match="trained with another tokenizer") as error:
        find(copy / "tune", **ANY, cache=cache)
    assert "151667" in error.value.why


def test_the_runs_template_is_found(copy, cache) -> None:
    record = json.loads((copy / "run.json").read_text())
    change(copy / "run.json", parts=record["parts"] | {"template": TEMPLATES["chatml"].digest})
    assert find(copy, **ANY, cache=cache).template.name == "chatml"
    change(copy / "run.json", parts=record["parts"] | {"template": "0" * 64})
    with pytest.raises(MixcError, match="chat template that is not known"):
        find(copy, **ANY, cache=cache)
    assert find(copy, tokenizer=None, template="chatml", cache=cache).template.name == "chatml"
    with pytest.raises(MixcError, match="no chat template is called 'chatm'"):
        find(copy, tokenizer=None, template="chatm", cache=cache)


def test_a_run_is_asked_as_it_was_trained(copy, cache) -> None:
    """With tags of thoughts as tokens or as letters, whatever its family has today."""
    record = json.loads((copy / "run.json").read_text())
    config = json.loads((copy / "tune/config.json").read_text())
    assert not find(copy, **ANY, cache=cache).template.think
    change(copy / "tune/config.json", geometry=config["geometry"] | {"name": "sail-vl2-2b"})
    for think in (False, True):
        template = template_named("univl-chat", think=think)
        change(copy / "run.json", parts=record["parts"] | {"template": template.digest})
        assert find(copy, **ANY, cache=cache).template == template
        assert find(copy, tokenizer=None, template="chatml", cache=cache).template == template_named(
            "chatml", think=think
        )
    (copy / "run.json").unlink()  # nothing but the family says it
    assert find(copy / "tune", **ANY, cache=cache).template == template_named("univl-chat", think=True)
    change(copy / "tune/config.json", geometry=config["geometry"])
    assert find(copy / "tune", **ANY, cache=cache).template == template_named("univl-chat")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: (d / "config.json").unlink(), "no model here"),
        (lambda d: (d / "config.json").write_bytes(b""), "not a model's description"),
        (lambda d: (d / "config.json").write_bytes(b"[]"), "not a model's description"),
        (lambda d: (d / "config.json").write_bytes(b'{"a": "\xff"}'), "not a model's description"),
        (lambda d: (d / "config.json").write_bytes(b'{"a": ' + b"[" * 100_000), "not a model's description"),
        (lambda d: (d / "config.json").write_text("{}"), "not a model of the SAIL-VL family"),
        (lambda d: (d / "config.json").write_text('{"text_config": {}, "vision_config": {}}'), "export as released"),
        (lambda d: change(d / "config.json", llm_config=7), r"\$.llm_config"),
        (lambda d: change(d / "config.json", vision_config={"patch_size": 0}), r"\$.vision_config.patch_size"),
        (lambda d: change(d / "config.json", force_image_size="x"), r"\$.force_image_size"),
        (lambda d: change(d / "config.json", llm_config={"model_type": "internlm2", "vocab_size": 9}), "'internlm2'"),
        (lambda d: change(d / "config.json", template="internvl2_5"), "chat template 'internvl2_5' is not known"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "it has no model.vocab"),
        (lambda d: (d / "tokenizer_config.json").write_text('{"think_tokens": 1}'), r"\$.think_tokens"),
        (lambda d: (d / "run.json").write_text('{"stages": 3}'), "not a model's description"),
        (lambda d: change(d / "config.json", geometry={"name": "x"}), "missing required field"),
    ],
)
def test_what_is_no_model_is_told(release, cache, spoil, says) -> None:
    spoil(release)
    with pytest.raises(MixcError) as error:
        find(release, **ANY, cache=cache)
    assert re.search(says, str(error.value))


def test_no_folder_at_all(tmp_path, cache) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(MixcError, match="no model here"):
            find(path, **ANY, cache=cache)


def test_a_trained_model_without_a_family_wants_a_tokenizer(copy, cache, tokenizer) -> None:
    (copy / "run.json").unlink()
    config = json.loads((copy / "tune/config.json").read_text())
    change(copy / "tune/config.json", geometry=config["geometry"] | {"name": "of-ones-own"})
    with pytest.raises(MixcError, match="which tokenizer of-ones-own has"):
        find(copy / "tune", **ANY, cache=cache)
    model: Model = find(copy / "tune", tokenizer="qwen2.5", template=None, cache=cache)
    assert model.tokenizer.digest == tokenizer.digest
