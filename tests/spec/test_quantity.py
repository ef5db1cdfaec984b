"""Quantities are exact, and what cannot be meant is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.errors import SpecError
from mixc.spec.quantity import (
    BUDGET_UNITS,
    LARGEST,
    Budget,
    as_written,
    format_held_out,
    format_warmup,
    parse_budget,
    parse_count,
    parse_held_out,
    parse_warmup,
)


@pytest.mark.parametrize(
    ("written", "amount", "unit"),
    [
        ("4B tokens", 4_000_000_000, "tokens"),
        ("16M samples", 16_000_000, "samples"),
        ("2 epochs", 2, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("0.5 epochs", Fraction(1, 2), "epochs"),
        ("1.10epochs", Fraction(11, 10), "epochs"),
        ("10k images", 10_000, "images"),
        ("10K images", 10_000, "images"),
        ("1 image", 1, "images"),
        ("2T supervised_tokens", 2 * 10**12, "supervised_tokens"),
        ("2 T  supervised tokens", 2 * 10**12, "supervised_tokens"),
        ("4_000_000 tokens", 4_000_000, "tokens"),
        ("0.3B", 300_000_000, "samples"),
        ("1.000000001B", 1_000_000_001, "samples"),
        ("  7 ", 7, "samples"),
        (12, 12, "samples"),
        (LARGEST, LARGEST, "samples"),
    ],
)
def test_budget(written: str | int, amount: int | Fraction, unit: str) -> None:
    budget = parse_budget(written, "samples")
    assert (budget.amount, budget.unit) == (amount, unit)
    assert type(budget.amount) is type(amount)


@pytest.mark.parametrize(
    ("written", "message", "mend"),
    [
        ("4b tokens", "no known suffix `b`", "B 10^9"),
        ("4m tokens", "no known suffix `m`", "M 10^6"),
        ("4Q tokens", "no known suffix `Q`", "k is 10^3"),
        ("4 tokns", "no known unit", "did you mean `tokens`?"),
        ("4 apples", "no known unit", "units are tokens"),
        ("tokens", "not a budget", "`4B tokens`"),
        ("", "not a budget", "`2 epochs`"),
        ("1e9 tokens", "not a budget", ""),
        ("1e9", "not a budget", "`4B tokens`"),
        ("1,000 tokens", "not a budget", ""),
        ("1__0 tokens", "not a budget", ""),
        ("5% tokens", "not a budget", ""),
        ("5%", "no known unit", ""),
        ("0 tokens", "must be above 0", ""),
        (0, "must be above 0", ""),
        (-3, "must be above 0", ""),
        ("-3 tokens", "must be above 0", ""),
        ("1.5 samples", "not a whole number of samples", ""),
        ("1.0000000001B tokens", "not a whole number of tokens", ""),
        ("99999999999T tokens", "beyond 2^63", ""),
        (LARGEST + 1, "beyond 2^63", ""),
        ("99999999999T epochs", "beyond 2^63", ""),
        ("9" * 10_000, "not a budget", ""),
        ("٣ tokens", "not a budget", ""),
        ("nan tokens", "not a budget", ""),
        ("inf tokens", "not a budget", ""),
    ],
)
def test_bad_budget(written: str | int, message: str, mend: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_budget(written, "tokens")
    assert message in caught.value.what
    assert mend in caught.value.mend
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("written", "count"), [("10k", 10_000), ("1", 1), (5, 5), ("2.5k samples", 2500), ("1 sample", 1)]
)
def test_count(written: str | int, count: int) -> None:
    assert parse_count(written) == count


@pytest.mark.parametrize("written", ["10 tokens", "0", 0, "-1", "1.5", "10%", "many", ""])
def test_bad_count(written: str | int) -> None:
    with pytest.raises(SpecError):
        parse_count(written)


@pytest.mark.parametrize(
    ("written", "warmup"),
    [
        ("3%", Fraction(3, 100)),
        ("2.5 %", Fraction(1, 40)),
        ("0%", Fraction(0)),
        ("100%", Fraction(1)),
        ("2k steps", 2000),
        ("1 step", 1),
        ("0", 0),
        (100, 100),
    ],
)
def test_warmup(written: str | int, warmup: int | Fraction) -> None:
    parsed = parse_warmup(written)
    assert parsed == warmup
    assert type(parsed) is type(warmup)
    again = parse_warmup(format_warmup(parsed))
    assert again == parsed
    assert type(again) is type(parsed)


@pytest.mark.parametrize(
    ("written", "message", "mend"),
    [
        ("120%", "longer than its stage", "at most 100%"),
        ("-3%", "at least 0", ""),
        (-3, "at least 0", ""),
        ("0.03", "0.03 steps", "3%"),
        ("1.5 steps", "not a whole number", ""),
        ("3 epochs", "counts steps", "3%"),
        ("3% steps", "not a warm-up", ""),
        ("some", "not a warm-up", ""),
    ],
)
def test_bad_warmup(written: str | int, message: str, mend: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_warmup(written)
    assert message in caught.value.what
    assert mend in caught.value.mend


@given(st.integers(1, LARGEST), st.sampled_from([u for u in BUDGET_UNITS if u != "epochs"]))
def test_whole_budgets_round_trip(amount: int, unit: str) -> None:
    budget = Budget(amount, unit)  # type: ignore[arg-type]
    assert parse_budget(str(budget), "tokens") == budget
    assert parse_budget(f"{amount:_} {unit}", "tokens") == budget


@given(st.integers(1, 10**9), st.integers(0, 9))
def test_epochs_round_trip(digits: int, places: int) -> None:
    amount = Fraction(digits, 10**places)
    parsed = parse_budget(f"{digits // 10**places}.{digits % 10**places:0{max(places, 1)}} epochs", "tokens")
    if places:
        assert parsed.amount == amount
    assert parse_budget(str(parsed), "tokens") == parsed


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from([("k", 3), ("M", 6), ("B", 9), ("T", 12)]))
def test_suffixes_are_exact(whole: int, thousandths: int, suffix: tuple[str, int]) -> None:
    letter, power = suffix
    exact = (whole * 1000 + thousandths) * 10 ** (power - 3)
    if exact:
        assert parse_budget(f"{whole}.{thousandths:03}{letter} tokens", "samples").amount == exact


@given(st.text(max_size=30) | st.integers())
def test_any_text_is_a_quantity_or_refused(value: str | int) -> None:
    for read in (lambda v: parse_budget(v, "tokens"), parse_count, parse_warmup):
        try:
            read(value)
        except SpecError as error:
            assert error.what


@pytest.mark.parametrize(
    ("written", "amount", "form"),
    [
        ("500 samples", 500, "500 samples"),
        ("1 sample", 1, "1 samples"),
        ("10k samples", 10_000, "10000 samples"),
        ("1%", Fraction(1, 100), "1%"),
        ("0.50 %", Fraction(1, 200), "0.5%"),
        ("99.9%", Fraction(999, 1000), "99.9%"),
    ],
)
def test_held_out(written: str, amount: int | Fraction, form: str) -> None:
    found = parse_held_out(written)
    assert (found, type(found)) == (amount, type(amount))
    assert format_held_out(found) == form
    assert parse_held_out(form) == found


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("0%", "above 0% and below 100%"),
        ("100%", "above 0% and below 100%"),
        ("-1%", "above 0% and below 100%"),
        ("500", "in samples or a percentage"),
        ("500 tokens", "in samples or a percentage"),
        ("0 samples", "at least 1 sample"),
        ("-5 samples", "at least 1 sample"),
        ("0.5 samples", "not a whole number of samples"),
        ("1e3 samples", "not an amount to hold out"),
        ("half", "not an amount to hold out"),
        ("", "not an amount to hold out"),
        ("99999999999999999999 samples", "beyond 2^63"),
    ],
)
def test_bad_held_out(written: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_held_out(written)
    assert message in caught.value.what


@given(st.one_of(st.integers(1, LARGEST), st.integers(1, 10**6 - 1).map(lambda n: Fraction(n, 10**6))))
def test_held_out_can_be_read_back(amount: int | Fraction) -> None:
    assert parse_held_out(format_held_out(amount)) == amount


@given(st.decimals(0, 1000, places=6))
def test_numbers_are_as_written(number: object) -> None:
    assert as_written(float(str(number))) == Fraction(str(number))
