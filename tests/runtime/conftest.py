"""A small build, and training in this very process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.runtime import launching
from tests.runtime.small import ALIGN, SETTINGS, steps_of, write_build

LINEAR = torch.nn.functional.linear


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages `align` (projector only, 3 steps) and `tune` (all modules, 5 steps)."""
    return write_build(
        tmp_path_factory.mktemp("builds") / "small",
        {"align": (ALIGN, steps_of(3, seed=1)), "tune": (SETTINGS, steps_of(5, seed=2))},
    )


@pytest.fixture(autouse=True)
def linear() -> Iterator[None]:
    """No test leaves the linear that ZeRO 3 puts in the place of torch's: it rounds otherwise, and whatever trains later in
    this process would have other bits than a process of its own."""
    yield
    assert torch.nn.functional.linear is LINEAR


@pytest.fixture(scope="session")
def together(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Two processes, by ZeRO stage, made when first asked for. In even steps one of them has an image where
    the other has text alone. ZeRO 1 runs under torchrun, the others under our own launcher."""
    made: dict[int, Path] = {}

    def run(zero: int) -> Path:
        if zero not in made:
            out = tmp_path_factory.mktemp(f"zero{zero}") / "run"
            torchrun = ["--launcher", "torchrun", "--nproc", 2] if zero == 1 else []
            launching.train(build, "--out", out, "--zero", zero, "--workers", 0, processes=2, launcher=torchrun)
            made[zero] = out
        return made[zero]

    return run


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as the only one of a run: DeepSpeed, gloo, and one thread an operation. Left as it was
    found, but for the process group, which lasts as long as the tests."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from runtime import processes

    threads = torch.get_num_threads()
    place = processes.place()
    processes.prepare()
    processes.join(place, torch.device("cpu"))
    processes.compute_repeatably(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def train(alone: None, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Train in this process, as the command line would: `train(build, "--out", run, ..., status=0)` gives
    what was printed."""
    from runtime.__main__ import main

    def run(*arguments: object, status: int = 0) -> str:
        capfd.readouterr()
        found = main([*map(str, arguments), "--workers", "0"])
        printed = "".join(capfd.readouterr())
        assert found == status, printed
        return printed

    return run
