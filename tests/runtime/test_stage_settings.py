"""What a stage's settings say of training besides rates, in real runs: averages, spikes, the searched rate, experts, recomputing."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from runtime.schedule import learning_rates
from runtime.search import Act, SearchState, advance
from shards.build import Build
from shards.manifest import SearchSettings, SpikeSettings
from tests.runtime.launching import lines, weights
from tests.runtime.small import SETTINGS, steps_of, write_build

STEPS = 12


def built(folder: Path, steps: int = STEPS, model: str = "sail-vl-tiny", **settings: object) -> Path:
    made = msgspec.structs.replace(SETTINGS, **settings)
    return write_build(folder / "build", {"tune": (made, steps_of(steps, seed=3))}, model=model)


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Trained weights after so many steps, from a checkpoint of one process."""
    parts = load_file(run / f"checkpoints/tune-{step:08d}/parts/00000.safetensors")
    return {name.removeprefix("weight/"): t for name, t in parts.items() if name.startswith("weight/")}


EVERY = ("--save-every", 1, "--keep", 100)


class TestAverages:
    def test_they_are_those_of_the_weights_after_every_step(self, train, tmp_path) -> None:
        build, run = built(tmp_path, steps=5, ema=0.75), tmp_path / "run"
        train(build, "--out", run, *EVERY)
        last = {name: t.flatten() for name, t in load_file(run / "tune/model.safetensors").items()}
        average = checkpoint(run, 1)
        for step in (2, 3, 4):
            after = checkpoint(run, step)
            average = {name: 0.75 * t + 0.25 * after[name] for name, t in average.items()}
        found = load_file(run / "averages/tune/model.safetensors")
        for name, before in average.items():
            torch.testing.assert_close(found[name].flatten(), 0.75 * before + 0.25 * last[name], atol=1e-7, rtol=1e-5)
        assert any(not torch.equal(found[name].flatten(), last[name]) for name in last)

    @pytest.mark.parametrize("zero", [0, 1, 3])
    def test_a_run_in_pieces_has_the_same_and_an_average_changes_no_weight(self, train, tmp_path, zero) -> None:
        build = built(tmp_path, steps=4, ema=0.75)
        train(build, "--out", tmp_path / "whole", "--zero", zero)
        train(build, "--out", tmp_path / "parts", "--zero", zero, "--max-steps", 2)
        train(build, "--out", tmp_path / "parts", "--resume")
        for place in ("tune", "averages/tune"):
            files = [tmp_path / run / place / "model.safetensors" for run in ("whole", "parts")]
            assert files[0].read_bytes() == files[1].read_bytes(), place
        plain = write_build(tmp_path / "plain", {"tune": (SETTINGS, steps_of(4, seed=3))})
        train(plain, "--out", tmp_path / "without", "--zero", zero)
        assert weights(tmp_path / "without")["tune"] == weights(tmp_path / "whole")["tune"]
        assert not (tmp_path / "without/averages").exists()


class TestSpikes:
    def test_they_change_nothing_and_are_told(self, train, tmp_path) -> None:
        rule = SpikeSettings(sigma=1e-6, window=4)  # whatever is above the mean
        run = tmp_path / "run"
        train(built(tmp_path, spikes=rule), "--out", run, *EVERY)
        told = lines(run)
        seen: list[float] = []
        for line in told:
            high = len(seen) >= 2 and line["loss"] > statistics.fmean(seen) + 1e-6 * statistics.stdev(seen)
            assert line["spike"] == high, line["step"]
            assert (line["grad_norm"] is None) == high
            seen = [*seen, line["loss"]][-4:]
        spikes = [line["step"] for line in told if line["spike"]]
        assert spikes, "no case"
        assert told[-1]["skipped"] == len(spikes)
        for step in spikes:
            if 0 < step < STEPS - 1:
                before, after = checkpoint(run, step), checkpoint(run, step + 1)
                assert all(torch.equal(before[name], after[name]) for name in before)

    def test_a_run_in_pieces_leaves_out_the_same(self, train, tmp_path) -> None:
        build = built(tmp_path, spikes=SpikeSettings(sigma=1e-6, window=4))
        train(build, "--out", tmp_path / "whole")
        train(build, "--out", tmp_path / "parts", "--max-steps", 7)
        train(build, "--out", tmp_path / "parts", "--resume")
        assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
        assert [line["spike"] for line in lines(tmp_path / "whole")] == [
            line["spike"] for line in lines(tmp_path / "parts")
        ]


