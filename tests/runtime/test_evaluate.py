"""Evaluation while training: what it tells, and that training does not notice."""

from __future__ import annotations

import os
import shutil
import signal

import msgspec
import pytest
import torch

from runtime import evaluate
from runtime.collate import SourceTable, collate
from runtime.evaluate import Evaluation, deal
from runtime.loader import source_index, source_names
from runtime.model.sail_vl import build_model
from shards.build import Build
from shards.manifest import read_manifest, with_root, write_manifest
from shards.pack import EMPTY_PACK
from tests.runtime import launching
from tests.runtime.launching import lines, weights
from tests.runtime.small import GEOMETRY, SETTINGS, pack_of, steps_of, write_build

SOURCES = {"captions", "chat", "prose"}


def evaluations(run):
    """evaluations.jsonl, without the seconds, which hang on the machine."""
    found = [msgspec.json.decode(line) for line in (run / evaluate.NAME).read_bytes().splitlines()]
    return [{name: value for name, value in each.items() if name != "seconds"} for each in found]


def mean(build, model):
    """The weighted loss over a build, and by source, computed here pack by pack."""
    stages = build.manifest.stages
    names = source_names(stages)
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    for entry in stages:
        for pack in map(build.stage(entry.name).pack, range(entry.packs)):
            row, totals = collate([pack], build.image, GEOMETRY, SourceTable(source_index(stages)))
            batch = row.expand()
            with torch.no_grad():
                sums[0].index_add_(0, batch.sources_N, (batch.weights_N * model(batch).ce_N).double())
            sums[1] += torch.tensor(totals.weights, dtype=torch.float64)
    return float(sums[0].sum() / sums[1].sum()), dict(zip(names, (sums[0] / sums[1]).tolist(), strict=True))


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """What is evaluated on: two stages, one of two steps of four packs, the last of which is empty, and one of five packs,
    so that of two processes one has nothing to do in the last round."""
    second = [[pack_of(("chat", list(range(50 + k, 60 + 2 * k)), None, 0.5)) for k in range(5)]]
    return write_build(
        tmp_path_factory.mktemp("held") / "build", {"one": (SETTINGS, steps_of(2, 11)), "two": (SETTINGS, second)}
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return tmp_path_factory.mktemp("reference") / "run"


@pytest.fixture
def evaluated(train, build, held, reference):
    """A run at ZeRO 0 that is evaluated after every second step."""
    if not reference.exists():
        train(build, "--out", reference, "--zero", 0, "--eval", held, "--eval-every", 2)
    return reference


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_every_pack_is_dealt_once(held, world, micro_batch):
    for entry in Build.open(held).manifest.stages:
        division = deal(entry, world, micro_batch)
        dealt = [division.packs(k, 0, rank) for k in range(division.rounds) for rank in range(world)]
        assert sorted(number for packs in dealt for number in packs) == list(range(entry.packs))
        assert division.micro_steps == 1 and all(len(packs) <= micro_batch for packs in dealt)


def test_after_a_kill_what_the_checkpoint_does_not_vouch_for_is_cut(tmp_path):
    def line(stage, step):
        return Evaluation(stage=stage, step=step, loss=1.0, loss_by_source={}, tokens=1, seconds=1.0, root="0" * 64)

    evaluate.cut(tmp_path, [], "a", 0)  # nothing there
    for each in (line("a", 0), line("a", 4), line("b", 0), line("b", 2), line("b", 4), line("c", 0)):
        evaluate.write(tmp_path, each)
    with (tmp_path / evaluate.NAME).open("ab") as file:
        file.write(b'{"stage":"c","st')
    evaluate.cut(tmp_path, ["a"], "b", 2)
    assert [(each.stage, each.step) for each in evaluate.read(tmp_path)] == [("a", 0), ("a", 4), ("b", 0), ("b", 2)]
    assert (tmp_path / evaluate.NAME).read_bytes().endswith(b"}\n")
    evaluate.cut(tmp_path, ["a"], None, 0)
    assert [(each.stage, each.step) for each in evaluate.read(tmp_path)] == [("a", 0), ("a", 4)]


@pytest.mark.slow
class TestARun:
    def test_is_evaluated_before_a_stage_after_every_second_step_and_at_the_end(self, evaluated, held):
        found, manifest = evaluations(evaluated), Build.open(held).manifest
        points = [("align", 0), ("align", 2), ("align", 3), ("tune", 0), ("tune", 2), ("tune", 4), ("tune", 5)]
        assert [(each["stage"], each["step"]) for each in found] == points
        for each in found:
            assert each["root"] == manifest.root and set(each["loss_by_source"]) == SOURCES
            assert each["tokens"] == sum(stage.tokens for stage in manifest.stages)
        told = {
            point: {"loss": each["loss"], **each["loss_by_source"]} for point, each in zip(points, found, strict=True)
        }
        assert told["align", 3] == told["tune", 0], "the same weights"
        assert len({each["loss"] for each in found}) == len(found) - 1, "and otherwise others"

    def test_the_loss_is_the_weighted_mean_over_all_supervised_tokens(self, evaluated, held):
        first = evaluations(evaluated)[0]
        loss, by_source = mean(Build.open(held), build_model("sail-vl-tiny", GEOMETRY, 7).eval())
        assert first["loss"] == pytest.approx(loss, abs=1e-6)
        assert first["loss_by_source"] == pytest.approx(by_source, abs=1e-6)

    @pytest.mark.parametrize("zero", [0, 1, 2, 3])
    def test_trains_the_same_with_and_without(self, train, build, held, evaluated, tmp_path, zero):
        train(build, "--out", tmp_path / "without", "--zero", zero)
        train(build, "--out", tmp_path / "with", "--zero", zero, "--eval", held, "--eval-every", 1)
        assert weights(tmp_path / "with") == weights(tmp_path / "without") and len(weights(tmp_path / "with")) == 2
        for one, other in zip(lines(tmp_path / "with"), lines(tmp_path / "without"), strict=True):
            assert (one["loss"], one["grad_norm"], one["packs"]) == (other["loss"], other["grad_norm"], other["packs"])
        known = {(each["stage"], each["step"]): each["loss"] for each in evaluations(evaluated)}
        for each in evaluations(tmp_path / "with"):
            if expected := known.pop((each["stage"], each["step"]), None):
                assert each["loss"] == pytest.approx(expected, abs=1e-5)
        assert not known

    def test_trains_the_same_also_where_training_and_evaluating_differ(self, train, held, tmp_path):
        """A mixture of experts, which counts their choices, with branches that are dropped, smoothing, and a moving average."""
        settings = msgspec.structs.replace(SETTINGS, drop_path=0.5, label_smoothing=0.2, ema=0.9)
        builds = [
            write_build(tmp_path / "build", {"tune": (settings, steps_of(2, 3))}),
            shutil.copytree(held, tmp_path / "held"),
        ]
        for folder in builds:
            manifest = read_manifest(folder)
            geometry = msgspec.structs.replace(manifest.geometry, name="sail-vl-tiny-moe")
            write_manifest(folder, with_root(msgspec.structs.replace(manifest, geometry=geometry)))
        train(builds[0], "--out", tmp_path / "without")
        train(builds[0], "--out", tmp_path / "with", "--eval", builds[1], "--eval-every", 1)
        assert weights(tmp_path / "with") == weights(tmp_path / "without")
        assert weights(tmp_path / "with" / "averages") == weights(tmp_path / "without" / "averages") != {}
        first = evaluations(tmp_path / "with")[0]
        model = build_model("sail-vl-tiny-moe", geometry, 7).eval()
        assert first["loss"] == pytest.approx(mean(Build.open(builds[1]), model)[0], abs=1e-6), (
            "plain, and nothing dropped"
        )

    @pytest.mark.parametrize("micro_batch", [2, 4])
    def test_the_loss_does_not_depend_on_the_micro_batch(self, train, build, held, evaluated, tmp_path, micro_batch):
        train(build, "--out", tmp_path, "--zero", 0, "--eval", held, "--max-steps", 1, "--micro-batch", micro_batch)
        (first,) = evaluations(tmp_path)
        assert first == {**evaluations(evaluated)[0], **{name: first[name] for name in ("loss", "loss_by_source")}}
        assert first["loss"] == pytest.approx(evaluations(evaluated)[0]["loss"], abs=1e-6)
        assert first["loss_by_source"] == pytest.approx(evaluations(evaluated)[0]["loss_by_source"], abs=1e-6)

    def test_in_parts_tells_the_same_as_in_one_go(self, train, build, held, evaluated, tmp_path):
        """Stopped where an evaluation is due, with --eval of before; a line beyond the checkpoint is made again."""
        train(build, "--out", tmp_path, "--zero", 0, "--eval", held, "--eval-every", 2, "--max-steps", 5)
        assert [(each["stage"], each["step"]) for each in evaluations(tmp_path)][-1] == ("tune", 2)
        evaluate.write(tmp_path, msgspec.structs.replace(evaluate.read(tmp_path)[-1], step=4, loss=0.0))
        train(build, "--out", tmp_path, "--resume")
        assert evaluations(tmp_path) == evaluations(evaluated)
        assert weights(tmp_path) == weights(evaluated)

    def test_takes_another_build_or_none_at_a_resume(self, train, build, held, evaluated, tmp_path):
        train(build, "--out", tmp_path, "--zero", 0, "--max-steps", 2)
        assert not (tmp_path / evaluate.NAME).exists()
        train(build, "--out", tmp_path, "--resume", "--eval", held, "--eval-every", 2, "--max-steps", 4)
        points = [("align", 2), ("align", 3), ("tune", 0)]  # made up for: the checkpoint's weights
        assert evaluations(tmp_path) == [
            each for each in evaluations(evaluated) if (each["stage"], each["step"]) in points
        ]
        other = write_build(tmp_path / "other", {"one": (SETTINGS, steps_of(1, 12))})
        train(build, "--out", tmp_path, "--resume", "--eval", other, "--max-steps", 6)
        added = evaluations(tmp_path)[3:]
        assert [(each["stage"], each["step"], each["root"]) for each in added] == [
            ("tune", 2, Build.open(other).manifest.root)
        ]
        shutil.rmtree(other)
        assert "not a build" in train(build, "--out", tmp_path, "--resume", status=2)
        train(build, "--out", tmp_path, "--resume", "--no-eval")
        assert len(evaluations(tmp_path)) == 4 and weights(tmp_path) == weights(evaluated)

    def test_a_signal_gives_an_evaluation_up_and_stops_after_the_next_step(
        self, train, build, held, evaluated, tmp_path, monkeypatch
    ):
        played, real = [], evaluate.play

        def interrupted(*arguments, **named):
            for micro in real(*arguments, **named):
                played.append(micro.packs)
                if len(played) == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield micro

        with monkeypatch.context() as patched:
            patched.setattr(evaluate, "play", interrupted)
            flags = ("--out", tmp_path, "--zero", 0, "--eval", held, "--eval-every", 2)
            said = train(build, *flags, status=130)
            assert "stopped after 1 of 3 steps of stage align; what is done is saved" in said
            assert f"  go on: mixc train {build} --out {tmp_path} --resume\n" in said
        assert len(played) == 2 and not (tmp_path / evaluate.NAME).exists()
        train(build, "--out", tmp_path, "--resume")
        assert evaluations(tmp_path) == evaluations(evaluated)[1:]
        assert weights(tmp_path) == weights(evaluated)

    def test_refuses_a_build_of_another_model_before_training(self, train, build, held, tmp_path):
        other = write_build(tmp_path / "other", {"one": (SETTINGS, steps_of(1, 1))}, tokenizer="2" * 64)
        said = train(build, "--out", tmp_path / "run", "--eval", other, status=2)
        assert f"--eval {other}: this build is of another model" in said
        assert "differs: tokenizer (000000000000... -> 222222222222...)" in said and "Traceback" not in said
        nothing = write_build(tmp_path / "nothing", {"one": (SETTINGS, [[EMPTY_PACK, EMPTY_PACK]])})
        said = train(build, "--out", tmp_path / "run", "--eval", nothing, status=2)
        assert "no supervised token" in said
        assert "missing" in train(build, "--out", tmp_path / "run", "--eval", tmp_path, status=2)
        assert "--eval-every: there is no build" in train(build, "--out", tmp_path / "run", "--eval-every", 2, status=2)
        assert not (tmp_path / "run" / "run.json").exists()

    def test_is_shown(self, train, build, held, evaluated, tmp_path):
        said = train(build, "--out", tmp_path, "--zero", 0, "--eval", held, "--eval-every", 2, "--max-steps", 1)
        loss = evaluations(evaluated)[0]["loss"]
        assert f"evaluation  align 0/3  loss {loss:.4f}  captions " in said
        assert "evaluated on: build, root" in said and ", every 2 steps" in said

    def test_is_told_to_tensorboard_and_stays_there_after_a_resume(self, train, build, held, evaluated, tmp_path):
        pytest.importorskip("tensorboard", reason="needs the package tensorboard")
        from tests.runtime.test_board import told

        flags = ("--out", tmp_path, "--zero", 0, "--tensorboard")
        train(build, *flags, "--eval", held, "--eval-every", 2, "--max-steps", 2)
        known = {(each["stage"], each["step"]): each for each in evaluations(evaluated)}
        losses = [known["align", step]["loss"] for step in (0, 2, 3)] + [known["tune", 2]["loss"]]
        train(build, *flags, "--resume", "--max-steps", 5)
        assert told(tmp_path, "evaluation/loss") == [
            (step, pytest.approx(loss, abs=1e-6)) for step, loss in zip((0, 2, 3, 5), losses, strict=True)
        ]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("zero", [1, 3])
def test_two_processes_tell_the_same_and_train_the_same(build, held, tmp_path, zero):
    """Though in the last round of the second stage one of them has no pack."""
    flags = ("--zero", zero, "--micro-batch", 2)
    launching.train(build, "--out", tmp_path / "without", *flags, processes=2)
    launching.train(build, "--out", tmp_path / "with", *flags, "--eval", held, "--eval-every", 2, processes=2)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    launching.train(build, "--out", tmp_path / "alone", "--zero", zero, "--eval", held, "--max-steps", 1)
    alone, both = evaluations(tmp_path / "alone")[0], evaluations(tmp_path / "with")
    assert len(both) == 7 and both[0]["tokens"] == alone["tokens"]
    assert both[0]["loss"] == pytest.approx(alone["loss"], abs=1e-6)
    assert both[0]["loss_by_source"] == pytest.approx(alone["loss_by_source"], abs=1e-6)
