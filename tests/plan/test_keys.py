from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixc.plan import keys

U64 = st.integers(0, 2**64 - 1)

GOLDEN_KEYS = [
    keys.Key(0x60DB41FFFF04FB94, 0x5567218B5E69F466),
    keys.Key(0xD5293EE5C85CD5BB, 0x8DA9E8317ED30845),
]
GOLDEN_VALUES = [11168217767652795595, 17042689446638725187, 10988066828515829451]
GOLDEN_DUPLICATE = "354b93190a8f995051cca6bcde321625"


def reference_mix64(z: int) -> int:
    mask = 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_splitmix_is_the_published_one() -> None:
    """The first outputs of SplitMix64 with seed 1234567, a common test vector."""
    state = (1234567 + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert keys.mix64(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_golden_values() -> None:
    """These are part of the build format: a change here changes every build."""
    assert keys.make_key(20250110, "select", "sft-knowledge", 0) == GOLDEN_KEYS[0]
    assert keys.make_key(20250110, "order", "sft-knowledge", 3) == GOLDEN_KEYS[1]
    ids = bytes(range(16)) + bytes(16) + b"\xff" * 16
    assert keys.key64(GOLDEN_KEYS[0], *keys.split_ids(ids)).tolist() == GOLDEN_VALUES
    assert keys.duplicate_id(bytes(range(16)), 1).hex() == GOLDEN_DUPLICATE


@given(hi=U64, lo=U64, id_hi=U64, id_lo=U64)
def test_key_is_what_its_docstring_says(hi: int, lo: int, id_hi: int, id_lo: int) -> None:
    expected = reference_mix64(reference_mix64(id_hi ^ hi) ^ id_lo ^ lo)
    halves = np.array([id_hi], np.uint64), np.array([id_lo], np.uint64)
    assert keys.key64(keys.Key(hi, lo), *halves).tolist() == [expected]


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_halves_sort_as_ids_and_join_again(ids: list[bytes]) -> None:
    hi, lo = keys.split_ids(b"".join(ids))
    assert keys.join_ids(hi, lo) == b"".join(ids)
    halves = list(zip(hi.tolist(), lo.tolist(), strict=True))
    assert [halves.index(h) for h in sorted(halves)] == [ids.index(i) for i in sorted(ids)]


def test_every_part_matters() -> None:
    parts = [(1, "select", "a", 0), (2, "select", "a", 0), (1, "order", "a", 0), (1, "select", "b", 0)]
    parts += [(1, "select", "a", 1), (1, "selecta", "", 0), (1, "", "selecta", 0)]
    assert len({keys.make_key(*p) for p in parts}) == len(parts)


def test_keys_are_spread_evenly() -> None:
    """Chi-squared over 256 buckets of the top and of the low byte; sequential ids are the worst case."""
    n = 1 << 18
    values = keys.key64(keys.make_key(1, "p", "s", 0), np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64))
    for byte in (values >> np.uint64(56), values & np.uint64(255)):
        counts = np.bincount(byte.astype(np.int64), minlength=256)
        chi = ((counts - n / 256) ** 2 / (n / 256)).sum()
        assert 150 < chi < 380, chi  # 255 degrees of freedom: mean 255, standard deviation 22.6


def test_epochs_are_independent() -> None:
    n = 4096
    lo = np.arange(n, dtype=np.uint64)
    ranks = [np.argsort(np.argsort(keys.key64(keys.make_key(1, "order", "s", epoch), lo * 0, lo))) for epoch in (0, 1)]
    assert abs(np.corrcoef(*ranks)[0, 1]) < 0.06  # 4 standard deviations are 4 / sqrt(4096) = 0.0625
