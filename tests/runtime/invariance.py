"""Steps of real builds, in as many processes as there are, beside plain torch: a program for torchrun.

The reference is one process and one sample a forward pass, without DeepSpeed, without packs, without micro-steps. Every case plays
the same samples from a build, divided in another way, and says how far its losses and gradients are from the reference's. The first
process prints a line of JSON a case.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import torch

from mixc.plan.divide import loss_weights
from runtime import imports, processes
from runtime.loader import Division, Play
from runtime.processes import Place
from shards.build import Build
from shards.manifest import TrainSettings
from tests.runtime.small import GEOMETRY, SETTINGS, pack_of, write_build

CPU = torch.device("cpu")
STEPS = 2
SEED = 7
"""Of the weights, and of what is dropped in the first step."""

TEXTS = (
    ("captions", 12, 0),
    ("prose", 6, None),
    ("prose", 30, None),
    ("captions", 9, 1),
    ("chat", 20, None),
    ("chat", 3, None),
)
"""Of each sample of a step its source, tokens of text, and image."""

LAYOUTS = {
    "mixed": ((0, 1), (2,), (3, 4), (5,)),  # of two processes that take a pack at a time the second has no image
    "together": ((0, 1, 2), (3, 4, 5), (), ()),
    "one": ((5, 4, 3, 2, 1, 0), (), (), ()),  # the second process has nothing at all
}
"""Numbers of the samples in each pack of a step."""

LOSSES = ("token", "sample", "square")
ALL = tuple(SETTINGS.lr)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one engine is asked to do."""

    loss: str = "token"
    layout: str = "mixed"
    micro_batch: int = 1
    zero: int = 2
    trained: tuple[str, ...] = ALL
    model: str = "sail-vl-tiny"
    drop_path: float = 0.0
    recompute: tuple[str, ...] = ()

    def settings(self) -> TrainSettings:
        lr = {name: SETTINGS.lr[name] for name in self.trained}
        return msgspec.structs.replace(SETTINGS, lr=lr, loss=self.loss, drop_path=self.drop_path, router_loss=0.5)


PARTS = (("projector",), ("projector", "language"), ("vision",))
CASES = (
    *(
        Case(loss=loss, layout=layout, micro_batch=1 + (row + column) % 2)
        for row, loss in enumerate(LOSSES)
        for column, layout in enumerate(LAYOUTS)
    ),
    *(Case(loss="square", zero=zero) for zero in (0, 1, 3)),
    *(Case(loss="sample", zero=zero, trained=trained) for zero in (1, 2, 3) for trained in PARTS),
    *(Case(loss="square", zero=zero, model="sail-vl-tiny-moe") for zero in (0, 1, 2, 3)),
    Case(loss="token", layout="one", micro_batch=2, zero=1, model="sail-vl-tiny-moe"),
    Case(drop_path=0.5),
    Case(drop_path=0.5, layout="together", micro_batch=2, zero=3, recompute=("vision", "language")),
    Case(model="sail-vl-tiny-v1", drop_path=0.5, layout="one", recompute=("vision",), zero=1),
)
"""In two processes."""

ALONE = (
    *(Case(loss=loss, layout="mixed", micro_batch=micro) for loss, micro in zip(LOSSES, (1, 2, 4), strict=True)),
    Case(loss="square", layout="one", micro_batch=4, zero=3),
    Case(loss="sample", layout="together", micro_batch=2, model="sail-vl-tiny-moe", zero=1),
    Case(drop_path=0.5, micro_batch=4, recompute=("vision", "language")),
)
"""In one."""


def samples(step: int, loss: str) -> list[tuple[str, list[int], int | None, float]]:
    """As `pack_of` takes them, with the weight that the compiler gives."""
    generator = torch.Generator().manual_seed(step)
    texts = [torch.randint(0, 2000, (length,), generator=generator).tolist() for _, length, _ in TEXTS]
    weights = loss_weights(loss, [len(text) - 1 for text in texts])  # type: ignore[arg-type]
    return [
        (source, text, picture, float(weight))
        for (source, _, picture), text, weight in zip(TEXTS, texts, weights, strict=True)
    ]


