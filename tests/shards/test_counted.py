from __future__ import annotations

import pytest

from shards.counted import counted


def test_a_noun_that_ends_in_s_takes_es() -> None:
    assert (counted(1, "process"), counted(2, "process")) == ("1 process", "2 processes")


@pytest.mark.parametrize(("number", "text"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (12345, "12,345 steps")])
def test_a_noun_goes_with_its_number(number: int, text: str) -> None:
    assert counted(number, "step") == text
