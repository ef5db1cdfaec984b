"""A stage's training settings as the runtime reads them."""

from __future__ import annotations

from mixc.plan.divide import warmup_steps
from mixc.plan.tables import StagePlan
from mixc.spec.quantity import parse_warmup
from mixc.spec.schema import Stage
from shards.manifest import ROUTER_LOSS, SearchSettings, SpikeSettings, TrainSettings


def train_settings(stage: Stage, planned: StagePlan) -> TrainSettings:
    """The stage's training settings with nothing left open."""
    train, search = stage.train, stage.train.adalrs

    def steps(part: str | int) -> int:
        return warmup_steps(parse_warmup(part), planned.steps)

    return TrainSettings(
        lr={str(module): rate for module, rate in sorted(train.lr.items())},
        schedule=train.schedule,
        warmup_steps=planned.warmup_steps,
        min_lr_ratio=train.min_lr_ratio,
        weight_decay=train.weight_decay,
        betas=train.betas,
        eps=train.eps,
        clip=train.clip,
        loss=train.loss,
        decay_steps=steps(train.decay) if train.schedule == "wsd" else None,
        layer_decay=_unless(1.0, train.layer_decay),
        label_smoothing=_unless(0.0, train.label_smoothing),
        z_loss=_unless(0.0, train.z_loss),
        router_loss=_unless(ROUTER_LOSS, train.router_loss),
        drop_path=_unless(0.0, train.drop_path),
        ema=train.ema,
        spikes=None if train.spikes is None else SpikeSettings(sigma=train.spikes.sigma, window=train.spikes.window),
        adalrs=None
        if search is None
        else SearchSettings(
            window=search.window,
            up=search.up,
            down=search.down,
            decay=search.decay,
            start=steps(search.start),
            end=steps(search.end),
        ),
    )


def _unless(usual: float, value: float) -> float | None:
    return None if value == usual else value
