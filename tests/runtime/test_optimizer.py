"""What is trained, in which groups."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from runtime.errors import TrainError
from runtime.model.vision import Vision
from runtime.model.zoo import VisionShape
from runtime.optimizer import adamw, freeze, group, set_rates
from tests.runtime.small import SETTINGS


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.projector = nn.Linear(4, 4)
        self.language = nn.Embedding(5, 4)


def with_rates(**lr):
    return msgspec.structs.replace(SETTINGS, lr=lr)


def test_a_module_without_a_rate_is_frozen_whatever_it_was():
    model = Model()
    model.language.requires_grad_(False)
    model.projector.requires_grad_(True)
    freeze(model, with_rates(language=1e-3))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["language.weight"]


def test_vectors_do_not_decay():
    model = Model()
    freeze(model, SETTINGS)
    found = [(each.module, each.weight_decay, each.names) for each in group(model, SETTINGS)]
    assert found == [
        ("vision", 0.05, ("vision.0.weight",)),
        ("vision", 0.0, ("vision.0.bias", "vision.1.weight", "vision.1.bias")),
        ("projector", 0.05, ("projector.weight",)),
        ("projector", 0.0, ("projector.bias",)),
        ("language", 0.05, ("language.weight",)),
    ]


def test_a_class_token_is_a_vector():
    model = Model()
    model.vision.token = nn.Parameter(nn.init.zeros_(model.projector.weight.new_empty(1, 1, 4)))
    freeze(model, with_rates(vision=1e-3))
    assert "vision.token" in group(model, SETTINGS)[1].names


def test_rates_are_ours_whatever_was_there():
    model = Model()
    made = with_rates(vision=1.0, language=2.0)
    freeze(model, made)
    groups = group(model, made)
    optimizer = adamw(model, groups, made)
    for held in optimizer.param_groups:
        held.update(lr=9.0, weight_decay=9.0, betas=(0.0, 0.0), eps=9.0)
    set_rates(optimizer, groups, {"vision": 0.5, "language": 0.25}, made)
    held = [(g["lr"], g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups]
    assert held == [(lr, decay, (0.9, 0.95), 1e-8) for lr, decay in ((0.5, 0.05), (0.5, 0.0), (0.25, 0.05))]


@pytest.mark.parametrize("kind", ["aimv2", "internvit"])
def test_layers_of_the_tower_below_the_last_move_less(kind):
    """The tower that is trained, of three layers. With gradients of 1, Adam's first step is the rate."""
    tower = Vision(VisionShape(kind=kind, layers=3, hidden=8, heads=2, intermediate=8, tile=28))
    model = nn.ModuleDict({"vision": tower, "projector": nn.Linear(4, 4)})
    made = msgspec.structs.replace(
        SETTINGS, lr={"vision": 1e-2, "projector": 1e-3}, layer_decay=0.5, weight_decay=0.0, eps=0.0
    )
    freeze(model, made)
    groups = group(model, made)
    assert sorted(name for each in groups for name in each.names) == sorted(dict(model.named_parameters()))
    assert [each.scale for each in groups if each.module == "vision"] == sorted([0.125, 0.25, 0.5, 1] * 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, groups, made)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_rates(optimizer, groups, made.lr, made)
    optimizer.step()
    moved = {name: float((before[name] - p).abs().max().detach()) for name, p in model.named_parameters()}
    for name, found in moved.items():
        layer = next((k for k in range(3) if f".{k}." in name.removeprefix("vision.encoder.encoder")), None)
        below = {0: 2, 1: 1, 2: 0}[layer] if layer is not None else 3 if ".embeddings." in name else 0
        expected = 1e-3 if name.startswith("projector") else 1e-2 * 0.5**below
        assert found == pytest.approx(expected, rel=1e-3), name
    assert any(".embeddings." in name for name in moved)


def test_without_layer_decay_a_module_is_two_groups():
    model = Model()
    freeze(model, SETTINGS)
    assert {each.scale for each in group(model, SETTINGS)} == {1.0}


@pytest.mark.parametrize(("lr", "what"), [({}, "nothing to train"), ({"visoin": 1.0}, "no module 'visoin'")])
def test_mistakes(lr, what):
    with pytest.raises(TrainError, match=what) as caught:
        freeze(Model(), with_rates(**lr))
    assert "vision, projector, language" in caught.value.why + caught.value.mend
