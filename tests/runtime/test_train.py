"""Whole runs in one process: what they leave, and what they refuse."""

from __future__ import annotations

import math
import shutil

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime import metrics
from runtime import train as module
from runtime.checkpoint import files
from runtime.errors import ResumeError
from runtime.flops import Work, step_flops
from runtime.model.zoo import TINY
from shards.build import Build
from shards.digest import canonical_json, digest
from shards.pack import pack_digest
from tests.runtime.launching import lines, weights
from tests.runtime.small import ALIGN, SETTINGS, steps_of, write_build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(build, tmp_path_factory):
    """A run that nothing has disturbed: ZeRO 0, one pack at a time. Made by the first test that asks."""
    return tmp_path_factory.mktemp("reference") / "run"


@pytest.fixture
def whole(train, build, reference):
    if not reference.exists():
        train(build, "--out", reference, "--zero", 0)
    return reference


def of(path):
    return load_file(path / "model.safetensors")


def test_what_a_run_leaves(whole, build):
    opened = Build.open(build)
    rows = lines(whole)
    assert [(row["stage"], row["step"]) for row in rows] == [
        *(("align", step) for step in range(3)),
        *(("tune", step) for step in range(5)),
    ]
    for row in rows:
        reader = opened.stage(row["stage"])
        record = reader.steps[row["step"]]
        first = row["step"] * 4
        assert row["packs"] == [
            [number, pack_digest(reader.pack_bytes(number)).hex()[:16]] for number in range(first, first + 4)
        ]
        assert (row["tokens"], row["supervised_tokens"]) == (record["tokens"], record["supervised"])
        assert row["loss"] == pytest.approx(math.log(151936), abs=0.2)
        assert row["skipped"] == 0 and row["grad_norm"] > 0 and row["seconds"] > 0
        packs = [reader.pack(number) for number in range(first, first + 4)]
        lengths = [np.diff([*pack.segments["start"], len(pack.tokens)]) for pack in packs if len(pack.tokens)]
        work = Work(
            tokens=row["tokens"],
            tiles=row["tiles"],
            targets=row["supervised_tokens"],
            pairs=sum(int((own**2).sum()) for own in lengths),
        )
        assert row["flops"] == msgspec.to_builtins(step_flops(TINY, row["lr"], work))
        assert row["padding"] == pytest.approx(1 - row["tokens"] / (4 * 512), abs=1e-4)
        assert row["supervised_tokens_per_second"] == pytest.approx(work.targets / row["seconds"], rel=0.01)
        assert row["tiles_per_second"] == pytest.approx(work.tiles / row["seconds"], rel=0.01)
        assert (row["mfu"], row["memory"]) == (None, None)  # a CPU has neither
        assert set(row["loss_by_source"]) == {"captions", "chat", "prose"}
    assert list(rows[0]["lr"]) == ["projector"]
    assert set(rows[3]["lr"]) == {"vision", "projector", "language"}
    config = msgspec.json.decode((whole / "tune" / "config.json").read_bytes())
    assert (config["root"], config["stage"], config["steps"]) == (opened.manifest.root, "tune", 5)
    assert sorted(path.name for path in whole.iterdir()) == [".lock", "align", "metrics.jsonl", "run.json", "tune"]


def test_frozen_modules_are_unchanged_bit_for_bit(whole):
    from runtime.model.sail_vl import build_model
    from runtime.weights import tensors
    from tests.runtime.small import GEOMETRY

    start, _ = tensors(build_model("sail-vl-tiny", GEOMETRY, 7))
    align, tune = of(whole / "align"), of(whole / "tune")
    for name, value in start.items():
        assert torch.equal(align[name], value) == (not name.startswith("projector.")), name
    for module_ in ("vision", "projector", "language"):
        assert any(not torch.equal(tune[name], align[name]) for name in tune if name.startswith(module_))


def test_loss_is_what_the_parts_say(whole):
    """The step's loss is the mean over sources of theirs, weighted by their share of the denominator."""
    row = lines(whole)[0]
    low, high = min(row["loss_by_source"].values()), max(row["loss_by_source"].values())
    assert low <= row["loss"] <= high


