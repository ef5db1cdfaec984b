"""DeepSpeed around a model: backward, accumulation, reduction, clipping and the update, the same at every
ZeRO stage.

What holds at ZeRO 0 to 3, in fp32 and bf16:

* A gradient is that of sum(weight * ce) / denominator over the whole step. DeepSpeed averages over processes,
  so each loss is multiplied by their number, and is not divided by the micro-steps: the result depends on
  neither.
* bf16 gradients are added up in fp32 over micro-steps, and over processes.
* A step whose gradient is not finite changes nothing, and is reported.
* Learning rates and decay are given anew at every step.

DeepSpeed has gaps there, closed in this file alone: at ZeRO 0 in fp32 it takes a step of any gradient and keeps
no norm; at ZeRO 0 in bf16 it adds up in bf16, and begins Adam's count of steps at 1; at ZeRO 3, and with the
optimizer on the CPU, it takes the gradient of an earlier step for that of a parameter that a step does not use,
and one of a micro-step that is not the last for none. Its checkpoints, which only as many processes can read as
wrote them, are not used: see parts.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import set_z3_leaf_modules
from torch import nn

from runtime import parts
from runtime.batch import Batch
from runtime.held import own_parts, spread
from runtime.loader import Division
from runtime.model.head import Output
from runtime.optimizer import adamw, freeze, group, set_rates
from runtime.processes import Place
from shards.manifest import ROUTER_LOSS, TrainSettings

_LINEAR = torch.nn.functional.linear
"""torch's own, before any engine."""


def config(
    settings: TrainSettings, division: Division, *, zero: int, precision: str, offload: str | None = None
) -> dict[str, Any]:
    """DeepSpeed's configuration, whole: what is not here keeps its default, and none of it is the user's to
    write. `offload`: where the optimizer's state is, if not beside the weights; "cpu"."""
    offloaded = {"offload_optimizer": {"device": offload}} if offload else {}
    return {
        "train_batch_size": division.batch,
        "train_micro_batch_size_per_gpu": division.micro_batch,
        "gradient_accumulation_steps": division.micro_steps,
        # at ZeRO 0 in fp32 we clip: DeepSpeed would throw the norm away
        "gradient_clipping": 0.0 if zero == 0 and precision == "fp32" else settings.clip,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {} if zero == 0 else {"grad_accum_dtype": "fp32"},  # ZeRO 0 refuses it: see Engine._fold
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": zero} | offloaded,
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's would be compiled on first use, for minutes
        "steps_per_print": 2**31,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device at every micro-step
    }


