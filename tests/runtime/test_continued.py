"""A run that goes on from the middle of another build's run."""

from __future__ import annotations

import msgspec
import pytest

from shards.build import Build
from shards.manifest import Continues
from tests.runtime.launching import lines, weights
from tests.runtime.small import ALIGN, SETTINGS, steps_of, write_build

pytestmark = pytest.mark.slow

STEADY = {"schedule": "constant", "warmup_steps": 0}  # so that a step's learning rate does not hang on its number


@pytest.fixture(scope="module")
def stages():
    return {
        "align": (msgspec.structs.replace(ALIGN, **STEADY), steps_of(3, seed=1)),
        "tune": (msgspec.structs.replace(SETTINGS, **STEADY), steps_of(5, seed=2)),
    }


@pytest.fixture(scope="module")
def first(stages, tmp_path_factory):
    return write_build(tmp_path_factory.mktemp("first") / "build", stages)


def rest(folder, first, stages, stage, step, name="later", **changes):
    """What `first` has left from that point on, as a build of its own, of another seed."""
    settings, steps = stages[stage]
    settings = msgspec.structs.replace(settings, **changes)
    point = Continues(root=Build.open(first).manifest.root, stage=stage, step=step)
    return write_build(folder, {name: (settings, steps[step:] or steps)}, seed=8, continues=point)


@pytest.mark.parametrize(("stage", "step", "before", "zero"), [("align", 1, 0, 0), ("tune", 2, 3, 1)])
def test_it_ends_as_if_it_had_been_one_run(train, first, stages, tmp_path, stage, step, before, zero):
    """Weights and optimizer's state go on, and frozen weights are those of the other run, not of the new seed."""
    train(first, "--out", tmp_path / "whole", "--zero", zero)
    train(first, "--out", tmp_path / "cut", "--zero", zero, "--max-steps", before + step)
    later = rest(tmp_path / "later", first, stages, stage, step)
    train(later, "--out", tmp_path / "run", "--zero", zero, "--continue-from", tmp_path / "cut", "--max-steps", 1)
    train(later, "--out", tmp_path / "run", "--resume")
    assert weights(tmp_path / "run")["later"] == weights(tmp_path / "whole")[stage]
    packs = [row["packs"] for row in lines(tmp_path / "whole") if row["stage"] == stage][step:]
    assert [[digest for _, digest in row["packs"]] for row in lines(tmp_path / "run")] == [
        [digest for _, digest in row] for row in packs
    ]


def test_a_stage_that_was_trained_to_its_end(train, first, stages, tmp_path):
    train(first, "--out", tmp_path / "whole", "--zero", 0)
    later = write_build(
        tmp_path / "later",
        {"tune": stages["tune"]},
        seed=8,
        continues=Continues(root=Build.open(first).manifest.root, stage="align", step=3),
    )
    train(later, "--out", tmp_path / "run", "--zero", 0, "--continue-from", tmp_path / "whole")
    assert weights(tmp_path / "run")["tune"] == weights(tmp_path / "whole")["tune"]


def test_what_does_not_fit_is_refused_before_a_model_is_built(train, build, first, stages, tmp_path):
    train(first, "--out", tmp_path / "cut", "--zero", 0, "--max-steps", 1)
    way = "write `continue_from: {build: BUILD, stage: align, step: 1}`, BUILD the one that"
    refused = [
        (first, (), "this build continues no run"),
        (first, (), way),
        (rest(tmp_path / "a", first, stages, "align", 2), (), "no checkpoint of step 2"),
        (rest(tmp_path / "b", build, stages, "align", 1), (), "this run is of root"),
        (rest(tmp_path / "c", first, stages, "align", 1, lr={"vision": 1e-3}), (), "and the checkpoint projector"),
        (rest(tmp_path / "d", first, stages, "align", 1), ("--zero", 1), "written with --zero 0, not 1"),
        (rest(tmp_path / "e", first, stages, "align", 1), ("--init", tmp_path), "not with both"),
    ]
    for number, (later, flags, said) in enumerate(refused):
        zero = () if "--zero" in flags else ("--zero", 0)
        run = tmp_path / f"run{number}"
        printed = train(later, "--out", run, "--continue-from", tmp_path / "cut", *zero, *flags, status=2)
        assert said in printed and "Traceback" not in printed, printed
        assert not (run / "run.json").exists()
