"""Sizes and ages, written and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.cache.sizes import parse_age, parse_size, show_age, show_size
from mixc.errors import MixcError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200GB", 200 * 10**9),
        ("1.5TB", 1_500_000_000_000),
        ("64 GiB", 64 << 30),
        ("64gib", 64 << 30),
        (" 10k ", 10_000),
        ("1_000MB", 10**9),
        ("12B", 12),
        ("0", 0),
        ("0.5KiB", 512),
        ("0.1B", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "x") == size


@pytest.mark.parametrize(
    "text", ["200", "", "GB", "-1GB", "1e9B", "1,5GB", "1 GB 2", "1XB", "1GBs", "\0GB", "9" * 200 + "B"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(MixcError, match="is not a size") as error:
        parse_size(text, "MIXC_CACHE_LIMIT")
    assert error.value.where == "MIXC_CACHE_LIMIT" and "200GB" in error.value.mend
    assert str(error.value).isprintable() or "\n" in str(error.value)


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43_200), ("30d", 2_592_000), ("1.5 w", 907_200)])
def test_ages(text: str, seconds: int) -> None:
    assert parse_age(text, "x") == seconds


@pytest.mark.parametrize("text", ["30", "30D", "5m", "d", "-1d"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(MixcError, match="is not an age"):
        parse_age(text, "--older-than")


@given(st.integers(0, 10**18))
def test_a_size_that_is_shown_is_read_back_within_half_a_percent(size: int) -> None:
    shown = show_size(size)
    assert abs(parse_size(shown, "x") - size) <= max(size * 0.005, 0)
    assert len(shown) <= 8 or size > 10**18


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (12_345_678_901, "12.3 GB"),
    ],
)
def test_shown(size: int, text: str) -> None:
    assert show_size(size) == text


def test_ages_shown() -> None:
    assert [show_age(s) for s in (-5, 30, 180, 7_200, 3 * 86_400)] == ["now", "now", "3 min ago", "2 h ago", "3 d ago"]