@pytest.mark.parametrize(("micro_batch", "zero"), [(2, 0), (4, 1), (1, 3)])
def test_neither_accumulation_nor_zero_changes_packs_or_losses(train, build, whole, tmp_path, micro_batch, zero):
    train(build, "--out", tmp_path, "--micro-batch", micro_batch, "--zero", zero)
    for expected, found in zip(lines(whole), lines(tmp_path), strict=True):
        assert found["packs"] == expected["packs"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found["loss_by_source"] == pytest.approx(expected["loss_by_source"], abs=1e-5)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_packing_does_not_change_loss_or_gradient(train, tmp_path):
    """The same samples, one a pack or many."""
    from tests.runtime.small import pack_of

    samples = [("prose", list(range(100 + k, 112 + k)), None if k % 3 else 0, 1.0 / (k + 1)) for k in range(4)]
    apart = [[pack_of(sample) for sample in samples]]
    together = [[pack_of(*samples[:3]), pack_of(samples[3])]]
    rows = []
    for name, steps in (("apart", apart), ("together", together)):
        built = write_build(tmp_path / name, {"tune": (SETTINGS, steps)})
        train(built, "--out", tmp_path / f"{name}-run", "--zero", 0)
        rows.append(lines(tmp_path / f"{name}-run")[0])
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-4)


def test_a_module_with_a_tenth_of_the_rate_moves_a_tenth_as_far(train, tmp_path):
    """Adam's first step is the rate, whatever the gradient's size."""
    settings = msgspec.structs.replace(
        SETTINGS, lr={"projector": 1e-3, "language": 1e-4}, schedule="constant", warmup_steps=0, weight_decay=0.0
    )
    built = write_build(tmp_path / "build", {"align": (ALIGN, steps_of(1, 1)), "tune": (settings, steps_of(1, 2))})
    train(built, "--out", tmp_path / "run", "--zero", 2)
    before, after = of(tmp_path / "run" / "align"), of(tmp_path / "run" / "tune")
    for name, rate in (("projector", 1e-3), ("language", 1e-4), ("vision", 0.0)):
        moves = [(after[key] - before[key]).abs().max() for key in after if key.startswith(name)]
        assert float(max(moves)) == pytest.approx(rate, rel=0.05)


def test_bf16_trains(train, build, whole, tmp_path):
    train(build, "--out", tmp_path, "--precision", "bf16", "--zero", 1)
    assert all(value.dtype == torch.bfloat16 for value in of(tmp_path / "tune").values())
    for expected, found in zip(lines(whole), lines(tmp_path), strict=True):
        assert found["packs"] == expected["packs"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=0.02)


