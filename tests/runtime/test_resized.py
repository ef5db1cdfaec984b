"""A run that goes on in another number of processes, at each ZeRO stage: it is the run that never stopped.

One run each: one process, then two, then one again; two learning rates, two decays, and a frozen ViT.
"""

from __future__ import annotations

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from runtime.schedule import learning_rates
from shards.build import Build
from shards.manifest import Continues
from tests.runtime import launching
from tests.runtime.launching import lines
from tests.runtime.small import GEOMETRY, SETTINGS, steps_of, write_build

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(400)]

TUNE = msgspec.structs.replace(SETTINGS, lr={"projector": 2e-3, "language": 5e-3})
STEADY = msgspec.structs.replace(TUNE, schedule="constant", warmup_steps=0)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return write_build(tmp_path_factory.mktemp("resized") / "build", {"tune": (TUNE, steps_of(6, seed=3))})


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """By precision, made when first asked for: one process, which nothing has divided."""
    made = {}

    def run(train, build, precision):
        if precision not in made:
            made[precision] = tmp_path_factory.mktemp(precision) / "run"
            train(build, "--out", made[precision], "--zero", 1, "--precision", precision)
        return made[precision]

    return run


def same(found, expected, tolerance):
    """Packs, rates and losses by step."""
    for one, two in zip(expected, found, strict=True):
        assert [two["packs"], two["lr"], two["skipped"]] == [one["packs"], one["lr"], 0]
        assert two["loss"] == pytest.approx(one["loss"], abs=tolerance)
        assert two["loss_by_source"] == pytest.approx(one["loss_by_source"], abs=10 * tolerance)


@pytest.mark.parametrize(
    ("zero", "precision", "offload", "tolerance"),
    [
        (1, "fp32", False, 1e-5),
        (2, "fp32", False, 1e-5),
        (3, "fp32", False, 1e-5),
        (3, "fp32", True, 1e-5),
        (1, "bf16", True, 5e-4),  # offloaded, it is in another class of DeepSpeed's
    ],
)
def test_one_process_then_two_then_one(train, build, never_stopped, tmp_path, zero, precision, offload, tolerance):
    """`offload`: the two processes have the optimizer on the CPU."""
    whole = never_stopped(train, build, precision)
    run = tmp_path / "run"
    train(build, "--out", run, "--zero", zero, "--precision", precision, "--max-steps", 2)
    moved = ("--offload",) if offload else ()
    launching.train(build, "--out", run, "--resume", "--max-steps", 4, "--workers", 0, *moved, processes=2)
    assert len(list((run / "checkpoints" / "tune-00000004" / "parts").iterdir())) == 2
    train(build, "--out", run, "--resume", *(("--no-offload",) if offload else ()))

    same(lines(run), lines(whole), tolerance)
    settings = Build.open(build).manifest.stages[0].train
    assert [row["lr"] for row in lines(run)] == [learning_rates(step, 6, settings) for step in range(6)]

    from runtime.model.sail_vl import build_model
    from runtime.weights import tensors

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    start, _ = tensors(build_model("sail-vl-tiny", GEOMETRY, 7, dtype))
    found, expected = (load_file(folder / "tune" / "model.safetensors") for folder in (run, whole))
    for name, value in start.items():
        if name.startswith("vision."):
            assert torch.equal(found[name], value), name
        else:
            # a rate or decay of another group's would move all of a tensor; noise moves what Adam takes for a gradient
            apart = (found[name] - expected[name]).abs() > (1e-4 if precision == "fp32" else 2e-2)
            assert apart.float().mean() < 1e-3, name
            assert not torch.equal(found[name], value), name


def test_another_mix_in_another_number_of_processes(train, tmp_path):
    """The optimizer's state goes on, dealt anew, into a run of another build: --continue-from."""
    steps = steps_of(5, seed=2)
    first = write_build(tmp_path / "first", {"tune": (STEADY, steps)})
    point = Continues(root=Build.open(first).manifest.root, stage="tune", step=3)
    later = write_build(tmp_path / "later", {"rest": (STEADY, steps[3:])}, seed=8, continues=point)
    train(first, "--out", tmp_path / "whole", "--zero", 2)
    launching.train(first, "--out", tmp_path / "cut", "--zero", 2, "--max-steps", 3, "--workers", 0, processes=2)
    train(later, "--out", tmp_path / "run", "--zero", 2, "--continue-from", tmp_path / "cut")
    expected, found = lines(tmp_path / "whole")[3:], lines(tmp_path / "run")
    assert [[digest for _, digest in row["packs"]] for row in found] == [
        [digest for _, digest in row["packs"]] for row in expected
    ]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
