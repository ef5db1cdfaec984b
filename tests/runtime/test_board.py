"""Event files for TensorBoard."""

from __future__ import annotations

import sys

import msgspec
import pytest

from runtime.board import FOLDER, Board, scalars
from runtime.metrics import Line
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


def test_what_was_written_before_a_flush_is_there_whatever_happens_after(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    board = Board(tmp_path, before=0, step=0)
    board.write(line("a", 0, loss=1.0))
    board.flush()
    assert told(tmp_path, "loss") == [(0, 1.0)]  # as after kill -9: nothing was closed
    board.close()


@pytest.mark.slow
def test_a_run_in_pieces_is_told_as_metrics_tells_it(train, build, tmp_path):
    """All numbers of all steps, over the stages, with evaluations; of a run that was stopped in its second stage."""
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    flags = ("--tensorboard", "--eval", build, "--eval-every", 2)
    train(build, "--out", tmp_path, *flags, "--max-steps", 5)
    train(build, "--out", tmp_path, *flags, "--resume", "--max-steps", 6)
    rows = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, row in enumerate(rows):
        for tag, value in scalars(msgspec.json.decode(row, type=Line)).items():
            expected.setdefault(tag, []).append((step, value))
    assert (
        len(rows) == 6 and {"loss", "lr/vision", "loss_by_source/chat", "flops/head", "skew/pairs"} <= expected.keys()
    )
    for tag, values in expected.items():
        found = told(tmp_path, tag)
        assert [step for step, _ in found] == [step for step, _ in values], tag
        assert [value for _, value in found] == pytest.approx([value for _, value in values], rel=1e-6), tag  # float32
    evaluations = [msgspec.json.decode(row) for row in (tmp_path / "evaluations.jsonl").read_bytes().splitlines()]
    begun = {"align": 0, "tune": 3}
    wanted = {
        begun[row["stage"]] + row["step"]: row["loss"] for row in evaluations
    }  # a stage's end is the next one's start
    assert dict(told(tmp_path, "evaluation/loss")) == pytest.approx(wanted, rel=1e-6)