def test_a_run_in_pieces_is_the_run(train, build, whole, tmp_path):
    """Stopped within a stage, at its end and within the next; and once more when there is nothing left."""
    go_on = f"go on: mixc train {build} --out {tmp_path} --resume"
    said = train(build, "--out", tmp_path, "--zero", 0, "--max-steps", 2, "--stages", "align").splitlines()
    assert said[-2:] == ["stopped after 2 of 3 steps of stage align; what is done is saved (--max-steps 2)", go_on]
    assert not (tmp_path / "align").exists()
    said = train(build, "--out", tmp_path, "--resume", "--max-steps", 1).splitlines()  # it has made more already
    assert said[-2:] == ["stopped after 2 of 3 steps of stage align; what is done is saved (--max-steps 1)", go_on]
    said = train(build, "--out", tmp_path, "--resume", "--max-steps", 3).splitlines()
    assert "all stages are trained (align; not asked for: tune)" in said[-2], said
    assert (tmp_path / "align").exists()
    said = train(build, "--out", tmp_path, "--resume", "--stages", "align,tune", "--max-steps", 3).splitlines()
    assert said[-2:] == ["stopped before stage tune; what comes before it is saved (--max-steps 3)", go_on]
    train(build, "--out", tmp_path, "--resume", "--stages", "tune", "--max-steps", 5, "--save-every", 1, "--keep", 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["tune-00000002"]
    first, again = (train(build, "--out", tmp_path, "--resume") for _ in range(2))
    for said in (first, again):
        assert said.splitlines()[-2:] == [
            f"{tmp_path}: all stages are trained (align, tune); the weights are in {tmp_path / 'tune'}",
            f'next: mixc chat {tmp_path} --image x.jpg "..."',
        ]
    assert weights(tmp_path) == weights(whole)
    kept = ("stage", "step", "loss", "grad_norm", "packs", "lr", "loss_by_source", "skipped")
    assert [{key: row[key] for key in kept} for row in lines(tmp_path)] == [
        {key: row[key] for key in kept} for row in lines(whole)
    ]


def test_the_table_says_what_is_trained_and_what_with(train, build, tmp_path):
    said = train(build, "--out", tmp_path, "--stages", "align", "--max-steps", 1)
    for words in (
        "vision │ 72,288 │ frozen",
        "projector │ 5,440 │ 2.00e-03",
        "attention: sdpa_loop",
        "1 on cpu, ZeRO 1",
        f"root {Build.open(build).manifest.root[:16]}",
        "ln 151936 = 11.93",
        "weights random, seed 7",
        "align 1/3  loss 11.9",
    ):
        assert words in " ".join(said.split()).replace("  ", " ") or words in said, said


def test_the_share_of_what_a_device_can_do(train, build, tmp_path):
    said = train(build, "--out", tmp_path, "--stages", "align", "--max-steps", 1, "--peak-tflops", 0.5)
    (row,) = lines(tmp_path)
    assert row["mfu"] == pytest.approx(sum(row["flops"].values()) / row["seconds"] / 0.5e12, abs=1e-4)
    assert f"mfu {row['mfu']:.1%}" in said and "peak of a device: 0.5 TFLOP/s" in said


def test_a_half_written_checkpoint_is_never_taken_for_one(train, build, whole, tmp_path):
    train(build, "--out", tmp_path, "--zero", 0, "--max-steps", 2)
    kept = tmp_path / "checkpoints" / "align-00000002"
    later = tmp_path / "checkpoints" / ".align-00000003.partial"
    shutil.copytree(kept, later)
    (later / files.STATE).unlink()
    (tmp_path / ".align.partial").mkdir()
    train(build, "--out", tmp_path, "--resume")
    assert not later.exists() and not (tmp_path / ".align.partial").exists()
    assert weights(tmp_path) == weights(whole)


def test_a_damaged_checkpoint_is_refused_by_name(train, build, tmp_path):
    """At ZeRO 3: an engine that cannot load what it should lets go of torch, too."""
    train(build, "--out", tmp_path, "--zero", 3, "--max-steps", 1)
    folder = tmp_path / "checkpoints" / "align-00000001"
    (file,) = (folder / "parts").iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    said = train(build, "--out", tmp_path, "--resume", status=2)
    assert file.name in said and "is not as it was written" in said and "Traceback" not in said
    file.write_bytes(good)
    state = folder / files.STATE
    state.write_bytes(state.read_bytes().replace(b'"step":1', b'"step":2'))
    assert "its checksum does not hold" in train(build, "--out", tmp_path, "--resume", status=2)


def test_mistakes_are_said_before_training(train, build, whole, tmp_path):
    """And leave nothing behind that would have to be cleaned up first."""
    said = train(build, "--out", whole, status=2)
    assert "a run in this folder already" in said
    said = train(build, "--out", tmp_path / "a", "--micro-batch", 3, status=2)
    assert "stage 'align'" in said and "--micro-batch can be 1, 2 or 4" in said
    said = train(build, "--out", tmp_path / "a", "--init", tmp_path, status=2)
    assert "neither model.safetensors nor" in said
    said = train(build, "--out", tmp_path / "a", "--offload", "--zero", 0, status=2)
    assert "--offload needs --zero 1, 2 or 3" in said
    said = train(build, "--out", tmp_path / "a", "--stages", "nosuch", status=2)
    assert "no stage 'nosuch'" in said
    assert not (tmp_path / "a" / "run.json").exists()
    other = write_build(tmp_path / "other", {"align": (ALIGN, steps_of(3, 9)), "tune": (SETTINGS, steps_of(5, seed=2))})
    shutil.copytree(whole, tmp_path / "copied")
    said = train(other, "--out", tmp_path / "copied", "--resume", status=2)
    assert "another build" in said and "moved: stages.align.digest" in said and "tune" not in said
    assert "--continue-from" in said and "`continue_from`" in said and "docs/training.md" in said
    frozen = msgspec.structs.replace(ALIGN, lr={})
    nothing = write_build(tmp_path / "nothing", {"align": (frozen, steps_of(1, 1))})
    assert "nothing to train" in train(nothing, "--out", tmp_path / "b", status=2)


def test_a_checkpoint_of_another_kind_is_refused(train, build, tmp_path):
    train(build, "--out", tmp_path, "--zero", 2, "--max-steps", 1)
    path, state = files.latest(tmp_path)
    for zero, precision, what in (
        (1, "fp32", "written with --zero 2, not 1"),
        (2, "bf16", "written with --precision fp32, not bf16"),
    ):
        with pytest.raises(ResumeError) as caught:
            files.fits(path, state, root=state.root, zero=zero, precision=precision)
        assert what in str(caught.value)


def test_a_checkpoint_of_an_older_version_is_refused_by_its_format(train, build, tmp_path):
    train(build, "--out", tmp_path, "--zero", 1, "--max-steps", 1)
    where = tmp_path / "checkpoints" / "align-00000001" / files.STATE
    older = msgspec.json.decode(where.read_bytes())["state"] | {"format": 1}
    body = canonical_json(older)
    where.write_bytes(canonical_json({"checksum": digest(body), "state": msgspec.Raw(body)}))
    said = train(build, "--out", tmp_path, "--resume", status=2)
    assert "has format 1, and this version reads and writes 2" in said and "Traceback" not in said


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_optimizer_on_the_cpu_gives_the_same_run(train, build, whole, tmp_path, zero):
    """Here it is on the CPU anyway, but by other code of DeepSpeed's. Taken back from there in the middle."""
    said = train(build, "--out", tmp_path, "--zero", zero, "--offload", "--max-steps", 5)
    assert "optimizer on the CPU" in said
    assert msgspec.json.decode((tmp_path / "run.json").read_bytes())["offload"] is True
    assert "optimizer on the CPU" not in train(build, "--out", tmp_path, "--resume", "--no-offload")
    for expected, found in zip(lines(whole), lines(tmp_path), strict=True):
        assert found["packs"] == expected["packs"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_weights_that_are_not_finite_end_the_run_and_are_not_saved(train, build, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SKIPS", 3)
    poisoned = of(whole / "align")
    poisoned["language.model.norm.weight"][0] = math.nan
    (tmp_path / "init").mkdir()
    save_file(poisoned, tmp_path / "init" / "model.safetensors")
    said = train(build, "--out", tmp_path / "run", "--init", tmp_path / "init", "--stages", "tune", status=1)
    assert "not finite for 3 steps in a row" in said and "Traceback" not in said
    rows = lines(tmp_path / "run")
    assert [(row["loss"], row["grad_norm"], row["skipped"]) for row in rows] == [(None, None, k) for k in (1, 2, 3)]
    assert not (tmp_path / "run" / "tune").exists()


def test_a_run_starts_from_given_weights(train, build, whole, tmp_path):
    """The second stage alone, from the first one's weights, is the second stage."""
    train(build, "--out", tmp_path / "run", "--zero", 0, "--init", whole / "align", "--stages", "tune")
    assert weights(tmp_path / "run")["tune"] == weights(whole)["tune"]
    assert [row["packs"] for row in lines(tmp_path / "run")] == [row["packs"] for row in lines(whole)[3:]]


def test_what_stands_where_weights_belong_is_not_written_over(train, build, tmp_path):
    train(build, "--out", tmp_path, "--zero", 0, "--max-steps", 1)
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "notes").write_text("mine")
    assert "something else stands where" in train(build, "--out", tmp_path, "--resume", status=2)


def test_lines_beyond_the_checkpoint_are_trained_and_told_again(train, build, tmp_path):
    train(build, "--out", tmp_path, "--zero", 0, "--max-steps", 2)
    log = metrics.Log(tmp_path)
    log.write(msgspec.convert(lines(tmp_path)[1] | {"step": 2, "loss": 99.0}, metrics.Line))
    log.close()
    train(build, "--out", tmp_path, "--resume", "--max-steps", 3)
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2] and rows[2]["loss"] < 20
