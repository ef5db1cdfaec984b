"""Averages of weights: exact, of one model only, and as good as trained weights to whoever reads them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from runtime import initial, record, weights
from runtime.arguments import parse
from runtime.errors import CheckpointError
from runtime.export import export
from runtime.initial import Initial
from runtime.model.sail_vl import build_model
from runtime.safetensor import Stored
from runtime.soup import main, soup, warnings
from shards.digest import digest_file
from shards.manifest import read_manifest
from tests.runtime.small import GEOMETRY

HEAD, NORM = "language.lm_head.weight", "language.model.norm.weight"
ABOUT = {"model": "sail-vl-tiny", "geometry": msgspec.to_builtins(GEOMETRY), "root": "0" * 64, "steps": 5}


def saved(folder: Path, seed: int, *, precision: str = "fp32", stage: str = "tune", **changes) -> Path:
    """Random weights as a stage leaves them; `changes` are tensors by name, or fields of config.json."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    own, shared = weights.tensors(build_model("sail-vl-tiny", GEOMETRY, seed, dtype))
    tensors = {name: tensor.detach() for name, tensor in own.items()}
    tensors |= {name: changes.pop(name) for name in list(changes) if isinstance(changes[name], torch.Tensor)}
    folder.parent.mkdir(exist_ok=True)
    about = {**ABOUT, "stage": stage, "precision": precision, "shared": shared, **changes}
    write(folder, tensors, **about)
    return folder


def write(folder: Path, tensors: dict[str, torch.Tensor], **about) -> None:
    stored = {name: Stored(tuple(each.shape), each.dtype) for name, each in tensors.items()}
    weights.write(folder, stored, tensors.items(), **about)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("soup")
    return [saved(folder / f"run{seed}", seed, root=str(seed) * 64) for seed in (1, 2, 3)]


def of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / weights.FILE)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("given", [None, [0.5, 0.3, 0.2], [5, 3, 2]])
def test_every_tensor_is_the_mean_in_fp64_rounded_once(three, tmp_path, given):
    soup(three, tmp_path / "out", given)
    inputs, made = [of(folder) for folder in three], of(tmp_path / "out")
    shares = [weight / sum(given or [1, 1, 1]) for weight in given or [1, 1, 1]]
    assert made.keys() == inputs[0].keys()
    for name, value in made.items():
        mean = sum(share * each[name].double() for share, each in zip(shares, inputs, strict=True))
        assert value.dtype == torch.float32
        ulp = torch.nextafter(value.abs(), torch.tensor(torch.inf)).double() - value.abs().double()
        assert ((value.double() - mean).abs() <= ulp / 2 * (1 + 1e-6)).all(), name
        assert not torch.equal(value, inputs[0][name]) or torch.equal(inputs[0][name], inputs[1][name])


def test_bf16_is_summed_in_fp64_too(tmp_path):
    """In bf16, 1 + 2^-8 + 2^-8 is 1, so a running sum would lose both."""
    small = torch.full((32,), 2.0**-8)
    values = [torch.ones(32), small, small]
    size = of(saved(tmp_path / "size", 1, precision="bf16"))[NORM].shape
    models = [
        saved(tmp_path / str(k), k, precision="bf16", **{NORM: value[:1].bfloat16().expand(size).contiguous()})
        for k, value in enumerate(values)
    ]
    soup(models, tmp_path / "out", [1, 1, 1])
    made = of(tmp_path / "out")[NORM]
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, torch.tensor((1 + 2.0**-7) / 3, dtype=torch.float64).bfloat16().expand(size))


