"""`python -m runtime.doctor`: what of the trainer will run here, and why, as JSON on stdout.

`mixc doctor` starts it as a program, because it imports torch, and shows what it finds. Every check is the real thing as far
as that is cheap: what the trainer imports is imported, the attention that it would take is run once, forward and backward.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from runtime import processes
from runtime.errors import TrainError

if TYPE_CHECKING:
    import torch

HEAD = 128
"""Width of a head in the models that SAIL-VL is made of."""

_GIB = 1 << 30


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    state: Literal["ok", "note", "problem"]
    """A problem would stop training, or keep it off the GPUs that are here."""
    what: str
    why: str = ""
    mend: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which one would look. After what does not load, nothing that needs it."""
    found = list(_place())
    on_cpu = os.environ.get("DS_ACCELERATOR") == "cpu"  # before it is set for want of a GPU
    try:
        processes.prepare()  # as the trainer begins: it is the first to import torch
        import torch
    except Exception as error:
        return [*found, _does_not_load("torch", error)]
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    found.append(Finding(state="ok", what=f"torch {torch.__version__}, {cuda}"))
    for name, findings in (
        ("devices", _devices(on_cpu)),
        ("attention", _attention()),
        ("processes", _groups()),
        ("DeepSpeed", _deepspeed()),
        ("model", _model()),
        ("compiler", _compiler()),
    ):
        try:
            for finding in findings:
                found.append(finding)
        except Exception as error:  # a broken library may raise anything, and the rest is still worth to know
            found.append(Finding(state="problem", what=f"the check of the {name} fails", why=_said(error)))
    return found


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _does_not_load(package: str, error: Exception) -> Finding:
    return Finding(
        state="problem",
        what=f"{package} does not load",
        why=_said(error),
        mend=f"install the build of {package} that fits this machine, its Python and its driver",
    )


def _place() -> Iterator[Finding]:
    """What the environment says of this process."""
    try:
        processes.ask_scheduler()
        place = processes.place()
    except TrainError as error:
        yield Finding(state="problem", what=error.what, why=error.why or error.where, mend=error.mend)
        return
    if place.world > 1:
        yield Finding(
            state="note",
            what=f"a trainer started from here would be process {place.rank} of {place.world}",
            why="RANK and WORLD_SIZE are set",
            mend="unset them to start a run of its own",
        )


def _gpus() -> int:
    """Those that the trainer would use."""
    import torch

    return 0 if os.environ.get("DS_ACCELERATOR") == "cpu" else torch.cuda.device_count()


