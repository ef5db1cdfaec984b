"""DeepSpeed around a model: backward, accumulation, reduction, clipping and the update, the same at every
ZeRO stage.

What holds at ZeRO 0 to 3, in fp32 and bf16:

* A gradient is that of sum(weight * ce) / denominator over the whole step. DeepSpeed averages over processes,
  so each loss is multiplied by their number, and is not divided by the micro-steps: the result depends on
  neither.
* bf16 gradients are added up in fp32 over micro-steps, and over processes.
* A step whose gradient is not finite changes nothing, and is reported.
* Learning rates and decay are given anew at every step.

DeepSpeed has three gaps there, closed in this file alone: at ZeRO 0 in fp32 it takes a step of any gradient
and keeps no norm; at ZeRO 0 in bf16 it adds up in bf16; and its files of weights and state are unpickled
without a filter.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.utils.tensor_fragment import fragment_address
from torch import nn

from runtime.batch import Batch
from runtime.errors import CheckpointError
from runtime.loader import Division
from runtime.model.head import Output
from runtime.optimizer import adamw, freeze, group, set_rates
from shards.manifest import TrainSettings

TAG = "deepspeed"
"""Folder of DeepSpeed's files in a checkpoint."""


def config(settings: TrainSettings, division: Division, *, zero: int, precision: str) -> dict[str, Any]:
    """DeepSpeed's configuration, whole: what is not here keeps its default, and none of it is the user's to
    write."""
    return {
        "train_batch_size": division.batch,
        "train_micro_batch_size_per_gpu": division.micro_batch,
        "gradient_accumulation_steps": division.micro_steps,
        # at ZeRO 0 in fp32 we clip: DeepSpeed would throw the norm away
        "gradient_clipping": 0.0 if zero == 0 and precision == "fp32" else settings.clip,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {} if zero == 0 else {"grad_accum_dtype": "fp32"},  # ZeRO 0 refuses it: see Engine._fold
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "steps_per_print": 2**31,
    }


