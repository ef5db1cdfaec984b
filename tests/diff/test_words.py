"""Every key of the spec has words, so that no edit goes untold."""

from __future__ import annotations

import msgspec
import pytest

from mixc.diff import words
from mixc.spec.schema import MixEntry, Source, Spec, Stage, Train

TOLD_APART = {
    Source: {"evidence"},
    Stage: {"name", "mix", "train", "evidence"},
    MixEntry: set(),
    Train: {"lr"},
}
"""Keys that are no sentence of their own, or say nothing."""
SPEC = {
    *(
        "mixture",
        "seed",
        "model",
        "sources",
        "stages",
        "tokenizer",
        "tiles",
        "groups",
        "signals",
        "dedup",
        "decontaminate",
    ),
    *("held_out", "continue_from", "max_reject_rate", "extends", "evidence"),
}


@pytest.mark.parametrize(
    ("struct", "known"),
    [(Source, words.SOURCE), (Stage, words.STAGE), (MixEntry, words.MIX), (Train, words.TRAIN)],
)
def test_every_key_has_words(struct: type[msgspec.Struct], known: dict[str, str]) -> None:
    assert set(struct.__struct_fields__) == known.keys() | TOLD_APART[struct]


def test_every_key_of_a_spec_is_compared() -> None:
    assert set(Spec.__struct_fields__) == SPEC