def _devices(on_cpu: bool) -> Iterator[Finding]:
    """`on_cpu`: the user wants the CPU, whatever there is."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "no driver or GPU is found"
        if torch.version.cuda is not None:
            try:
                torch.cuda.init()
            except Exception as error:
                why = _said(error)
        if driver is not None and not on_cpu:
            yield Finding(
                state="problem",
                what=f"torch cannot use the GPUs here (NVIDIA driver {driver})",
                why=why,
                mend="install a build of torch for a CUDA that this driver knows, "
                "or let the trainer use the CPU: DS_ACCELERATOR=cpu",
            )
        else:
            yield Finding(state="ok", what="no GPU: training runs on the CPU, in fp32 unless told otherwise", why=why)
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        busy = free < 0.8 * total
        yield Finding(
            state="note" if busy else "ok",
            what=f"GPU {index}: {facts.name}, compute capability {facts.major}.{facts.minor}, "
            f"{total / _GIB:.0f} GiB, {free / _GIB:.0f} free",
            why="another program uses its memory" if busy else f"driver {driver}" if driver else "",
        )
    if on_cpu:
        yield Finding(
            state="note",
            what="training runs on the CPU, though there are GPUs",
            why="DS_ACCELERATOR is cpu",
            mend="unset DS_ACCELERATOR",
        )


def _driver() -> str | None:
    """Version of the NVIDIA driver that is loaded here; None without one."""
    try:
        said = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else "of unknown version"


def _attention() -> Iterator[Finding]:
    """The backend for each precision, on each device, once where they agree."""
    import torch

    from runtime.attention import backend, passed_over

    told = set()
    for device in [f"cuda:{index}" for index in range(_gpus())] or ["cpu"]:
        for dtype in (torch.bfloat16, torch.float32):
            name, over = backend(device, dtype, HEAD), passed_over(device, dtype, HEAD)
            slow = name == "sdpa_loop" and device != "cpu" and dtype == torch.bfloat16
            broken = any("does not load" in why for why in over.values())
            finding = Finding(
                state="note" if slow or broken else "ok",
                what=f"attention in {str(dtype).removeprefix('torch.')}, heads of {HEAD}: {name}",
                why="; ".join(dict.fromkeys(over.values())),
                mend="install a flash-attn that was built for this torch: pip install flash-attn --no-build-isolation"
                if broken
                else "a later torch, or flash-attn, where the GPU can run it"
                if slow
                else "",
            )
            if fault := _try(device, dtype):
                finding = Finding(state="problem", what=f"{finding.what}, which fails on {device}", why=fault)
            if finding not in told:
                told.add(finding)
                yield finding


def _try(device: str, dtype: torch.dtype) -> str:
    """Run the attention that would be taken once, forward and backward. What goes wrong; empty where nothing does."""
    import torch

    from runtime.attention import varlen_attention

    try:
        bounds = torch.tensor([0, 5, 16], dtype=torch.int32, device=device)
        q, k, v = (torch.randn(16, heads, HEAD, device=device, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
        out = varlen_attention(q, k, v, bounds, 11, causal=True, scale=HEAD**-0.5)
        out.float().square().sum().backward()
        if not all(x is not None and torch.isfinite(x).all() for x in (out, q.grad, k.grad, v.grad)):
            return "its result, or a gradient, is not finite"
    except Exception as error:
        return _said(error)
    return ""


def _groups() -> Iterator[Finding]:
    """What processes talk through: NCCL between GPUs, gloo between CPUs."""
    import torch
    import torch.distributed

    needed = "nccl" if _gpus() else "gloo"
    if not torch.distributed.is_available():
        has = {}
    else:
        has = {"gloo": torch.distributed.is_gloo_available(), "nccl": torch.distributed.is_nccl_available()}
    version = ".".join(map(str, torch.cuda.nccl.version())) if has.get("nccl") else ""
    named = {"gloo": "gloo", "nccl": f"NCCL {version}"}
    if has.get(needed):
        yield Finding(state="ok", what=f"processes talk through {named[needed]}")
    else:
        yield Finding(
            state="problem",
            what=f"this torch has no {needed}, which the processes of a run talk through",
            mend="install another build of torch",
        )


def _deepspeed() -> Iterator[Finding]:
    try:
        import deepspeed
        from deepspeed.accelerator import get_accelerator

        name = get_accelerator().device_name()
    except Exception as error:
        yield _does_not_load("deepspeed", error)
        return
    yield Finding(state="ok", what=f"DeepSpeed {deepspeed.__version__} on {name}")


def _model() -> Iterator[Finding]:
    """What the model is made of: transformers' parts, and our attention in its interface."""
    try:
        import transformers

        import runtime.model.sail_vl  # noqa: F401
    except Exception as error:
        yield _does_not_load("transformers", error)
        return
    yield Finding(state="ok", what=f"transformers {transformers.__version__}: the model's parts load")


def _compiler() -> Iterator[Finding]:
    """Whether `mixc train --compile` finds what it needs. To run it would take half a minute where it has not run before."""
    from runtime.model.compiled import missing

    lacking = missing("cuda" if _gpus() else "cpu")
    if lacking:
        yield Finding(
            state="note",
            what="--compile cannot be used",
            why=f"torch.compile needs {lacking}, which is not here",
            mend=f"install {lacking}; training runs without it",
        )
    else:
        yield Finding(state="ok", what="--compile finds what torch.compile needs")


def main() -> None:
    # what libraries print when they are imported is not part of the answer
    answer = os.dup(1)
    os.dup2(2, 1)
    found = examine()
    sys.stdout.flush()
    os.write(answer, msgspec.json.encode(found))


if __name__ == "__main__":
    main()