class Engine:
    """A model being trained through one stage.

    Takes the model over: its modules without a learning rate are frozen, and it is moved to the device and,
    at ZeRO 3, divided over the processes. Raises TrainError when nothing is left to train.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        division: Division,
        *,
        zero: int,
        precision: str,
        device: torch.device,
    ) -> None:
        freeze(model, settings)
        self.settings, self.division, self.zero, self.precision = settings, division, zero, precision
        self.groups = group(model, settings)
        if precision == "bf16":
            model.to(torch.bfloat16)
        model.train()
        self._linear = torch.nn.functional.linear
        self._deepspeed, _, _, _ = deepspeed.initialize(
            model=model,
            optimizer=adamw(model, self.groups, settings),
            config=config(settings, division, zero=zero, precision=precision),
            dist_init_required=False,
        )
        self._deepspeed.checkpoint_engine = _FilteredCheckpointEngine()
        self.model = model
        self.device = device
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._micro = 0
        self._sums: list[torch.Tensor | None] = [None] * len(self._trained)
        if self._folds:
            self._deepspeed.enable_backward_allreduce = False

    @property
    def _folds(self) -> bool:
        return self.zero == 0 and self.precision == "bf16"

    @property
    def _clips(self) -> bool:
        return self.zero == 0 and self.precision == "fp32"

    def forward(self, batch: Batch) -> Output:
        output: Output = self._deepspeed(batch)
        return output

    def backward(self, loss_sum: torch.Tensor, denominator: float) -> None:
        """Add the gradient of `loss_sum` / `denominator` to that of the step. Once for each of its
        micro-steps."""
        # a step with nothing to learn has a denominator of 0 and losses of 0
        share = self.division.world / denominator if denominator else 0.0
        self._deepspeed.backward(loss_sum * share, scale_wrt_gas=False)
        self._micro += 1
        if self._folds:
            self._fold()
        if self._micro < self.division.micro_steps:
            self._deepspeed.step()  # counts the micro-step, no more

    def step(self, rates: dict[str, float]) -> torch.Tensor:
        """Update the weights with the learning rates by module. Returns the gradient's norm before clipping,
        float64 on the device; when it is not finite, no weight and no moment has changed."""
        assert self._micro == self.division.micro_steps, "a step is made of all its micro-steps"
        self._micro = 0
        set_rates(self._deepspeed.optimizer, self.groups, rates, self.settings)
        if self._folds:
            self._unfold()
        norm: torch.Tensor | float | None = self._clip() if self._clips else None
        self._deepspeed.step()
        if not self._deepspeed.was_step_applied():
            norm = math.inf
        elif norm is None:
            norm = self._deepspeed.get_global_grad_norm()  # a float or a tensor, by ZeRO stage
        return torch.as_tensor(norm, dtype=torch.float64, device=self.device)

    def _clip(self) -> torch.Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        if not torch.isfinite(norm):
            for parameter in self._trained:
                parameter.grad = None  # AdamW passes over parameters without one
        elif self.settings.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.settings.clip, norm)
        return norm

    def _fold(self) -> None:
        """Move a micro-step's gradients into fp32 sums."""
        for place, parameter in enumerate(self._trained):
            if parameter.grad is None:
                continue
            held = self._sums[place]
            if held is None:
                self._sums[place] = parameter.grad.float()
            else:
                held += parameter.grad
            parameter.grad = None

    def _unfold(self) -> None:
        """Give DeepSpeed the step's gradient, rounded once, to add up over the processes."""
        for place, parameter in enumerate(self._trained):
            held = self._sums[place]
            parameter.grad = None if held is None else held.to(parameter.dtype)
            self._sums[place] = None
        self._deepspeed.allreduce_gradients()

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state under `folder`/TAG. In all processes."""
        self._deepspeed.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Take weights and optimizer state from `folder`/TAG. In all processes, of the number that wrote it
        above ZeRO 0.

        Frozen weights are written back as they were before: they are those that the stage began with, and
        what a checkpoint makes of them is not trusted.
        """
        frozen = [p for p in self.model.parameters() if not p.requires_grad]
        self._divide(frozen)
        kept = [_local(p).detach().clone() for p in frozen]
        found, _ = self._deepspeed.load_checkpoint(str(folder), tag=TAG, load_lr_scheduler_states=False)
        if found is None:
            raise CheckpointError("DeepSpeed finds no checkpoint here", where=str(folder))
        self._divide(frozen)
        with torch.no_grad():
            for parameter, value in zip(frozen, kept, strict=True):
                _local(parameter).copy_(value)

    def _divide(self, parameters: list[nn.Parameter]) -> None:
        """At ZeRO 3, let go of copies that were gathered whole: each process's shard is what counts."""
        for parameter in parameters:
            if self.zero == 3 and parameter.ds_status == ZeroParamStatus.AVAILABLE:  # type: ignore[attr-defined]
                parameter.partition()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers, and undo what ZeRO 3 does to torch for good: a linear of
        its own, with other roundings, in place of torch's."""
        self._deepspeed.destroy()
        torch.nn.functional.linear = self._linear


def _local(parameter: nn.Parameter) -> torch.Tensor:
    """This process's part of a parameter: all of it, or its shard at ZeRO 3."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data


class _FilteredCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's reader and writer of files, but a file that is read can only give tensors and plain data:
    unpickling runs no code of the file's."""

    _ALLOWED = (LossScaler, ZeroStageEnum, fragment_address)
    """DeepSpeed's own records among its files' tensors (0.19)."""

    def load(self, path: str, map_location: Any = None) -> Any:
        try:
            with torch.serialization.safe_globals(list(self._ALLOWED)):
                return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                "more than tensors and plain data in the file", where=path, why=str(error).splitlines()[0]
            ) from None
