"""Weights that are handed on: whole, strict, and never a pickle."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime import weights
from runtime.errors import CheckpointError
from runtime.model.sail_vl import build_model
from runtime.processes import Place
from tests.runtime.small import GEOMETRY

PLACE = Place(rank=0, world=1, local_rank=0, local_world=1)
HEAD, TABLE = "language.lm_head.weight", "language.model.embed_tokens.weight"


def model(seed: int = 7, dtype: torch.dtype = torch.float32):
    return build_model("sail-vl-tiny", GEOMETRY, seed, dtype)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from runtime import processes

    processes.prepare()
    processes.join(processes.place(), torch.device("cpu"))
    folder = tmp_path_factory.mktemp("weights") / "stage"
    about = {"geometry": {}, "root": "0" * 64, "stage": "stage", "steps": 1, "precision": "fp32"}
    weights.save(model(), folder, PLACE, model="sail-vl-tiny", **about)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "stage")


def test_what_is_saved_is_loaded(saved):
    other = model(seed=8)
    assert not torch.equal(other.get_parameter(TABLE), model().get_parameter(TABLE))
    weights.load(other, saved)
    for (name, found), expected in zip(other.named_parameters(), model().parameters(), strict=True):
        assert torch.equal(found, expected), name
    assert sorted(path.name for path in saved.parent.iterdir()) == ["stage"]


def test_a_tied_head_is_stored_once_and_stays_tied(saved):
    stored = load_file(saved / weights.FILE)
    assert (HEAD in stored) != (TABLE in stored)
    assert set(weights.read_config(saved).shared) | set(stored) == set(model().state_dict())
    other = model(seed=8)
    weights.load(other, saved)
    assert other.get_parameter(HEAD) is other.get_parameter(TABLE)


def test_precision_is_the_models(saved):
    other = model(seed=8, dtype=torch.bfloat16)
    weights.load(other, saved)
    assert torch.equal(other.get_parameter(TABLE), model().get_parameter(TABLE).bfloat16())


def test_same_weights_same_bytes(saved, tmp_path):
    about = {"geometry": {}, "root": "0" * 64, "stage": "stage", "steps": 1, "precision": "fp32"}
    weights.save(model(), tmp_path / "again", PLACE, model="sail-vl-tiny", **about)
    for name in (weights.FILE, weights.CONFIG):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_flipped_byte_is_refused(copied):
    data = bytearray((copied / weights.FILE).read_bytes())
    data[-1] ^= 1
    (copied / weights.FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match="not those that config"):
        weights.load(model(), copied)


def test_a_folder_without_config_is_loaded_too(copied):
    (copied / weights.CONFIG).unlink()
    assert weights.load(model(seed=8), copied) == len(load_file(copied / weights.FILE))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("projector.mlp.0.weight"), "1 tensors missing, such as projector.mlp.0.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 tensors that it does not have, such as extra"),
        (lambda w: w.update({"projector.mlp.0.weight": torch.zeros(3)}), "its shape is [3], the model's is ["),
    ],
)
def test_other_weights_are_refused_by_name(copied, change, says):
    stored = load_file(copied / weights.FILE)
    change(stored)
    save_file(stored, copied / weights.FILE)
    (copied / weights.CONFIG).unlink()
    with pytest.raises(CheckpointError, match="not the weights of this model") as caught:
        weights.load(model(), copied)
    assert says in caught.value.why


def test_what_is_not_there_or_not_safetensors_is_said(copied, tmp_path):
    with pytest.raises(CheckpointError, match=r"no model\.safetensors here"):
        weights.load(model(), tmp_path / "nowhere")
    (copied / weights.CONFIG).unlink()
    (copied / weights.FILE).write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        weights.load(model(), copied)
