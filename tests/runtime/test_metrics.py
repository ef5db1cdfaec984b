"""What a run says of itself."""

from __future__ import annotations

import io

import msgspec
import pytest
import torch
from rich.console import Console

from runtime import metrics
from runtime.errors import TrainError
from runtime.flops import Flops
from runtime.loader import Division, Play
from runtime.metrics import Line, Log, Tally, cut, skew
from runtime.processes import Place

PLACE = Place(rank=0, world=1, local_rank=0, local_world=1)


def line(stage: str, step: int, **changed) -> Line:
    made = Line(
        stage=stage,
        step=step,
        loss=2.5,
        lr={"projector": 1e-3},
        grad_norm=0.5,
        tokens=100,
        supervised_tokens=50,
        images=1,
        tiles=1,
        packs=[(0, "00ff00ff00ff00ff")],
        loss_by_source={"prose": 2.5},
        seconds=1.0,
        data_wait=0.0,
        tokens_per_second=100.0,
        supervised_tokens_per_second=50.0,
        tiles_per_second=1.0,
        padding=0.02,
        flops=Flops(vision=4, projector=3, language=2, head=1),
        mfu=None,
        memory=None,
        skew={"tokens": 1.0, "tiles": 1.0, "pairs": 1.0},
        skipped=0,
    )
    return msgspec.structs.replace(made, **changed)


def steps(run):
    return [
        (row["stage"], row["step"]) for row in map(msgspec.json.decode, (run / metrics.NAME).read_bytes().splitlines())
    ]


@pytest.fixture
def run(tmp_path):
    log = Log(tmp_path)
    for stage, step in (("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)):
        log.write(line(stage, step))
    log.close()
    return tmp_path


@pytest.mark.parametrize(
    ("done", "stage", "step", "kept"),
    [
        (["a"], "b", 2, [("a", 0), ("a", 1), ("b", 0), ("b", 1)]),
        (["a"], "b", 0, [("a", 0), ("a", 1)]),
        ([], "a", 1, [("a", 0)]),
        ([], "a", 0, []),
        (["a", "b"], None, 0, [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]),
    ],
)
def test_what_is_trained_again_is_cut(run, done, stage, step, kept):
    cut(run, done, stage, step)
    assert steps(run) == kept


def test_a_line_cut_short_by_a_kill_is_dropped(run):
    with (run / metrics.NAME).open("ab") as file:
        file.write(msgspec.json.encode(line("b", 3))[:40])
    cut(run, ["a"], "b", 3)
    assert steps(run)[-1] == ("b", 2)
    log = Log(run)
    log.write(line("b", 3))
    log.close()
    assert steps(run)[-1] == ("b", 3)


def test_a_file_that_lacks_steps_is_refused(run):
    with pytest.raises(TrainError, match="3 lines of stage 'b' before step 4"):
        cut(run, ["a"], "b", 4)


def test_a_run_without_a_file_has_nothing_to_cut(tmp_path):
    cut(tmp_path, [], "a", 0)
    assert not (tmp_path / metrics.NAME).exists()


def test_skew():
    assert skew([3.0, 1.0]) == 1.5
    assert skew([2.0, 2.0]) == 1.0
    assert skew([0.0, 0.0]) == 1.0


@pytest.mark.usefixtures("alone")
def test_a_tally_gives_back_what_went_in(build):
    division = Division(batch=4, world=1, micro_batch=2)
    data = Play(build, "tune", division, 0)
    tally = Tally(sources=3, batch=4, place=PLACE, device=torch.device("cpu"))
    micros = [data[4], data[5]]  # step 2
    for number, micro in enumerate(micros):
        tally.add(micro, micro.weights, torch.tensor(1.5), torch.tensor([0.5, 1.0, number], dtype=torch.float64))
    total = tally.total(norm=torch.tensor(0.25, dtype=torch.float64), flags=metrics.Flags(), wait=0.125)
    assert (total.loss_sum, total.norm, total.flags, total.wait) == (3.0, 0.25, metrics.Flags(), 0.125)
    assert [loss for loss, _ in total.by_source] == [1.0, 2.0, 1.0]
    assert [weight for _, weight in total.by_source] == pytest.approx(
        [sum(weights) for weights in zip(*(micro.weights for micro in micros), strict=True)]
    )
    for work in ("tokens", "tiles", "pairs"):
        assert getattr(total, work) == [sum(getattr(micro, work) for micro in micros)]
    assert total.memory is None
    assert total.packs == [
        (place, f"{digest:016x}") for place, digest in enumerate(micros[0].digests + micros[1].digests)
    ]


@pytest.mark.usefixtures("alone")
def test_a_pack_that_was_not_trained_is_not_told(build):
    micro = Play(build, "tune", Division(batch=4, world=1, micro_batch=2), 0)[1]
    tally = Tally(sources=3, batch=4, place=PLACE, device=torch.device("cpu"))
    tally.add(micro, micro.weights, torch.tensor(1.0), torch.zeros(3, dtype=torch.float64))
    total = tally.total(
        norm=torch.tensor(float("nan"), dtype=torch.float64), flags=metrics.Flags(stop=True, failed=True), wait=0.0
    )
    assert [place for place, _ in total.packs] == [2, 3]
    assert total.flags == metrics.Flags(stop=True, failed=True) and total.norm != total.norm


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({}, "a 3/10  loss 2.5000  |g| 0.5  lr 1.0e-03  100 tok  1 img  100 tok/s  1.00 s  wait 0.00"),
        ({"loss": None, "grad_norm": None, "skipped": 2}, "loss not finite  |g| not finite, step skipped"),
        ({"skew": {"tokens": 1.0, "tiles": 2.0, "pairs": 1.25}}, "skew 1.25"),
        ({"lr": {"projector": 1e-3, "language": 1e-5}}, "lr 1.0e-05..1.0e-03"),
        ({"mfu": 0.4126}, "wait 0.00  mfu 41.3%"),
    ],
)
def test_the_line_for_people(changed, shown):
    out = io.StringIO()
    metrics.show(Console(file=out, width=20), line("a", 2, **changed), 10)
    assert shown in out.getvalue() and out.getvalue().count("\n") == 1


def test_the_table_says_what_is_frozen():
    out = io.StringIO()
    metrics.table(
        Console(file=out, width=80),
        stage="align",
        parts=[("vision", 1000), ("projector", 20)],
        lr={"projector": 2e-3},
        facts=[("model", "tiny")],
    )
    rows = out.getvalue().splitlines()
    assert any("vision" in row and "1,000" in row and "frozen" in row for row in rows)
    assert any("projector" in row and "2.00e-03" in row for row in rows)
    assert rows[-1] == "model: tiny"
