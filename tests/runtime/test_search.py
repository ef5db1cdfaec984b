"""AdaLRS as a state machine over losses."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.search import Act, SearchState, advance, line
from shards.manifest import SearchSettings

SETTINGS = SearchSettings(window=10, up=1.5, down=1.43, decay=1.0, start=0, end=1000)


def play(losses: list[float], settings: SearchSettings = SETTINGS) -> tuple[list[tuple[int, Act]], SearchState]:
    state, acts = SearchState(), []
    for step, loss in enumerate(losses, 1):
        state, act = advance(state, loss, step, settings)
        if act is not Act.NOTHING:
            acts.append((step, act))
    return acts, state


def descent(slopes: list[float], start: float = 10.0, window: int = 10, noise: float = 0.0) -> list[float]:
    random, losses, at = np.random.default_rng(0), [], start
    for slope in slopes:
        for _ in range(window):
            at += slope
            losses.append(at + noise * random.standard_normal())
    return losses


def test_the_line_is_numpys() -> None:
    values = np.random.default_rng(1).random(20)
    (slope, _), covariance = np.polyfit(np.arange(20), values, 1, cov=True)
    found, error = line(values.tolist())
    assert found == pytest.approx(slope)
    assert error == pytest.approx(math.sqrt(covariance[0, 0]))


def test_a_steady_descent_is_left_alone() -> None:
    acts, state = play(descent([-0.01, -0.02, -0.03, -0.04]))
    assert acts == [] and state.factor == 1.0


def test_a_slower_descent_begins_a_trial_which_is_kept_while_it_is_better() -> None:
    acts, state = play(descent([-0.02, -0.01, -0.03, -0.05, -0.05]))
    assert acts == [(20, Act.KEEP), (30, Act.KEEP), (40, Act.KEEP)]
    assert state.trials == 3 and state.before is None
    assert state.factor == pytest.approx(1.5**2)  # the third trial was neither better nor worse


def test_a_worse_trial_is_undone_and_the_rate_falls() -> None:
    acts, state = play(descent([-0.02, -0.01, 0.005]))
    assert acts == [(20, Act.KEEP), (30, Act.UNDO)]
    assert state.factor == pytest.approx(1 / 1.43) and state.kept is None


def test_a_loss_above_all_before_ends_a_trial_at_once() -> None:
    acts, state = play([*descent([-0.02, -0.01]), 9.0, 11.0])
    assert acts == [(20, Act.KEEP), (22, Act.UNDO)]
    assert state.factor == pytest.approx(1 / 1.43) and state.losses == []


def test_a_trial_within_the_error_changes_nothing() -> None:
    zigzag = [0.05 * (-1) ** i for i in range(40)]
    losses = [a + b for a, b in zip(descent([-0.02, -0.019, -0.0195, -0.0195]), zigzag, strict=True)]
    acts, state = play(losses)
    assert acts == [(20, Act.KEEP)]
    assert state.factor == 1.0 and state.trials == 1


def test_two_rises_in_a_row_lower_the_rate() -> None:
    acts, state = play(descent([0.02, 0.01]))
    assert acts == [] and state.factor == pytest.approx(1 / 1.43)


def test_factors_come_nearer_to_one() -> None:
    settings = msgspec.structs.replace(SETTINGS, decay=0.9)
    _, state = play(descent([-0.02, -0.01, -0.03, -0.05, -0.02]), settings)
    # kept: 1.5, then 1.35; the third, 1.215, was undone, with 1.43 * 0.9^3 as the divisor
    assert state.factor == pytest.approx(1.5 * 1.35 / max(1.43 * 0.9**3, 1))


def test_nothing_happens_outside_and_a_trial_cut_short_has_no_effect() -> None:
    settings = msgspec.structs.replace(SETTINGS, start=5, end=30)
    acts, state = play([*[99.0] * 5, *descent([-0.02, -0.01, -0.03, -0.05])], settings)
    assert acts == [(25, Act.KEEP)]
    assert state.factor == 1.0 and state.before is None and state.highest < 99


def test_what_is_not_finite_is_not_counted() -> None:
    losses = descent([-0.02, -0.01])
    acts, _ = play([*losses[:15], math.nan, math.inf, *losses[15:]])
    assert acts == [(22, Act.KEEP)]


@given(losses=st.lists(st.floats(0, 20), max_size=120))
def test_a_state_survives_a_checkpoint_and_undoing_needs_a_copy(losses: list[float]) -> None:
    state, kept = SearchState(), None
    for step, loss in enumerate(losses, 1):
        state, act = advance(state, loss, step, SETTINGS)
        state = msgspec.json.decode(msgspec.json.encode(state), type=SearchState)
        if act is Act.KEEP:
            kept = step
            assert state.kept == step
        if act is Act.UNDO:
            assert kept is not None
        assert state.factor > 0 and (state.before is None) == (state.kept is None)