def test_counts_of_a_mixture_of_experts_stay_whole(tmp_path):
    """A mixture's routers leave how often each expert was chosen."""
    name, counts = "sail-vl-tiny-moe", "language.choices_LE"
    models = []
    for seed, count in ((1, 4), (2, 7)):
        model = build_model(name, msgspec.structs.replace(GEOMETRY, name=name), seed)
        model.get_buffer(counts).fill_(count)
        own, shared = weights.tensors(model)
        about = {**ABOUT, "model": name, "stage": "tune", "precision": "fp32", "shared": shared}
        write(tmp_path / str(seed), {key: each.detach() for key, each in own.items()}, **about)
        models.append(tmp_path / str(seed))
    soup(models, tmp_path / "out", [1, 3])
    made = of(tmp_path / "out")[counts]
    assert made.dtype == torch.int64 and (made == 6).all()  # 25 / 4


def test_the_order_in_which_models_are_given_changes_no_byte(three, tmp_path):
    given = [0.5, 0.3, 0.2]
    made = []
    for number, order in enumerate(itertools.permutations(range(3))):
        soup([three[k] for k in order], tmp_path / str(number), [given[k] for k in order])
        made.append(files(tmp_path / str(number)))
    assert all(each == made[0] for each in made) and set(made[0]) == {weights.FILE, weights.CONFIG}
    soup(three, tmp_path / "equal")
    soup(three[::-1], tmp_path / "equal too")
    assert files(tmp_path / "equal") == files(tmp_path / "equal too") != made[0]


def test_config_json_says_what_it_is_made_of(three, tmp_path):
    soup(three, tmp_path / "out", [2, 1, 1])
    config = msgspec.json.decode((tmp_path / "out" / weights.CONFIG).read_bytes())
    assert config["weights"] == digest_file(tmp_path / "out" / weights.FILE)
    assert (config["root"], config["stage"], config["steps"], config["model"]) == ("", "", 0, "sail-vl-tiny")
    assert sorted(config["soup"], key=lambda each: each["root"]) == [
        {"weights": digest_file(folder / weights.FILE), "share": share, "root": root * 64, "stage": "tune", "steps": 5}
        for folder, share, root in zip(three, (0.5, 0.25, 0.25), "123", strict=True)
    ]
    assert "soup" not in msgspec.json.decode((three[0] / weights.CONFIG).read_bytes())


def test_it_is_read_as_trained_weights_are(three, tmp_path):
    """By --init, by export, and by what answers questions."""
    from runtime.generate import identify, open_model

    out = tmp_path / "out"
    soup(three, out)
    model = build_model("sail-vl-tiny", GEOMETRY, 9)
    assert f"tensors from {out}" in initial.load(model, Initial(whole=out))
    assert torch.equal(model.get_parameter(NORM), of(out)[NORM])
    export(out, tmp_path / "released", "released")
    again = build_model("sail-vl-tiny", GEOMETRY, 9)
    initial.load(again, Initial(whole=tmp_path / "released"))
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
    asked, _ = open_model(identify(out, None), out, torch.device("cpu"), torch.float32)
    assert torch.equal(asked.get_parameter(NORM), model.get_parameter(NORM))
    soup([out, three[0]], tmp_path / "of a soup")


