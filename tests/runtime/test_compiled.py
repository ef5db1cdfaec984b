"""torch.compile around the layers: the same numbers, a few graphs for all layers and packs, and names that stay.

Compiling for a CPU takes half a minute a test where nothing of it has been compiled before.
"""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import DynamicCache

from runtime.greedy import generating
from runtime.model.compiled import regions
from runtime.model.sail_vl import Piece, SailVL
from tests.runtime import launching
from tests.runtime.launching import lines
from tests.runtime.small import SETTINGS, steps_of, write_build
from tests.runtime.test_model import SAMPLES, build, draw, gradients, pack, toy

torch.set_num_threads(1)


class TestRegions:
    @pytest.fixture
    def layer(self) -> nn.Module:
        made = nn.Module()
        made.norm, made.mlp = nn.LayerNorm(2), nn.Sequential(nn.Linear(2, 2), nn.GELU())
        return made

    def test_a_layer_that_nothing_listens_in_is_compiled_whole(self, layer):
        layer.register_forward_hook(lambda *_: None)  # runs around its forward pass, not in it
        assert list(regions(layer)) == [layer]

    def test_what_is_listened_to_is_compiled_without_the_hook(self, layer):
        layer.mlp.register_forward_hook(lambda *_: None)
        assert list(regions(layer)) == [layer.norm, layer.mlp]
        layer.mlp[0].register_forward_hook(lambda *_: None)
        assert list(regions(layer)) == [layer.norm, *layer.mlp]

    def test_a_tower_has_hooks_only_while_branches_are_dropped(self):
        model = build(toy("aimv2", "qwen3"))
        assert all(list(regions(layer)) == [layer] for layer in model.vision.layers)
        model.prepare(msgspec.structs.replace(SETTINGS, drop_path=0.5))
        assert not any(layer in regions(layer) for layer in model.vision.layers)
        model.prepare(SETTINGS)
        assert all(list(regions(layer)) == [layer] for layer in model.vision.layers)


BATCHES = (SAMPLES, SAMPLES[:1], (SAMPLES[2], draw(4, 3)), SAMPLES, (draw(5, 2), SAMPLES[0], SAMPLES[1]))
"""The first two have all that asks for a graph of its own: several tiles, one tile."""


def next_token(model: SailVL) -> torch.Tensor:
    """Logits of the second token of an answer, as a model in training gives them."""
    piece = Piece(
        tokens_BT=torch.tensor([[3, 1, 4]]),
        seen_BL=torch.ones(1, 3, dtype=torch.int64),
        cache=DynamicCache(config=model.language.config),
    )
    with generating(model):
        model(piece)
        again = dataclasses.replace(piece, tokens_BT=torch.tensor([[2]]), seen_BL=torch.ones(1, 4, dtype=torch.int64))
        return model(again)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "language", "drop_path", "again"),
    [
        ("aimv2", "qwen3", 0.0, ()),
        ("internvit", "qwen2", 0.5, ("vision", "language")),
        ("aimv2", "qwen3_moe", 0.0, ("language",)),
    ],
)
def test_losses_and_gradients_are_those_of_the_model(vision, language, drop_path, again):
    """And no graph is added for another layer, or for packs and numbers of tiles that are new."""
    from torch._dynamo.utils import counters

    shape = toy(vision, language)
    shape = dataclasses.replace(
        shape,
        vision=dataclasses.replace(shape.vision, layers=3),
        language=dataclasses.replace(shape.language, layers=4),
    )
    plain, compiled = (build(shape).train() for _ in range(2))
    for model in (plain, compiled):
        model.prepare(msgspec.structs.replace(SETTINGS, drop_path=drop_path))
    names = [name for name, _ in compiled.named_parameters()]
    compiled.compile_layers()
    compiled.recompute(again)
    counters.clear()
    graphs = []
    for number, samples in enumerate(BATCHES):
        plain.vision.drop_path.seed = compiled.vision.drop_path.seed = number << 50
        expected, found = (gradients(model, pack(*samples)) for model in (plain, compiled))
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
        graphs.append(counters["stats"]["unique_graphs"])
    logits = [next_token(model) for model in (plain, compiled)]  # not by compiled layers: bit for bit
    assert torch.equal(*logits) and counters["stats"]["unique_graphs"] == graphs[-1]
    assert graphs[0] > 0 and graphs[1:] == graphs[1:2] * (len(BATCHES) - 1)
    assert graphs[-1] <= 16  # 3 and 4 layers, each with forward graphs of several lengths, would be many more
    assert [name for name, _ in compiled.named_parameters()] == names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_compiled_or_not(train, tmp_path):
    """Compiled, then as it is, then compiled again, with and without recomputation, against a run that never was."""
    stage = (msgspec.structs.replace(SETTINGS, drop_path=0.5), steps_of(5, seed=2))
    small = write_build(tmp_path / "build", {"tune": stage})
    train(small, "--out", tmp_path / "plain", "--zero", 1)
    said = train(small, "--out", tmp_path / "run", "--zero", 1, "--compile", "--max-steps", 2)
    assert "layers compiled" in said
    (file,) = (tmp_path / "run" / "checkpoints").glob("*/parts/*")
    with safe_open(file, framework="pt") as opened:
        assert not [name for name in opened.keys() if "_orig_mod" in name]  # noqa: SIM118
    train(small, "--out", tmp_path / "run", "--resume", "--max-steps", 3)
    train(small, "--out", tmp_path / "run", "--resume", "--compile", "--recompute", "vision,language")
    for expected, found in zip(lines(tmp_path / "plain"), lines(tmp_path / "run"), strict=True):
        assert found["packs"] == expected["packs"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
    with (
        safe_open(tmp_path / "plain/tune/model.safetensors", framework="pt") as plain,
        safe_open(tmp_path / "run/tune/model.safetensors", framework="pt") as run,
    ):
        assert set(plain.keys()) == set(run.keys())


@pytest.mark.slow
def test_zero_3_is_refused_before_training(train, build, tmp_path):
    said = train(build, "--out", tmp_path / "run", "--compile", "--zero", 3, status=2)
    assert "--compile: layers cannot be compiled at ZeRO 3" in said and "--zero 0, 1 or 2" in said
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_without_a_compiler_it_is_said_before_training(build, tmp_path):
    environment = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    said = launching.train(build, "--out", tmp_path / "run", "--compile", environment=environment, status=2)
    assert "--compile: torch.compile does not work here" in said and "a C++ compiler" in said
    assert "Traceback" not in said and not (tmp_path / "run" / "run.json").exists()
