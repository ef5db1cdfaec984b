"""`python -m runtime.forecast`: what a build's training computes, before it runs. JSON on stdin and stdout; loads no torch.

`mixc report` starts it as a program, as it knows no model's shapes; what a step holds it counts in the plan.
"""

from __future__ import annotations

import difflib
import sys

import msgspec

from runtime.errors import TrainError
from runtime.flops import Flops, Work, known_devices, step_flops
from runtime.model.zoo import ARCHITECTURES, ModelError


class StageWork(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage holds, all steps together."""

    trained: list[str]
    """Modules that learn."""
    tokens: int
    tiles: int
    targets: int
    """Supervised tokens."""
    pairs: int
    """Sum of squared segment lengths."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    stages: list[StageWork]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    stages: list[Flops]
    devices: dict[str, float]
    """FLOP/s of each device that is known, in bf16, dense."""


def forecast(request: Request) -> Forecast:
    """Model FLOPs of each stage, forward and backward. Raises ModelError for a model that is not known."""
    shape = ARCHITECTURES.get(request.model)
    if shape is None:
        near = difflib.get_close_matches(request.model, ARCHITECTURES, n=1)
        raise ModelError(
            f"there is no model {request.model!r}",
            mend=f"did you mean {near[0]}?" if near else f"the models are {', '.join(ARCHITECTURES)}",
        )
    return Forecast(
        stages=[
            step_flops(
                shape,
                stage.trained,
                Work(tokens=stage.tokens, tiles=stage.tiles, targets=stage.targets, pairs=stage.pairs),
            )
            for stage in request.stages
        ],
        devices=known_devices(),
    )


if __name__ == "__main__":
    try:
        answer = forecast(msgspec.json.decode(sys.stdin.buffer.read(), type=Request))
    except TrainError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.stdout.buffer.write(msgspec.json.encode(answer))