def test_other_models_are_refused_by_the_first_difference(three, tmp_path):
    def said(other: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            soup([three[0], other], tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "differs: precision (fp32 -> bf16)" in said(saved(tmp_path / "bf16", 1, precision="bf16"))
    assert "differs: model (sail-vl-tiny -> other)" in said(saved(tmp_path / "other", 4, model="other"))
    tiles = {**ABOUT["geometry"], "max_tiles": 6}
    assert "differs: geometry.max_tiles (12 -> 6)" in said(saved(tmp_path / "tiles", 4, geometry=tiles))
    assert "differs: pixel_shuffle (v2 -> v1)" in said(saved(tmp_path / "shuffle", 4, pixel_shuffle="v1"))
    head = torch.zeros(2, 2)
    assert f"only one of them has {HEAD}" in said(saved(tmp_path / "untied", 4, **{HEAD: head}))
    assert f"differs: {NORM} ([" in said(saved(tmp_path / "shape", 4, **{NORM: torch.zeros(3)}))
    nan = torch.full_like(of(three[0])[NORM], torch.nan)
    assert f"{NORM}: a weight is not finite" in said(saved(tmp_path / "nan", 4, **{NORM: nan}))
    broken = saved(tmp_path / "broken", 4)
    data = bytearray((broken / weights.FILE).read_bytes())
    data[-1] ^= 1
    (broken / weights.FILE).write_bytes(data)
    assert "not those that config.json" in said(broken)
    assert "no weights of a trained stage here" in said(tmp_path)


def test_mistakes_of_the_command_line_are_said(three, tmp_path, capsys):
    def said(*arguments: object) -> str:
        assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        found = capsys.readouterr().err
        assert "Traceback" not in found and not (tmp_path / "out").exists()
        return found

    assert "takes two models or more" in said(three[0])
    assert "--weights: 2 weights for 3 models" in said(*three, "--weights", "0.5,0.5")
    assert "--weights: a weight must be above 0, got 0" in said(*three, "--weights", "1,0,1")
    assert "takes numbers" in said(*three, "--weights", "1,x,1")
    shutil.copytree(three[0], tmp_path / "copy")
    assert "the same weights are given twice" in said(three[0], tmp_path / "copy")
    assert main([str(three[0]), str(three[1]), "--out", str(three[2])]) == 2
    assert "something is in this folder already" in capsys.readouterr().err


def run_of(folder: Path, build: Path, seeds: dict[str, int], *flags: object) -> Path:
    """A run's folder: run.json, and the weights of its stages."""
    manifest = read_manifest(build)
    arguments = parse([str(build), "--out", str(folder), *map(str, flags)])
    folder.mkdir()
    record.write(folder, record.settle(arguments, manifest, begun=False, world=1, threads=1, precision="fp32"))
    for stage, seed in seeds.items():
        saved(folder / stage, seed, stage=stage, root=manifest.root)
    return folder


def test_models_that_are_not_of_one_family_are_warned_of(build, tmp_path, capsys):
    base = run_of(tmp_path / "base", build, {"align": 1, "tune": 2})
    one = run_of(tmp_path / "one", build, {"align": 3, "tune": 4}, "--init", base / "align")
    two = run_of(tmp_path / "two", build, {"align": 5, "tune": 6}, "--init", base / "tune")
    stranger = run_of(tmp_path / "stranger", build, {"align": 7, "tune": 8})
    for pair in ([one / "tune", two / "tune"], [base / "tune", two / "align"], [one / "align", one / "tune"]):
        assert warnings(pair) == [], pair
    (said,) = warnings([one / "tune", two / "tune", stranger / "tune"])
    assert said.startswith(f"{one / 'tune'} and {stranger / 'tune'} were not trained from the same weights")
    average = saved(base / "averages" / "tune", 9, root=read_manifest(build).root)
    assert warnings([average, one / "tune"]) == []
    shutil.copytree(two / "tune", tmp_path / "elsewhere" / "weights")
    (said,) = warnings([one / "tune", tmp_path / "elsewhere" / "weights"])
    assert "is not known" in said and f"the history of {tmp_path / 'elsewhere' / 'weights'} is not" in said
    assert main([str(one / "tune"), str(stranger / "tune"), "--out", str(tmp_path / "out")]) == 0  # warned, and done
    assert "warning: " in capsys.readouterr().err
    soup([one / "tune", two / "tune"], tmp_path / "soup")
    assert warnings([tmp_path / "soup", one / "tune"]) == []


def test_mixc_soup_starts_it(three, tmp_path):
    import os
    import subprocess
    import sys

    from tests.runtime.launching import ROOT

    command = [sys.executable, "-m", "mixc", "soup", *map(str, three[:2]), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'out'}: the average of 2 models\n", done.stderr
    soup(three[:2], tmp_path / "here")
    assert files(tmp_path / "out") == files(tmp_path / "here")
