"""Shares that change over a stage: how much of each source in all, and where in the stage each of its samples stands.

The stage is the interval [0, 1] of the amount trained. A source whose share goes from p0 to p1 has the density

    p(t) = p0 + (p1 - p0) * f(t)        f(t) = t (linear) or (1 - cos(pi t)) / 2 (cosine)

so that its part over the whole stage is (p0 + p1) / 2 with either f, and of its own amount the part

    F(t) = (p0 t + (p1 - p0) * G(t)) / ((p0 + p1) / 2)        G(t) = t^2 / 2 or t / 2 - sin(pi t) / (2 pi)

is trained by t. A sample before which the part q of its source's amount has been taken stands at F^-1(q). Sources merged by
that position then have, over every window of the stage, their scheduled shares to within one sample each: of a source with
the amount A and samples of at most u, a window [a, b) gets A (F(b) - F(a)) up to u + A * 2 * GRID_ERROR.

F is a table of KNOTS + 1 integers with straight lines between, so nothing depends on a machine's sine or its floating
point. Positions and parts are integers in units of 2^-62.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal

import numpy as np
import numpy.typing as npt

from mixc.sorting import scaled_quotient

U64 = npt.NDArray[np.uint64]
Kind = Literal["linear", "cosine"]

BITS = 62
"""A whole stage, and a whole source, are 2^62."""
KNOT_BITS = 12
KNOTS = 1 << KNOT_BITS
"""Intervals of the table."""
GRID_ERROR = Fraction(3, 10**8)
"""What the straight lines are off at most: max |F''| / (8 KNOTS^2). |F''| = |p1 - p0| |f'| / ((p0 + p1) / 2) is at most
2 pi / 2 (cosine), which gives 2.35e-8."""

_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459")
"""To 62 places (OEIS A000796)."""
_FIXED = 128
"""Bits after the point of the sines, which are good to 2^-120; the table needs 2^-62."""


def total_shares(start: Mapping[str, Fraction], end: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """Shares over the whole stage, by name: the integral of p, which is the mean with either schedule."""
    if start.keys() != end.keys():
        raise ValueError("other names at the end than at the start")
    return {name: (share + end[name]) / 2 for name, share in start.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Ramp:
    """F of one source."""

    knots: U64
    """uint64 [KNOTS + 1], in 2^-62: F at k / KNOTS, rounded to nearest, halves up. From 0 to 2^62, increasing."""

    @classmethod
    def of(cls, start: Fraction, end: Fraction, kind: Kind) -> Ramp:
        """For a share from `start` to `end`; only their ratio counts. ValueError if one is negative or both are 0."""
        if start < 0 or end < 0 or start + end == 0:
            raise ValueError("shares must not be negative, and one of the two must be positive")
        scale = (start + end) / 2
        flat, turn = start / scale, (end - start) / scale
        integral = _sine_integral() if kind == "cosine" else _linear_integral()
        knots = [
            floor((flat * Fraction(k, KNOTS) + turn * g) * 2**BITS + Fraction(1, 2)) for k, g in enumerate(integral)
        ]
        return cls(np.array(knots, np.uint64))

    def position(self, part: U64) -> U64:
        """Where samples stand: uint64 [N] in 2^-62 of the stage, for `part` uint64 [N] in 2^-62 of the source, the part
        taken before each, at most 2^62.

        F^-1, rounded down; never decreasing, 0 at 0 and 2^62 at 2^62. With equal shares at both ends it is `part`.
        """
        if len(part) and int(part.max()) > 1 << BITS:
            raise ValueError("a part is beyond its whole")
        knot = np.searchsorted(self.knots, part, side="right") - 1
        last = knot == KNOTS
        knot = np.minimum(knot, KNOTS - 1)
        low = self.knots[knot]
        quotient = scaled_quotient(part - low, self.knots[knot + 1] - low, BITS - KNOT_BITS)
        found = (knot.astype(np.uint64) << np.uint64(BITS - KNOT_BITS)) + quotient
        return np.where(last, np.uint64(1 << BITS), found)


@functools.cache
def _linear_integral() -> tuple[Fraction, ...]:
    """t^2 / 2 at the knots."""
    return tuple(Fraction(k * k, 2 * KNOTS * KNOTS) for k in range(KNOTS + 1))


@functools.cache
def _sine_integral() -> tuple[Fraction, ...]:
    """t / 2 - sin(pi t) / (2 pi) at the knots, to 2^-120."""
    half = [_sine(Fraction(k, KNOTS)) for k in range(KNOTS // 2 + 1)]
    sines = half + half[-2::-1]  # sin(pi - x) = sin(x)
    return tuple(Fraction(k, 2 * KNOTS) - sine / (2 * _PI) for k, sine in enumerate(sines))


def _sine(turn: Fraction) -> Fraction:
    """sin(pi turn) for turn in [0, 1/2], by its series in fixed point."""
    x = floor(_PI * turn * 2**_FIXED)
    square = x * x >> _FIXED
    total = term = x
    order, sign = 1, -1
    while term:
        term = (term * square >> _FIXED) // ((order + 1) * (order + 2))
        total += sign * term
        order, sign = order + 2, -sign
    return Fraction(total, 2**_FIXED)
