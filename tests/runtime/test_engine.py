"""DeepSpeed at every stage and precision: the same numbers, and nothing lost in a checkpoint."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import CheckpointError
from runtime.loader import Division, Play
from runtime.model.head import Output
from runtime.optimizer import freeze
from runtime.parts import write
from runtime.processes import Place
from shards.digest import digest_file
from tests.runtime.small import ALIGN, GEOMETRY, SETTINGS

pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.slow]

CPU = torch.device("cpu")
PLACE = Place(rank=0, world=1, local_rank=0, local_world=1)
DIVISION = Division(batch=4, world=1, micro_batch=2)
MODES = [(zero, precision) for zero in (0, 1, 2, 3) for precision in ("fp32", "bf16")]
ALL_MODES = [(*mode, False) for mode in MODES] + [(*mode, True) for mode in MODES if mode[0] > 0]
"""ZeRO, precision, and whether the optimizer is on the CPU."""
RATES = {"vision": 1e-3, "projector": 2e-3, "language": 5e-3}


@pytest.fixture
def make():
    from runtime.engine import Engine
    from runtime.model.sail_vl import build_model

    made = []

    def engine(zero: int, precision: str, offload: bool = False, settings=SETTINGS, seed: int = 7) -> Engine:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        model = build_model("sail-vl-tiny", GEOMETRY, seed, dtype)
        made.append(Engine(model, settings, DIVISION, zero=zero, precision=precision, device=CPU, offload=offload))
        return made[-1]

    yield engine
    for each in made:
        each.close()


def learn(engine, build, step: int, rates=RATES, times: float = 1.0) -> float:
    """One step; its loss times `times`. The gradient's norm."""
    from shards.build import Build

    denominator = float(Build.open(build).stage("tune").steps[step]["denominator"])
    data = Play(build, "tune", DIVISION, 0)
    for micro in range(DIVISION.micro_steps):
        output = engine.forward(data[step * DIVISION.micro_steps + micro].row.expand())
        engine.backward(output._replace(loss_sum=output.loss_sum * times), denominator=denominator)
    return float(engine.step(rates))


def whole(engine) -> dict[str, torch.Tensor]:
    from runtime.weights import gather

    return {name: tensor.clone() for name, tensor in gather(engine.model, PLACE)}


def save(engine, folder):
    """Its file of a checkpoint, with size and digest."""
    file = folder / "00000.safetensors"
    return file, *write(file, *engine.contents(PLACE))