def write(folder: Path) -> None:
    """A build for each rule of weights, with a stage for each layout; and one where every sample is a pack."""
    layouts = LAYOUTS | {"alone": tuple((number,) for number in range(len(TEXTS)))}
    for loss in LOSSES:
        stages = {
            name: (
                msgspec.structs.replace(SETTINGS, loss=loss),
                [[pack_of(*(samples(step, loss)[k] for k in pack)) for pack in layout] for step in range(STEPS)],
            )
            for name, layout in layouts.items()
        }
        write_build(folder / loss, stages)


def make(case: Case) -> torch.nn.Module:
    from runtime.model.sail_vl import build_model

    model = build_model(case.model, msgspec.structs.replace(GEOMETRY, name=case.model), SEED)
    model.prepare(case.settings())
    return model


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What a step comes to."""

    loss: float
    gradients: dict[str, torch.Tensor]
    norm: float


@cache
def reference(folder: Path, case: Case) -> list[Step]:
    """The steps by plain torch. The routers' loss is said once more: nothing of runtime.model.balance is used."""
    from runtime.model.language import routers
    from runtime.optimizer import freeze

    model, settings = make(case), case.settings()
    freeze(model, settings)
    stage = Build.open(folder / case.loss).stage("alone")
    data = Play(folder / case.loss, "alone", Division(batch=len(TEXTS), world=1, micro_batch=1), 0)
    heard: list[tuple[torch.Tensor, torch.Tensor]] = []
    layers = routers(model.language) if case.model.endswith("moe") else []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: heard.append((out[0], out[2])))
    model.train()
    made, before = [], None
    for step in range(STEPS):
        model.vision.drop_path.seed = SEED + step
        facts = stage.steps[step]
        model.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        heard.clear()
        for number in range(len(TEXTS)):
            output = model(data[step * len(TEXTS) + number].row.expand())
            total = total + output.loss_sum.double() / float(facts["denominator"])
        chosen = []
        for number in range(len(layers)):
            logits_TE = torch.cat([logits for logits, _ in heard[number :: len(layers)]])
            choices_TK = torch.cat([choices for _, choices in heard[number :: len(layers)]])
            experts = logits_TE.shape[1]
            chosen.append(choices_TK.flatten().bincount(minlength=experts) / len(choices_TK))
            assert len(logits_TE) == facts["tokens"]
            if before is not None:
                balance = experts * (logits_TE.softmax(-1).mean(0) * before[number]).sum()
                total = total + settings.router_loss * balance / len(layers)
        before = chosen
        total.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        norm = float(torch.stack([each.double().norm() for each in found.values()]).norm())
        made.append(Step(float(total.detach()), found, norm))
    return made


def played(folder: Path, case: Case, place: Place) -> Iterator[Step]:
    """The same steps by the trainer's engine. Weights are not moved: all rates are 0."""
    from deepspeed.utils import safe_get_full_grad

    from runtime.engine import Engine

    division = Division(batch=4, world=place.world, micro_batch=case.micro_batch)
    model, settings = make(case), case.settings()
    model.recompute(case.recompute)
    engine = Engine(model, settings, division, zero=case.zero, precision="fp32", device=CPU)
    stage = Build.open(folder / case.loss).stage(case.layout)
    data = Play(folder / case.loss, case.layout, division, place.rank)
    for step in range(STEPS):
        model.vision.drop_path.seed = SEED + step
        denominator, tokens = float(stage.steps[step]["denominator"]), int(stage.steps[step]["tokens"])
        mine = 0.0
        for micro in range(division.micro_steps):
            output = engine.forward(data[step * division.micro_steps + micro].row.expand())
            mine += float(output.loss_sum.detach()) / denominator
            if output.router_sum is not None:
                mine += settings.router_loss * float(output.router_sum.detach()) / tokens
            engine.backward(output, denominator=denominator, tokens=tokens)
        gradients = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                whole = parameter.grad if case.zero == 0 else safe_get_full_grad(parameter)
                gradients[name] = whole.clone()
        norm = float(engine.step(dict.fromkeys(case.trained, 0.0)))
        if model.balance:
            model.balance.turn()
        yield Step(sum(processes.gather(mine)), gradients, norm)
    engine.close()


