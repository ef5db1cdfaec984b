"""The vocabulary head with its loss, forward and backward: targets a second (on a CPU a CPU-second) and memory, against whole logits.

    PYTHONPATH=. python benchmarks/head.py [--widths 64,1024] [--targets 1024] [--vocab 151936] [--device cpu] [--dtype float32]

The cases, on the same hidden states, weight and labels, to the same loss and gradients, which is checked:

* `mixc`: runtime/model/head.py, a chunk of logits at a time, one exponential a logit;
* `twice`: the same chunks as they were before, with `logsumexp` for the loss and a second exponential for the softmax;
* `torch`: `torch.nn.functional.cross_entropy` over the logits of all targets, differentiated by autograd.

Each runs in a process of its own, with one thread unless --threads says otherwise. Told is the median of --rounds rounds, after
one that is not counted. Memory is the most that the process grew above what it had before the first round, the weight's gradient
(vocabulary x width) included; on a GPU the most that tensors took above that.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from runtime.model.head import SupervisedHead

CASES = ("mixc", "twice", "torch")


class Twice(torch.autograd.Function):
    """What the head's loss was when it took each exponential twice, and added up whole gradients of the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        weights_N: torch.Tensor,
        rows: int,
    ) -> torch.Tensor:
        ce_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        grad_ND = torch.empty_like(hidden_ND)
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, len(labels_N), rows):
            chunk = slice(start, start + rows)
            label_n1 = labels_N[chunk, None]
            logits_nV = F.linear(hidden_ND[chunk], weight_VD).float()
            lse_n1 = logits_nV.logsumexp(-1, keepdim=True)
            ce_N[chunk] = (lse_n1 - logits_nV.gather(-1, label_n1))[:, 0]
            slope_nV = logits_nV.sub_(lse_n1).exp_()
            slope_nV.scatter_add_(-1, label_n1, slope_nV.new_full((1, 1), -1.0).expand_as(label_n1))
            slope_nV = slope_nV.mul_(weights_N[chunk, None]).to(hidden_ND.dtype)
            grad_ND[chunk] = slope_nV @ weight_VD
            grad_VD += slope_nV.T @ hidden_ND[chunk]
        ctx.save_for_backward(grad_ND, grad_VD)
        return (weights_N * ce_N).sum()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        grad_ND, grad_VD = ctx.saved_tensors
        return (grad_ND * upstream).to(grad_ND.dtype), (grad_VD * upstream).to(grad_ND.dtype), None, None, None


def measure(options: argparse.Namespace, case: str, width: int) -> dict[str, Any]:
    """Targets a second, bytes, and what tells that the cases compute the same."""
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(options.targets, width, generator=generator).to(device, dtype).requires_grad_()
    weight_VD = (torch.randn(options.vocab, width, generator=generator) * width**-0.5).to(device, dtype)
    head = SupervisedHead(nn.Parameter(weight_VD))
    labels_N = torch.randint(0, options.vocab, (options.targets,), generator=generator).to(device)
    weights_N = torch.rand(options.targets, generator=generator).to(device)
    rows = head.rows or (256 if device.type == "cpu" else 1024)

    def loss() -> torch.Tensor:
        if case == "mixc":
            return head(hidden_ND, labels_N, weights_N).loss_sum
        if case == "twice":
            return Twice.apply(hidden_ND, head.weight, labels_N, weights_N, rows)
        return (weights_N * F.cross_entropy(head(hidden_ND).float(), labels_N, reduction="none")).sum()

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    before, seconds = _memory(device, peak=False), []
    for _ in range(options.rounds + 1):
        hidden_ND.grad = head.weight.grad = None
        begun = clock()
        found = loss()
        (found / options.targets).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - begun)
    peak = _memory(device, peak=True) - before
    assert hidden_ND.grad is not None and head.weight.grad is not None
    return {
        "targets_per_second": options.targets / statistics.median(seconds[1:]),
        "peak": peak,
        "same": [float(x) for x in (found.detach(), hidden_ND.grad.double().norm(), head.weight.grad.double().norm())],
    }


def _memory(device: torch.device, *, peak: bool) -> int:
    """Bytes that this process has, or has had at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=lambda text: [int(part) for part in text.split(",")], default=[64, 1024])
    parser.add_argument("--targets", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options, options.case, options.widths[0])))
        return
    print(f"{'width':>6}  {'case':<6}  {'targets/s':>9}  {'MiB':>7}")
    for width in options.widths:
        same: list[float] = []
        for case in CASES:
            # a process of its own: its peak is of nothing else
            given = [*sys.argv[1:], "--case", case, "--widths", str(width)]
            done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout)
            print(
                f"{width:>6}  {case:<6}  {found['targets_per_second']:9,.0f}  {found['peak'] / 2**20:7,.0f}", flush=True
            )
            same = same or found["same"]
            close = 1e-5 if options.dtype == "float32" else 1e-2
            if any(abs(a - b) > close * abs(b) for a, b in zip(found["same"], same, strict=True)):
                raise SystemExit(f"{case} computes something else: {found['same']}, not {same}")


if __name__ == "__main__":
    main()