def reference(build) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Norms of two steps, and the weights after: torch alone, no DeepSpeed, all packs in one micro-batch."""
    from runtime.model.sail_vl import build_model
    from runtime.optimizer import adamw, group, set_rates
    from shards.build import Build

    model = build_model("sail-vl-tiny", GEOMETRY, 7)
    freeze(model, SETTINGS)
    groups = group(model, SETTINGS)
    optimizer = adamw(model, groups, SETTINGS)
    norms = []
    for step in (0, 1):
        denominator = float(Build.open(build).stage("tune").steps[step]["denominator"])
        micro = Play(build, "tune", Division(batch=4, world=1, micro_batch=4), 0)[step]
        (model(micro.row.expand()).loss_sum / denominator).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip)))
        set_rates(optimizer, groups, RATES, SETTINGS)
        optimizer.step()
        optimizer.zero_grad()
    return norms, {name: p.detach() for name, p in model.named_parameters()}


def test_every_zero_stage_does_what_plain_torch_does(make, build):
    """fp32: gradient, clipping (the norms are above the limit), AdamW, rates by module, decay by group."""
    norms, expected = reference(build)
    assert min(norms) > SETTINGS.clip
    for zero in (0, 1, 2, 3):
        engine = make(zero, "fp32")
        assert [learn(engine, build, step) for step in (0, 1)] == pytest.approx(norms, rel=1e-5)
        found = whole(engine)
        for name, value in expected.items():
            # Adam's first steps are near sign(gradient): where a gradient is rounding noise, so is its sign
            apart = (found[name] - value).abs() > 1e-5
            assert apart.float().mean() < 1e-4, (zero, name)


def test_what_zero_3_does_to_torch_is_undone_in_whichever_order_engines_end(make):
    linear = torch.nn.functional.linear
    first, second = make(3, "fp32"), make(3, "fp32")
    assert torch.nn.functional.linear is not linear
    first.close()
    second.close()
    assert torch.nn.functional.linear is linear


class Two(torch.nn.Module):
    """Two layers, of which a micro-step uses one or both."""

    USES = (("both", "both"), ("one", "one"), ("both", "one"), ("one", "both"), ("both", "both"))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.projector = torch.nn.Linear(8, 8)
        self.language = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, which: str) -> torch.Tensor:
        x = x.to(self.language.weight.dtype)
        return (self.language(x) + self.projector(x) if which == "both" else self.language(x)).square().sum()


def two(step: int, micro: int) -> tuple[torch.Tensor, str]:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(10 * step + micro)), Two.USES[step][micro]


@pytest.mark.parametrize(("zero", "precision", "offload"), ALL_MODES)
def test_a_step_or_micro_step_need_not_use_every_parameter(zero, precision, offload):
    """Its gradient is then 0, or that of the other micro-step; not one that was left from an earlier step."""
    from runtime.engine import Engine
    from runtime.optimizer import adamw, group, set_rates

    settings = msgspec.structs.replace(SETTINGS, lr={"projector": 2e-3, "language": 5e-3})
    model = Two()
    groups = group(model, settings)
    optimizer = adamw(model, groups, settings)
    division = Division(batch=2, world=1, micro_batch=1)
    engine = Engine(Two(), settings, division, zero=zero, precision=precision, device=CPU, offload=offload)
    try:
        for step in range(len(Two.USES)):
            for micro in (0, 1):
                (model(*two(step, micro)) / 8).backward()
                engine.backward(Output(engine._deepspeed(*two(step, micro)), torch.empty(0)), denominator=8.0)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip))
            set_rates(optimizer, groups, settings.lr, settings)
            optimizer.step()
            optimizer.zero_grad()
            assert float(engine.step(settings.lr)) == pytest.approx(norm, rel=1e-5 if precision == "fp32" else 5e-3)
        found = whole(engine)
        for name, value in model.named_parameters():
            assert torch.allclose(found[name].float(), value, atol=1e-6 if precision == "fp32" else 4e-3), name
    finally:
        engine.close()


@pytest.mark.parametrize(("zero", "offload"), [(0, False), (1, True), (2, True), (3, True)])
def test_bf16_gradients_are_added_up_in_fp32(build, zero, offload):
    """Also at ZeRO 0, where DeepSpeed itself rounds after each micro-step: 32 times a gradient is exactly 32 times
    it."""
    from runtime.engine import Engine
    from runtime.model.sail_vl import build_model

    settings = msgspec.structs.replace(ALIGN, clip=0.0)
    batch = Play(build, "tune", Division(batch=4, world=1, micro_batch=1), 0)[0].row.expand()
    norms = []
    for division in (Division(batch=times, world=1, micro_batch=1) for times in (1, 32)):
        model = build_model("sail-vl-tiny", GEOMETRY, 7, torch.bfloat16)
        engine = Engine(model, settings, division, zero=zero, precision="bf16", device=CPU, offload=offload)
        for _ in range(division.micro_steps):
            engine.backward(engine.forward(batch), denominator=1.0)
        norms.append(float(engine.step({"projector": 0.0})))
        engine.close()
    assert norms[1] == pytest.approx(32 * norms[0], rel=1e-6)


@pytest.mark.parametrize(("zero", "precision", "offload"), ALL_MODES)
def test_a_checkpoint_brings_back_moments_and_weights_and_not_rates(make, build, tmp_path, zero, precision, offload):
    """And a gradient that is not finite changes none of them: neither weights nor what the next step makes of them."""
    settings = msgspec.structs.replace(SETTINGS, lr={"projector": 2e-3, "language": 5e-3})  # vision is frozen
    engine = make(zero, precision, offload, settings)
    learn(engine, build, 0)
    assert {int(state["step"]) for state in engine._adamw.state.values()} == {1}
    file = save(engine, tmp_path)[0]
    before = whole(engine)
    assert not math.isfinite(learn(engine, build, 2, times=math.nan))
    after = whole(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert math.isfinite(learn(engine, build, 1))
    expected = whole(engine)
    assert any(not torch.equal(expected[name], after[name]) for name in after)

    again = make(zero, precision, offload, settings)
    again.load([file], PLACE)
    learn(again, build, 1)
    found = whole(again)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    learn(again, build, 2, {"projector": 0.25, "language": 0.5})
    held = [(g["lr"], g["weight_decay"]) for g in again._deepspeed.optimizer.param_groups]
    assert held == [(0.25, 0.05), (0.25, 0.0), (0.5, 0.05), (0.5, 0.0)]


@pytest.mark.parametrize("zero", [0, 3])
def test_a_checkpoint_has_nothing_of_frozen_weights(make, build, tmp_path, zero):
    """They are those that the stage began with."""
    engine = make(zero, "fp32", settings=ALIGN, seed=1)
    learn(engine, build, 0, {"projector": 1e-3})
    file, size, digest = save(engine, tmp_path)
    assert (file.stat().st_size, digest_file(file)) == (size, digest)
    assert {name.split("/")[1].split(".")[0] for name in load_file(file)} == {"projector"}
    again = make(zero, "fp32", settings=ALIGN, seed=2)
    before = whole(again)
    again.load([file], PLACE)
    after = whole(again)
    learn(again, build, 1, {"projector": 1e-3})
    trained = whole(again)
    for name in before:
        if name.startswith("projector."):
            assert torch.equal(after[name], whole(engine)[name])
            assert not torch.equal(trained[name], after[name]), name
        else:
            assert torch.equal(after[name], before[name]) and torch.equal(trained[name], before[name])


def test_a_checkpoint_of_other_modules_is_refused_and_changes_nothing(make, build, tmp_path):
    file = save(make(2, "fp32", settings=ALIGN, seed=1), tmp_path)[0]
    engine = make(2, "fp32", seed=2)
    before = whole(engine)
    with pytest.raises(CheckpointError, match="of another model, or of one that trains other modules"):
        engine.load([file], PLACE)
    assert all(torch.equal(before[name], value) for name, value in whole(engine).items())


def test_before_the_first_update_there_are_no_moments(make, build, tmp_path):
    """A run whose steps so far had no finite gradient can be saved, and goes on as if it had begun there."""
    engine = make(1, "fp32", settings=ALIGN)
    learn(engine, build, 0, {"projector": 1e-3}, times=math.nan)
    file = save(engine, tmp_path)[0]
    again = make(1, "fp32", settings=ALIGN)
    again.load([file], PLACE)
    for each in (engine, again):
        learn(each, build, 1, {"projector": 1e-3})
    assert all(torch.equal(whole(engine)[name], value) for name, value in whole(again).items())
