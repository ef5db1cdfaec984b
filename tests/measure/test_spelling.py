"""The bytes of tokens are the text that was tokenised, and end where the tokens do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.measure.spelling import BREAK, Spelling, spelling
from mixc.measure.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def table(tokenizer: Tokenizer) -> Spelling:
    found = spelling(tokenizer)
    assert found is not None
    return found


@given(text=st.text(max_size=200))
def test_text_is_spelled_again(tokenizer: Tokenizer, table: Spelling, text: str) -> None:
    ids, _ = tokenizer.encode_reference([text])
    data, ends = table.spell(ids.astype(np.int32))
    assert data.decode() == tokenizer.normalised(text)
    assert len(ends) == len(ids) and (not len(ids) or ends[-1] == len(data))
    for k in range(len(ids)):
        assert table.spell(ids[k : k + 1].astype(np.int32))[0] == data[ends[k - 1] if k else 0 : ends[k]]


def test_control_tokens_are_spelled_as_asked(tokenizer: Tokenizer, table: Spelling) -> None:
    ids = np.array([tokenizer.special("<|im_start|>"), *tokenizer.encode_reference(["a"])[0]], np.int32)
    breaks = spelling(tokenizer, lambda _: BREAK)
    assert breaks is not None
    assert table.spell(ids)[0] == b"<|im_start|>a" and breaks.spell(ids)[0] == BREAK + b"a"


def test_tokens_that_nobody_knows_have_no_bytes() -> None:
    table = Spelling.of({0: b"ab", 2: b"c"})
    data, ends = table.spell(np.array([2, 1, 0, 3, 10**6, 2], np.int32))
    assert data == b"cabc" and ends.tolist() == [1, 1, 3, 3, 3, 4]
    assert table.spell(np.zeros(0, np.int32))[0] == b""
