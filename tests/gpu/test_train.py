"""Training on a GPU: the CPU's losses, and a forward and backward that never wait for the device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runtime import processes
from runtime.attention import backend
from runtime.loader import Division, Micro, Play
from runtime.metrics import Tally
from runtime.model.sail_vl import SailVL, build_model
from runtime.processes import Place
from tests.runtime.launching import ROOT, TIMEOUT, lines
from tests.runtime.small import GEOMETRY, SETTINGS, steps_of, write_build

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

STEPS = 3
DIVISION = Division(batch=4, world=1, micro_batch=2)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("builds") / "small", {"tune": (SETTINGS, steps_of(STEPS, seed=2))})


def train(build: Path, out: Path, *arguments: str, on_cpu: bool) -> list[dict]:
    """Its lines. In a process of its own, for DeepSpeed knows one kind of device a process."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "DS_ACCELERATOR")}
    done = subprocess.run(
        [sys.executable, "-m", "runtime", build, "--out", out, *arguments],
        env=kept | {"PYTHONPATH": str(ROOT)} | ({"DS_ACCELERATOR": "cpu"} if on_cpu else {}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return lines(out)


@pytest.fixture(scope="module")
def expected(build: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return train(build, tmp_path_factory.mktemp("cpu") / "run", "--precision", "fp32", on_cpu=True)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "loss", "norm"), [("fp32", 1e-3, 0.01), ("bf16", 0.01, 0.05)])
@pytest.mark.parametrize("zero", ["0", "1", "3"])
def test_a_gpu_trains_as_a_cpu_does(
    build: Path, expected: list[dict], tmp_path: Path, precision: str, loss: float, norm: float, zero: str
) -> None:
    """Same packs, and losses and gradients within what the arithmetic leaves: of fp32, the convolution's TF32; of bf16, whose
    unit is 2^-8, a few units in gradients, and in a loss of 12 the mean of many errors."""
    found = train(build, tmp_path / "run", "--precision", precision, "--zero", zero, on_cpu=False)
    for ours, its in zip(found, expected, strict=True):
        assert ours["packs"] == its["packs"] and ours["flops"] == its["flops"]
        assert ours["loss"] == pytest.approx(its["loss"], abs=loss)
        assert ours["grad_norm"] == pytest.approx(its["grad_norm"], rel=norm)
        assert ours["memory"] > 4 * 2 * 5_000_000  # two moments in fp32 of the tiny model's five million parameters


@pytest.fixture
def repeatable() -> Iterator[None]:
    """As a run computes."""
    threads = torch.get_num_threads()
    processes.compute_repeatably(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def work(model: SailVL, micro: Micro, tally: Tally) -> None:
    """A micro-step, but for DeepSpeed's part in it."""
    batch = micro.row.expand()
    output = model(batch)
    output.loss_sum.backward()
    by_source = torch.zeros(3, dtype=torch.float64, device="cuda")
    by_source.index_add_(0, batch.sources_N, (batch.weights_N * output.ce_N).double())
    tally.add(micro, micro.weights, output.loss_sum, by_source)


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("item", [0, 1], ids=["images", "text"])
def test_forward_and_backward_never_wait_for_the_device(build: Path, item: int) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    if backend(device, torch.bfloat16, 16) == "sdpa_loop":
        pytest.skip("this device has no FlashAttention kernel; the loop reads cu_seqlens back once a forward")
    model = build_model("sail-vl-tiny", GEOMETRY, 0, torch.bfloat16).to(device).train()
    place = Place(rank=0, world=1, local_rank=0, local_world=1)
    tally = Tally(sources=3, batch=4, place=place, device=device)
    micro = Play(build, "tune", DIVISION, 0)[item]
    assert isinstance(micro, Micro) and bool(micro.tiles) == (item == 0)
    micro = micro.pin_memory().to(device)
    work(model, micro, tally)  # kernels are loaded, and constants made
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work(model, micro, tally)
    finally:
        torch.cuda.set_sync_debug_mode("default")
