"""Total orders over many rows, the same on every machine.

NumPy's fast sort of 64-bit numbers (AVX-512 or AVX2 where there is one) leaves the order of equal numbers open. So it is
used for the first key alone, and rows that it found equal are ordered by the next key, and so on: keys of random bits
cost one pass, and no tie is left to the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.integer]


def total_order(keys: Sequence[Keys]) -> Int:
    """The order int64 [N] that sorts rows by `keys` [N] each, the first the most significant, ascending; rows equal in
    all of them stand as they came."""
    order = np.argsort(keys[0]).astype(np.int64, copy=False)
    ordered = keys[0][order]
    same = ordered[1:] == ordered[:-1]
    del ordered
    if not same.any():
        return order
    run = np.zeros(len(order), bool)  # in a run of equal rows
    run[1:] = same
    run[:-1] |= same
    places = np.flatnonzero(run)
    number = np.concatenate([[0], np.cumsum(~same[places[1:] - 1])])  # which run a row is in
    rows = order[places]
    by = [rows, *(key[rows] for key in reversed(keys[1:])), number]
    order[places] = rows[np.lexsort(by)]
    return order


def equal_runs(*ordered: Keys) -> tuple[Int, Int]:
    """Runs of at least two equal rows in sorted arrays [N]: their starts and ends (exclusive), int64 [R] each."""
    same = np.ones(max(0, len(ordered[0]) - 1), bool)
    for key in ordered:
        same &= key[1:] == key[:-1]
    edges = np.diff(np.concatenate([[False], same, [False]]).astype(np.int8))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1


def ranges(starts: Int, lengths: Int) -> Int:
    """The numbers of the ranges [start, start + length), one range after another, int64 [sum of lengths]."""
    return np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


def scaled_quotient(numerator: U64, denominator: int | U64, bits: int) -> U64:
    """floor(numerator * 2^bits / denominator), uint64 [N], exactly, for one denominator or one a row. `numerator` at most
    `denominator` < 2^63, `bits` at most 63; a row with more of a numerator gives no number that means anything.

    Long division, as many bits at a time as a product with the remainder leaves room for in 64.
    """
    least, most = (int(np.min(denominator, initial=1)), int(np.max(denominator, initial=1)))
    if not 0 < least <= most < 1 << 63:
        raise ValueError("the denominator must be positive and below 2^63")
    divisor = np.asarray(denominator, np.uint64)
    step = 64 - most.bit_length()
    quotient, rest = np.divmod(numerator, divisor)
    while bits:
        shift = np.uint64(min(step, bits))
        part, rest = np.divmod(rest << shift, divisor)
        quotient = (quotient << shift) | part
        bits -= int(shift)
    return quotient
