"""Modules whose children are called in an order that hangs on the data, at ZeRO 3."""

from __future__ import annotations

import pytest

from tests.runtime import launching

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(400)]


def test_processes_that_ask_for_other_experts_train_one_model(tmp_path):
    """Neither hangs, and the weights are those of plain torch; saved, and loaded again, half-way."""
    printed = launching.train(tmp_path, processes=2, module="tests.runtime.experts")
    (apart,) = [line for line in printed.splitlines() if line.startswith("apart")]
    assert float(apart.split()[1]) < 2e-4  # the rates move weights by up to 100 times that
