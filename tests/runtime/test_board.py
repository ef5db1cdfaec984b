"""Event files for TensorBoard."""

from __future__ import annotations

import sys

import pytest

from runtime.board import FOLDER, Board, scalars
from tests.runtime.launching import lines
from tests.runtime.test_metrics import line


def test_every_number_has_a_tag_and_what_is_null_has_none():
    found = scalars(line("a", 3, grad_norm=None, loss_by_source={"prose": 2.5, "chat": None}, mfu=0.25))
    assert "grad_norm" not in found and "loss_by_source/chat" not in found and "memory" not in found
    assert (found["loss"], found["loss_by_source/prose"], found["mfu"]) == (2.5, 2.5, 0.25)
    assert (found["lr/projector"], found["skew/pairs"], found["flops/vision"]) == (1e-3, 1.0, 4)


@pytest.mark.slow
def test_without_the_package_it_is_said_before_training(train, build, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # not to be imported, whether it is here or not
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    said = train(build, "--out", tmp_path, "--tensorboard", status=2)
    assert "--tensorboard: needs the package tensorboard" in said and "mixc[tensorboard]" in said
    assert "Traceback" not in said and not (tmp_path / "run.json").exists()


def told(run, tag):
    """Step and value of each event that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / FOLDER))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_a_resume_takes_back_what_is_trained_again(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    board = Board(tmp_path, before=10, step=0)
    for step in range(4):
        board.write(line("b", step, loss=float(step)))
    board.close()
    board = Board(tmp_path, before=10, step=2)
    board.write(line("b", 2, loss=20.0))
    board.close()
    assert told(tmp_path, "loss") == [(10, 0.0), (11, 1.0), (12, 20.0)]


@pytest.mark.slow
def test_the_steps_of_a_run_count_on_over_its_stages(train, build, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    train(build, "--out", tmp_path, "--tensorboard", "--max-steps", 4)
    assert [step for step, _ in told(tmp_path, "loss")] == [0, 1, 2, 3]
    assert [value for _, value in told(tmp_path, "loss")] == pytest.approx([row["loss"] for row in lines(tmp_path)])