class Engine:
    """A model being trained through one stage.

    Takes the model over: its modules without a learning rate are frozen, and it is moved to the device and,
    at ZeRO 3, divided over the processes. Raises TrainError when nothing is left to train.

    `offload`: keep the optimizer's state, and update it, on the CPU; above ZeRO 0.

    A model whose modules call their children in an order that hangs on the data, such as experts, names the
    classes of those modules in `leaf_modules`: at ZeRO 3 such a module is gathered whole.
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
        offload: bool = False,
    ) -> None:
        freeze(model, settings)
        self.settings, self.division = settings, division
        self.zero, self.precision, self.offload = zero, precision, offload
        self.groups = group(model, settings)
        if precision == "bf16":
            model.to(torch.bfloat16)
        model.train()
        self.model: Any = model  # whoever asks more of it than of a module knows what it is
        self._sizes = {name: p.numel() for name, p in self._named().items()}  # here: ZeRO 3 empties them
        leaves: tuple[type, ...] = getattr(model, "leaf_modules", ())
        if zero == 3 and leaves:
            set_z3_leaf_modules(model, list(leaves))
        self._adamw = adamw(model, self.groups, settings)
        self._deepspeed, _, _, _ = deepspeed.initialize(
            model=model,
            optimizer=self._adamw,
            config=config(settings, division, zero=zero, precision=precision, offload="cpu" if offload else None),
            dist_init_required=False,
        )
        self._adamw.state.clear()  # at ZeRO 0 in bf16 DeepSpeed has made a step, of gradients of 0
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

    def run(self, piece: object) -> torch.Tensor:
        """What the model makes of something else than a batch. As with every forward, in all processes, and in all of one kind."""
        made: torch.Tensor = self._deepspeed(piece)
        return made

    def backward(self, output: Output, *, denominator: float, tokens: int = 0, spoilt: bool = False) -> None:
        """Add a micro-step's part to the gradient of the step, which is that of its losses over `denominator` and, for a mixture
        of experts, of the routers' over the step's `tokens`. Once for each of its micro-steps; `spoilt` makes the step one that
        changes nothing."""
        # a step with nothing to learn has a denominator of 0 and losses of 0
        loss = output.loss_sum * (self.division.world / denominator if denominator else 0.0)
        if output.router_sum is not None:
            weight = ROUTER_LOSS if self.settings.router_loss is None else self.settings.router_loss
            loss = loss + output.router_sum * (weight * self.division.world / max(tokens, 1))
        self._deepspeed.backward(loss * math.nan if spoilt else loss, scale_wrt_gas=False)
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
        if self.offload and self.zero > 1 and self.division.micro_steps > 1:
            # else what only earlier micro-steps have used is left out
            self._deepspeed.optimizer.finalize_gradient_accumulation_boundary()
        norm: torch.Tensor | float | None = self._clip() if self._clips else None
        self._deepspeed.step()
        if not self._deepspeed.was_step_applied():
            norm = math.inf
        elif norm is None:
            norm = self._deepspeed.get_global_grad_norm()  # a float or a tensor, by ZeRO stage
        self._forget()
        if self.settings.ema is not None:
            self._average(self.settings.ema)
        return torch.as_tensor(norm, dtype=torch.float64, device=self.device)

    def _average(self, decay: float) -> None:
        """Take the weights into their average, which lies beside the moments as one more of them. A step that changed nothing
        counts as one whose weights were the same."""
        for flat, state in self._adamw.state.items():
            if (average := state.get(parts.AVERAGE)) is not None:
                average.lerp_(flat.detach(), 1 - decay)
            else:
                state[parts.AVERAGE] = flat.detach().clone()

    def swap_average(self, place: Place) -> None:
        """Exchange the weights and their average, in the model as well. In all processes."""
        named = self._named()
        mine = list(own_parts(self._deepspeed.optimizer, named, place, zero=self.zero))
        with torch.no_grad():
            for flat, state in self._adamw.state.items():
                weights = flat.detach().clone()
                flat.copy_(state[parts.AVERAGE])
                state[parts.AVERAGE].copy_(weights)
            spread(self._deepspeed.optimizer, named, mine, zero=self.zero)

    def _clip(self) -> torch.Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        if not torch.isfinite(norm):
            for parameter in self._trained:
                parameter.grad = None  # AdamW passes over parameters without one
        elif self.settings.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.settings.clip, norm)
        return norm

    def _forget(self) -> None:
        """Let go of the step's gradients where DeepSpeed keeps them: it would take them again for those of a
        parameter that the next step does not use, and would not get rid of one that is not finite."""
        optimizer = self._deepspeed.optimizer
        if self.zero == 3:
            optimizer.grad_partitions_flat_buffer.zero_()
        if self.offload:
            flats = (
                optimizer.fp32_partitioned_groups_flat if self.zero == 3 else optimizer.single_partition_of_fp32_groups
            )
            for flat in flats:
                flat.grad.zero_()
        if self.offload and self.zero < 3:
            for summed in optimizer.accumulated_grads_in_cpu.values():
                summed.zero_()
            optimizer.averaged_gradients.update(dict.fromkeys(range(len(self.groups))))

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

    def contents(self, place: Place) -> parts.Contents:
        """This process's share of the weights and the optimizer's state, as its file of a checkpoint has them."""
        mine = list(own_parts(self._deepspeed.optimizer, self._named(), place, zero=self.zero))
        if self.zero == 0:
            mine = mine[place.rank :: place.world]  # all have all
        return parts.contents(mine, self._adamw.state, self._buffers() if place.first else {})

    def load(self, files: list[Path], place: Place) -> None:
        """Take weights and the optimizer's state from the files of a checkpoint, however many processes wrote
        them. In all processes. Frozen weights are left as they are: those that the stage began with. Raises
        CheckpointError, before anything has changed, if the files are not all of this model."""
        saved = parts.Saved(files)
        buffers = self._buffers()
        saved.check(self._sizes, buffers, files[0].parent)
        named = self._named()
        mine = list(own_parts(self._deepspeed.optimizer, named, place, zero=self.zero))
        with torch.no_grad():
            for part in mine:
                saved.fill(part.of(part.flat), "weight", part)
                if not (updates := saved.updates(part.name)):
                    continue
                state = self._adamw.state[part.flat]
                if not state:
                    state["step"] = torch.zeros((), device=part.flat.device)
                    state |= {moment: torch.zeros_like(part.flat) for moment in parts.MOMENTS}
                state["step"].fill_(updates)
                for moment in parts.MOMENTS:
                    saved.fill(part.of(state[moment]), moment, part)
                if saved.averaged:
                    average = state.setdefault(parts.AVERAGE, torch.zeros_like(part.flat))
                    saved.fill(part.of(average), parts.AVERAGE, part)
            for name, buffer in buffers.items():
                buffer.copy_(saved.buffers[name])
            spread(self._deepspeed.optimizer, named, mine, zero=self.zero)

    def _named(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _buffers(self) -> dict[str, torch.Tensor]:
        """The model's persistent buffers."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in parameters}

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers, and undo what ZeRO 3 does to torch for good: a linear of
        its own, with other roundings, in place of torch's. Not what stood there before this engine: that may be another
        engine's."""
        self._deepspeed.destroy()
        torch.nn.functional.linear = _LINEAR