class TestSearch:
    SEARCH = SearchSettings(window=3, up=200.0, down=2.0, decay=0.99, start=0, end=STEPS)

    @pytest.fixture(scope="class")
    def build(self, tmp_path_factory) -> Path:
        """Every step has the same packs, so the descent slows down; 200 times the rate is a bad idea."""
        settings = msgspec.structs.replace(SETTINGS, adalrs=self.SEARCH, schedule="constant", warmup_steps=0)
        return write_build(
            tmp_path_factory.mktemp("search") / "build", {"tune": (settings, steps_of(2, seed=3)[:1] * STEPS)}
        )

    def test_rates_follow_it_and_what_is_undone_is_undone(self, train, build, tmp_path) -> None:
        run = tmp_path / "run"
        train(build, "--out", run, *EVERY)
        settings = Build.open(build).manifest.stages[0].train
        state, acts = SearchState(), []
        for line in lines(run):
            plain = learning_rates(line["step"], STEPS, settings)
            assert line["lr"] == pytest.approx({name: rate * state.factor for name, rate in plain.items()})
            kept = state.kept
            state, act = advance(state, line["loss"], line["step"] + 1, self.SEARCH)
            acts.append(act)
            if act is Act.UNDO and line["step"] + 1 < STEPS:
                undone, copy = checkpoint(run, line["step"] + 1), checkpoint(run, kept)
                assert all(torch.equal(undone[name], copy[name]) for name in copy)
                assert not torch.equal(
                    checkpoint(run, line["step"])["language.model.norm.weight"], copy["language.model.norm.weight"]
                )
        assert Act.KEEP in acts and Act.UNDO in acts, f"no case: {acts}"
        assert not (run / "search").exists()

    def test_a_run_in_pieces_finds_the_same_even_in_the_middle_of_a_trial(self, train, build, tmp_path) -> None:
        train(build, "--out", tmp_path / "whole")
        pieces = tmp_path / "parts"
        for stop in (5, 7, 8, 10):
            train(build, "--out", pieces, "--max-steps", stop, *(["--resume"] if pieces.exists() else []))
        train(build, "--out", pieces, "--resume")
        assert weights(tmp_path / "whole") == weights(pieces)


class TestExperts:
    @pytest.fixture(scope="class")
    def build(self, tmp_path_factory) -> Path:
        return built(tmp_path_factory.mktemp("experts"), steps=4, model="sail-vl-tiny-moe", router_loss=1.0)

    def test_no_division_changes_losses_or_what_was_chosen(self, train, build, tmp_path) -> None:
        told, kept = [], []
        for number, flags in enumerate(
            (("--micro-batch", 4, "--zero", 0), ("--zero", 1), ("--micro-batch", 2, "--zero", 3))
        ):
            run = tmp_path / str(number)
            train(build, "--out", run, *flags)
            told.append([line["loss"] for line in lines(run)])
            kept.append(load_file(run / "tune/model.safetensors"))
        for losses, found in zip(told[1:], kept[1:], strict=True):
            assert losses == pytest.approx(told[0], abs=1e-5)
            assert torch.equal(found["language.choices_LE"], kept[0]["language.choices_LE"])
            for name, tensor in kept[0].items():
                if tensor.is_floating_point():
                    torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-4, msg=name)
        # every token of the last step's packs chose two experts in each layer
        tokens = lines(tmp_path / "0")[-1]["tokens"]
        assert kept[0]["language.choices_LE"].sum(1).tolist() == [2 * tokens, 2 * tokens]

    def test_the_balance_loss_moves_the_routers(self, train, build, tmp_path) -> None:
        train(build, "--out", tmp_path / "a")
        free = built(tmp_path, steps=4, model="sail-vl-tiny-moe", router_loss=0.0)
        train(free, "--out", tmp_path / "b")
        gate = "language.model.layers.0.mlp.gate.weight"
        a, b = (load_file(tmp_path / run / "tune/model.safetensors")[gate] for run in "ab")
        assert not torch.equal(a, b)

    def test_a_run_in_pieces_is_the_run(self, train, build, tmp_path) -> None:
        train(build, "--out", tmp_path / "whole")
        train(build, "--out", tmp_path / "parts", "--max-steps", 2)
        train(build, "--out", tmp_path / "parts", "--resume")
        assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_recomputing_changes_no_bit_with_or_without_drop_path(train, tmp_path) -> None:
    build = built(tmp_path, steps=3, drop_path=0.5)
    for name, flags in (("kept", ()), ("again", ("--recompute", "vision,language")), ("dealt", ("--micro-batch", 4))):
        train(build, "--out", tmp_path / name, *flags)
    assert weights(tmp_path / "kept") == weights(tmp_path / "again")
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("kept", "dealt")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    plain = write_build(tmp_path / "plain", {"tune": (SETTINGS, steps_of(3, seed=3))})
    train(plain, "--out", tmp_path / "none")
    assert [line["loss"] for line in lines(tmp_path / "none")] != pytest.approx(losses[0], abs=1e-6)
