"""The learning rate as a pure function of the step.

Nothing here has a state, so there is nothing to save, to restore, or to lose: DeepSpeed's universal
checkpoints, for one, give every parameter group the rates of the first.
"""

from __future__ import annotations

import math

from shards.manifest import TrainSettings


def factor(step: int, steps: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at `step`, counted from 0, of a stage of `steps`.

    Warm-up is linear and ends at the peak: step `warmup_steps - 1` is the first at full rate. After it,
    `constant` stays, while `linear` and `cosine` (half a period, Loshchilov and Hutter 2017, without
    restarts) go down to `min_lr_ratio`, which the stage's last step has exactly. `wsd` (warm-up, stable, decay; Hu et al. 2024)
    stays until its last `decay_steps`, over which it goes down in a line.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not in a stage of {steps} steps")
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    first, last = max(settings.warmup_steps - 1, 0), steps - 1
    if settings.schedule == "wsd":
        first = max(first, last - (settings.decay_steps or 0))
        if step <= first:
            return 1.0
    passed = (step - first) / (last - first) if last > first else 0.0
    if settings.schedule in ("linear", "wsd"):
        left = 1.0 - passed
    else:
        left = 0.5 * (1.0 + math.cos(math.pi * passed))
    return settings.min_lr_ratio + (1.0 - settings.min_lr_ratio) * left


def learning_rates(step: int, steps: int, settings: TrainSettings) -> dict[str, float]:
    """Learning rate by module at `step`; a frozen module is absent."""
    share = factor(step, steps, settings)
    return {module: peak * share for module, peak in sorted(settings.lr.items())}
