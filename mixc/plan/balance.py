"""How much of each class of a source is taken, when its classes are to be evened out.

What allocate.py does for a stage's few sources, on plain integers: a source may have a million classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor

from mixc.plan.groups import tempered

WEIGHT_BITS = 96
"""Bits of the largest weight; a smaller one keeps its ratio to it to 2^-96."""


def balanced_targets(
    sizes: Mapping[str | None, int], *, total: int, temperature: Fraction | None, max_epochs: Fraction
) -> dict[str | None, int]:
    """Units to take of each value of `balance.by`, of which the source has `sizes` units.

    The ideal of a value of n units is min(w * level, max_epochs * n), with w = n^(1/temperature), or the same for all
    values without a temperature, and the level at which all add up to `total`: what a value cannot give goes to the
    others, in proportion to their w (water-filling, as `renormalise` in allocate.py). Temperature 1 takes of every value
    the same part. Integers by largest remainder, ties to the value whose text sorts first, NULL (None) before all. They
    add up to `total`, or to all that max_epochs allows if that is less.
    """
    values = sorted(
        (value for value, size in sizes.items() if size), key=lambda value: (value is not None, value or "")
    )
    units = [sizes[value] for value in values]
    return dict.fromkeys(sizes, 0) | dict(
        zip(values, _filled(units, _weights(units, temperature), total, max_epochs), strict=True)
    )


def _weights(sizes: Sequence[int], temperature: Fraction | None) -> list[int]:
    """Positive integers in the ratio of sizes^(1/temperature)."""
    if temperature is None:
        return [1] * len(sizes)
    if temperature == 1 or not sizes:
        return list(sizes)
    roots = tempered({str(size): Fraction(size) for size in set(sizes)}, temperature)
    unit = Fraction(1 << WEIGHT_BITS) / max(roots.values())
    scaled = {int(size): max(1, floor(root * unit)) for size, root in roots.items()}
    return [scaled[size] for size in sizes]


def _filled(sizes: Sequence[int], weights: Sequence[int], total: int, max_epochs: Fraction) -> list[int]:
    """min(weight * level, max_epochs * size) in whole units, by largest remainder, ties to the first.

    Amounts are counted in 1 / max_epochs.denominator, so that caps are whole.
    """
    caps = [max_epochs.numerator * size for size in sizes]
    fine = max_epochs.denominator
    total = min(total, sum(caps) // fine)
    # Values in the order in which a rising level takes them to their caps. Ratios of integers below 2^b that differ, differ
    # by more than 2^-2b: the rounded ones sort as the exact.
    shift = 2 * max(map(int.bit_length, weights), default=0)
    knees = sorted(range(len(sizes)), key=lambda i: ((caps[i] << shift) // weights[i], i))
    left, below = total * fine, sum(weights)
    full = set()
    for i in knees:
        if caps[i] * below >= left * weights[i]:
            break
        left -= caps[i]
        below -= weights[i]
        full.add(i)
    below = below or 1
    # The level is left / below. Parts of a unit are counted in 1 / (fine * below).
    exact = [caps[i] * below if i in full else weights[i] * left for i in range(len(sizes))]
    whole = [amount // (fine * below) for amount in exact]
    spare = total - sum(whole)
    for i in sorted(range(len(sizes)), key=lambda i: (-(exact[i] % (fine * below)), i))[:spare]:
        whole[i] += 1
    return whole
