"""Learning rates are a pure function of the step."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.schedule import factor, learning_rates
from tests.runtime.small import SETTINGS


def settings(schedule: str, warmup: int, least: float = 0.0, decay: int = 0):
    return msgspec.structs.replace(
        SETTINGS, schedule=schedule, warmup_steps=warmup, min_lr_ratio=least, decay_steps=decay
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (settings("constant", 0), [1, 1, 1, 1, 1]),
        (settings("constant", 3), [1 / 3, 2 / 3, 1, 1, 1]),
        (settings("linear", 0), [1, 0.75, 0.5, 0.25, 0]),
        (settings("linear", 2, 0.1), [0.5, 1, 0.7, 0.4, 0.1]),
        (settings("cosine", 0), [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]),
        (settings("cosine", 1, 0.5), [1, 0.75 + math.sqrt(0.125) / 2, 0.75, 0.75 - math.sqrt(0.125) / 2, 0.5]),
        (settings("cosine", 5), [0.2, 0.4, 0.6, 0.8, 1]),
        (settings("wsd", 0, 0.1, 3), [1, 1, 0.7, 0.4, 0.1]),
        (settings("wsd", 2, 0, 2), [0.5, 1, 1, 0.5, 0]),
        (settings("wsd", 0, 0, 0), [1, 1, 1, 1, 1]),
        (settings("wsd", 3, 0, 9), [1 / 3, 2 / 3, 1, 0.5, 0]),  # no decay before the warm-up has ended
        (settings("wsd", 5, 0, 2), [0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_golden(made, expected):
    assert [factor(step, 5, made) for step in range(5)] == pytest.approx(expected, abs=1e-15)


@given(
    schedule=st.sampled_from(["constant", "cosine", "linear", "wsd"]),
    steps=st.integers(1, 1000),
    warmup=st.integers(0, 1000),
    least=st.floats(0, 1),
    decay=st.integers(1, 1000),
)
def test_rises_to_the_peak_then_falls_to_the_least(schedule, steps, warmup, least, decay):
    made = settings(schedule, min(warmup, steps), least, decay)
    factors = [factor(step, steps, made) for step in range(steps)]
    assert max(factors) == 1
    top = factors.index(1)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    fall = factors[max(top, made.warmup_steps - 1) :]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(fall))
    if schedule != "constant" and steps > max(made.warmup_steps, 1):
        assert factors[-1] == least


def test_each_module_has_its_own_rate():
    made = settings("linear", 0)
    assert learning_rates(2, 5, made) == {"language": 2.5e-3, "projector": 1e-3, "vision": 5e-4}


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_stage_is_an_error(step):
    with pytest.raises(ValueError, match="not in a stage of 5"):
        factor(step, 5, SETTINGS)
