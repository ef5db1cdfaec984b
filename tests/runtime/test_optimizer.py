"""What is trained, in which groups."""

from __future__ import annotations

import msgspec
import pytest
from torch import nn

from runtime.errors import TrainError
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


@pytest.mark.parametrize(("lr", "what"), [({}, "nothing to train"), ({"visoin": 1.0}, "no module 'visoin'")])
def test_mistakes(lr, what):
    with pytest.raises(TrainError, match=what) as caught:
        freeze(Model(), with_rates(**lr))
    assert "vision, projector, language" in caught.value.why + caught.value.mend
