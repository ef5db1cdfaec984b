"""Loss spikes: which steps are outliers among those before.

The rule is OLMo's skip-step optimizer's: a step whose loss is more than some standard deviations above the mean of the last ones. It is
known before the update, which is then left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from shards.manifest import SpikeSettings


def outlier(loss: float, before: Sequence[float], settings: SpikeSettings) -> bool:
    """Whether `loss` is one. Never before half a window of steps is known. A loss that is not finite is none: such a step changes
    nothing anyway."""
    if len(before) < max(2, settings.window // 2) or not math.isfinite(loss):
        return False
    return loss > statistics.fmean(before) + settings.sigma * statistics.stdev(before)


def remember(loss: float, before: Sequence[float], settings: SpikeSettings) -> list[float]:
    """`before` and `loss`, no more than a window. What is not finite is forgotten."""
    return [*before, *([loss] if math.isfinite(loss) else [])][-settings.window :]
