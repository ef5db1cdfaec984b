"""What a build's training will cost: FLOPs from the trainer, hours on a device from what it is hoped to make of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence

import msgspec

from mixc.errors import MixcError
from mixc.report.figures import StageTotals

PATIENCE = 60
"""Seconds: the program loads no torch."""
MFU = 0.4
"""Share of a device's peak that is assumed: peers report 30 to 40 % for vision-language models of 7 to 8 billion parameters.
Not measured by us."""
GPU = "H100"


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """Forward and backward, by part of the model."""

    vision: int
    projector: int
    language: int
    head: int

    @property
    def total(self) -> int:
        return self.vision + self.projector + self.language + self.head


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    stages: list[Flops]
    devices: dict[str, float]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    device: str
    peak: float
    """FLOP/s of the device in bf16, dense."""
    mfu: float
    stages: list[Flops]

    def hours(self, flops: int) -> float:
        """GPU-hours that so many FLOPs take."""
        return flops / (self.peak * self.mfu) / 3600


def forecast(
    stages: Sequence[tuple[Collection[str], StageTotals]], *, model: str, device: str = GPU, mfu: float = MFU
) -> Forecast:
    """The cost of stages, each the modules that learn and what it holds, for `model`. Raises MixcError for a model or a device
    that is not known, and when the trainer's part does not answer."""
    if not 0 < mfu <= 1:
        raise MixcError(f"--mfu is a share, above 0 and at most 1, not {mfu:g}")
    request = {
        "model": model,
        "stages": [
            {
                "trained": sorted(trained),
                "tokens": total.tokens,
                "tiles": total.tiles,
                "targets": total.targets,
                "pairs": total.pairs,
            }
            for trained, total in stages
        ],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "runtime.forecast"],
            input=msgspec.json.encode(request),
            capture_output=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise MixcError(f"the forecast has not come for {PATIENCE} s") from error
    if done.returncode == 2:
        raise MixcError(done.stderr.decode(errors="replace").strip())
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise MixcError("the forecast fails", why=lines[-1] if lines else f"status {done.returncode}")
    answer = msgspec.json.decode(done.stdout, type=_Answer)
    known = {name.casefold(): name for name in answer.devices}
    if device.casefold() not in known:
        raise MixcError(f"--gpu {device!r} is not known", mend=f"known are {', '.join(answer.devices)}")
    name = known[device.casefold()]
    return Forecast(model=model, device=name, peak=answer.devices[name], mfu=mfu, stages=answer.stages)
