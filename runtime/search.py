"""AdaLRS: a learning rate found while training, by the slope of the loss (arXiv:2506.13274; SAIL-VL2's basic stage, arXiv:2509.14033,
section 3.2.3).

A stage's search is over windows of k steps, in a part of the stage (10 % to 40 % of it unless the spec says otherwise). After each
window the slope of its loss is a least-squares line's, and its error that line's standard error.

* Where the descent has become slower than in the window before, the next window is a trial, with the rates times alpha'.
* A trial whose slope is better than the last one's by more than twice the error is kept, and the next window is a trial again.
* One that is worse by more than twice the error, or whose loss rises above the highest before it, is undone: weights and optimizer are
  set back to before it, and the rates go on divided by beta'.
* Any other trial is over without an effect: the rates are those from before it.
* Where the loss has risen in two windows in a row, the rates are divided by beta'.

alpha' = max(lambda^t alpha, 1) and beta' = max(lambda^t beta, 1), t the number of trials so far. After the search the stage's own schedule
goes on from what was found. k and the slope's error are not published; the window is the spec's, the error the line's own. What a trial
that is neither better nor worse leaves, and that data is not played again after a trial was undone, are readings of ours.

All of it is a pure function of the losses: `advance` takes the state and a loss, and says what to do. The state travels in checkpoints.
"""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from shards.manifest import SearchSettings


class Act(Enum):
    """What to do after a step."""

    NOTHING = "nothing"
    KEEP = "keep"
    """Keep a copy of weights and optimizer: a trial begins."""
    UNDO = "undo"
    """Go back to that copy."""


class SearchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a search is."""

    factor: float = 1.0
    """Of all rates."""
    losses: list[float] = []
    """Of the window so far."""
    slope: float | None = None
    """Of the last window that counts."""
    trials: int = 0
    before: float | None = None
    """In a trial, the factor before it."""
    highest: float = -math.inf
    rises: int = 0
    """Windows in a row in which the loss rose."""
    kept: int | None = None
    """In a trial, the step that the copy is of."""


def advance(state: SearchState, loss: float, step: int, settings: SearchSettings) -> tuple[SearchState, Act]:
    """The state after a step's `loss`, and what to do before the next one. `step` is the number of steps done. A loss that is not
    finite is not counted."""
    if not settings.start <= step - 1 < settings.end:
        return _leave(state, step, settings)
    if not math.isfinite(loss):
        return state, Act.NOTHING
    if state.before is not None and loss > state.highest:
        return _undone(state, settings), Act.UNDO
    losses = [*state.losses, loss]
    highest = state.highest if state.before is not None else max(state.highest, loss)
    state = msgspec.structs.replace(state, losses=losses, highest=highest)
    if len(losses) < settings.window:
        return state, Act.NOTHING
    return _judge(state, step, settings)


def _leave(state: SearchState, step: int, settings: SearchSettings) -> tuple[SearchState, Act]:
    """Outside of the search. A trial that its end cuts short is over without an effect."""
    if step - 1 >= settings.end and state.before is not None:
        return msgspec.structs.replace(state, factor=state.before, before=None, kept=None, losses=[]), Act.NOTHING
    return state, Act.NOTHING


def _judge(state: SearchState, step: int, settings: SearchSettings) -> tuple[SearchState, Act]:
    """At the end of a window."""
    slope, error = line(state.losses)
    rises = state.rises + 1 if slope > 0 else 0
    last = state.slope
    state = msgspec.structs.replace(state, losses=[], rises=rises)
    if state.before is not None:
        assert last is not None
        if slope > last + 2 * error:
            return _undone(state, settings), Act.UNDO
        if slope < last - 2 * error:
            return _trial(msgspec.structs.replace(state, slope=slope, before=None), step, settings)
        return msgspec.structs.replace(state, factor=state.before, before=None, kept=None, slope=slope), Act.NOTHING
    state = msgspec.structs.replace(state, slope=slope)
    if rises >= 2:
        return msgspec.structs.replace(state, factor=state.factor / _down(state, settings), rises=0), Act.NOTHING
    if last is not None and slope > last:
        return _trial(state, step, settings)
    return state, Act.NOTHING


def _trial(state: SearchState, step: int, settings: SearchSettings) -> tuple[SearchState, Act]:
    up = max(settings.decay**state.trials * settings.up, 1.0)
    if up == 1.0 or step >= settings.end:
        return msgspec.structs.replace(state, kept=None), Act.NOTHING
    trial = msgspec.structs.replace(
        state, before=state.factor, factor=state.factor * up, trials=state.trials + 1, kept=step
    )
    return trial, Act.KEEP


def _undone(state: SearchState, settings: SearchSettings) -> SearchState:
    assert state.before is not None
    factor = state.before / _down(state, settings)
    return msgspec.structs.replace(state, factor=factor, before=None, kept=None, losses=[], rises=0)


def _down(state: SearchState, settings: SearchSettings) -> float:
    return max(settings.decay**state.trials * settings.down, 1.0)


def line(values: list[float]) -> tuple[float, float]:
    """Slope of the least-squares line through `values` at 0, 1, 2, ..., and its standard error. At least three values."""
    n = len(values)
    centre, mean = (n - 1) / 2, math.fsum(values) / n
    spread = math.fsum((i - centre) ** 2 for i in range(n))
    slope = math.fsum((i - centre) * (value - mean) for i, value in enumerate(values)) / spread
    rest = math.fsum((value - mean - slope * (i - centre)) ** 2 for i, value in enumerate(values))
    return slope, math.sqrt(rest / (n - 2) / spread)
