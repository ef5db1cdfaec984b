from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mixc.plan.compiled import Kernel


def _twice(value: int) -> int:
    return 2 * value


def _doubled(numbers: object, out: object) -> int:
    total = 0
    for i in range(len(numbers)):  # type: ignore[arg-type]
        out[i] = _twice(numbers[i])  # type: ignore[index]
        total += numbers[i]  # type: ignore[index]
    return total


def test_plain_until_there_is_enough_to_do_and_then_compiled() -> None:
    kernel = Kernel(_doubled, _twice, plain=7)
    numbers, out = np.array([1, 2, 3]), np.zeros(3, np.int64)
    for call in range(4):
        out[:] = 0
        assert kernel(numbers, out, work=3) == 6
        assert out.tolist() == [2, 4, 6]
        assert (kernel._compiled is not None) == (call >= 2)  # 9 > 7


def test_without_a_place_for_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    njit = numba.njit

    def no_cache(*signature: object, **options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available for file")
        return njit(*signature, **options)

    monkeypatch.setattr(numba, "njit", no_cache)
    out = np.zeros(2, np.int64)
    assert Kernel(_doubled, _twice, plain=0)(np.array([4, 5]), out, work=1) == 9
    assert out.tolist() == [8, 10]


def test_a_small_plan_does_not_load_numba() -> None:
    code = (
        "import sys, numpy as np, mixc.plan.run\n"
        "from mixc.plan.balance_ranks import balanced_order\n"
        "from mixc.plan.pack import pack\n"
        "pack(np.arange(1, 2000), np.arange(1, 2000) % 9, max_tokens=8192, max_tiles=32)\n"
        "balanced_order(np.arange(64, 0, -1), batch=64)\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