def apart(folder: Path, case: Case, place: Place) -> dict[str, float]:
    """Of the steps of a case the greatest differences from the reference: of losses, of gradients' elements, of norms. `share` is of
    gradients too, in parts of the greatest element of the parameter's, or of 1e-3 if that is more: below is noise."""
    found = {"loss": 0.0, "gradient": 0.0, "share": 0.0, "norm": 0.0}
    expected = reference(folder, case_of_reference(case)) if place.first else [None] * STEPS
    for step, wanted in zip(played(folder, case, place), expected, strict=True):
        if wanted is None:
            continue
        assert step.gradients.keys() == wanted.gradients.keys()
        found["loss"] = max(found["loss"], abs(step.loss - wanted.loss))
        found["norm"] = max(found["norm"], abs(step.norm - wanted.norm))
        for name, gradient in wanted.gradients.items():
            difference = float((step.gradients[name] - gradient).abs().max())
            found["gradient"] = max(found["gradient"], difference)
            found["share"] = max(found["share"], difference / max(float(gradient.abs().max()), 1e-3))
    return found


def case_of_reference(case: Case) -> Case:
    """What the reference hangs on: no matter of dividing."""
    return Case(loss=case.loss, trained=case.trained, model=case.model, drop_path=case.drop_path)


Trained = tuple[dict[str, torch.Tensor], list[list[bool]]]
"""Weights, and of each step whether the norm was finite in each process."""


def poisoned(folder: Path, zero: int, precision: str, place: Place, poison: str) -> dict[str, object]:
    """Three steps, of which the middle one has, in the last process and its last micro-step alone, a loss that is not a number, or one
    parameter's gradient (`poison`). What the norms say, and whether weights are bit for bit those of two steps without it."""
    weights, norms = steps_with(folder, zero, precision, place, poison)
    expected, _ = healthy(folder, zero, precision, place)
    same = all(torch.equal(value, expected[name]) for name, value in weights.items())
    return {"finite": norms, "same": same and weights.keys() == expected.keys()}


@cache
def healthy(folder: Path, zero: int, precision: str, place: Place) -> Trained:
    """Two steps."""
    return steps_with(folder, zero, precision, place, "")


def steps_with(folder: Path, zero: int, precision: str, place: Place, poison: str) -> Trained:
    from runtime.engine import Engine
    from runtime.weights import gather

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    division = Division(batch=4, world=place.world, micro_batch=1)
    data = Play(folder / "token", "mixed", division, place.rank)
    stage = Build.open(folder / "token").stage("mixed")
    sick = False

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan if sick else gradient

    case = Case(zero=zero)
    model = make(case).to(dtype)
    if poison == "parameter":
        model.projector.mlp[3].bias.register_hook(spoil)
    engine = Engine(model, case.settings(), division, zero=zero, precision=precision, device=CPU)
    norms = []
    for step in (0, None, 1) if poison else (0, 1):
        for micro in range(division.micro_steps):
            output = engine.forward(data[(step or 0) * division.micro_steps + micro].row.expand())
            here = step is None and place.rank == place.world - 1 and micro == division.micro_steps - 1
            sick = here and poison == "parameter"
            if here and poison == "loss":
                output = output._replace(loss_sum=output.loss_sum * math.nan)
            engine.backward(output, denominator=float(stage.steps[step or 0]["denominator"]))
            sick = False
        norms.append(processes.gather(math.isfinite(engine.step(SETTINGS.lr))))
    weights = {name: tensor.clone() for name, tensor in gather(model, place)}
    engine.close()
    return weights, norms


POISONS = tuple(
    (zero, precision, poison)
    for zero in (0, 1, 2, 3)
    for precision, poison in (("fp32", "loss"), ("bf16", "loss"), ("fp32", "parameter"))
)


def main(folder: Path) -> None:
    place = processes.place()
    with imports.kept():
        processes.prepare()
        processes.join(place, CPU)
    processes.compute_repeatably(1)
    results: list[dict[str, object]] = [{"case": repr(case), **apart(folder, case, place)} for case in CASES]
    results += [{"poison": list(each), **poisoned(folder, *each[:2], place, each[2])} for each in POISONS]
    if place.first:
        print(*map(json.dumps, results), sep="\n", flush=True)
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
